"""The bench as one story: start everything, measure value and floor in turns, print the table."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import httpx

from bench import servers
from bench.client import BODY, podman_run_ms, put, say
from bench.cold import cold_burst, cold_start
from bench.custom import custom
from bench.dependencies import layer_reuse
from bench.isolation import fork_isolation
from bench.memory import idle_memory, sandbox_memory
from bench.overload import overload
from bench.rows import Row, median_of, show
from bench.seats import seats_1000
from bench.warm import ROUNDS, SECONDS, warm
from bench.wasm import wasm


def main() -> int:
    """Run it all; the exit status is 1 when a bound is not met."""
    with (
        servers.hearth() as platform,
        servers.bare_starlette() as (floor_url, floor_pid),
        servers.nginx(BODY) as nginx_url,
    ):
        os.environ["CONTAINERS_CONF"] = str(platform.data_dir / "containers.conf")
        say(f"measuring on {os.cpu_count()} cores, {ROUNDS} rounds of {SECONDS} s")
        with platform.client() as client:
            idle = idle_memory(platform.data_dir, floor_pid)
            rows, ceiling = warm(client, platform, floor_url, nginx_url)
            cold = cold_start(client, platform)
            rows += cold
            rows.append(cold_burst(client, platform))
            rows.append(fork_isolation(client, platform))
            rows.append(custom(client, platform))
            rows += wasm(client, platform, floor_url, cold[0].value)
            rows += overload(client, platform)
            rows += [sandbox_memory(client, platform), deploy(client), *idle]
            rows.append(layer_reuse(client))
    rows.append(seats_1000())
    show(rows, ceiling)
    return 0 if all(row.is_met for row in rows) else 1


def deploy(client: httpx.Client) -> Row:
    """From the upload of a hello to the first answer of the new version."""
    hello = (Path(__file__).parent.parent / "examples" / "hello-python" / "main.py").read_text()
    values, floors = [], []
    for turn in range(ROUNDS * 2):
        floors.append(podman_run_ms())
        started = time.perf_counter()
        put(client, "bench-hello", f"{hello}\n# {turn}\n")
        answer = client.post("/v1/functions/bench-hello/invocations", content=BODY)
        values.append((time.perf_counter() - started) * 1000)
        if answer.status_code != 200:
            raise SystemExit(f"the deployed function failed: {answer.text}")
        time.sleep(1)
    value, spread = median_of(values)
    floor = median_of(floors)[0]
    return Row("deploy_ms_p50", value, "ms", floor, spread, "< 1500 ms", value < 1500)


if __name__ == "__main__":
    sys.exit(main())
