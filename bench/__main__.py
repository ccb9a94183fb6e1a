"""The bench as one story: start everything, measure value and floor in turns, print the table."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from bench import servers
from bench.load import wrk
from bench.rows import Row, median_of, show
from runtimes.registry import RUNTIMES

ROUNDS = 5
SECONDS = 4
COLD_ROUNDS = 15
BODY = b'{"name":"Ada","n":[1,2,3]}'
ECHO = "def handler(event, context):\n    return event\n"
IMAGE = RUNTIMES["python3.13"].image


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
            rows += [cold_start(client), deploy(client), *idle]
    show(rows, ceiling)
    return 0 if all(row.is_met for row in rows) else 1


def warm(
    client: httpx.Client, platform: servers.Platform, floor_url: str, nginx_url: str
) -> tuple[list[Row], str]:
    """Throughput at 16 connections and the median at one, each beside the bare Starlette echo."""
    put(client, "bench-echo", ECHO, concurrency=64)
    url = f"{platform.url}/v1/functions/bench-echo/invocations"
    expected = client.post(url, content=BODY).content
    bare = httpx.post(floor_url, content=BODY, trust_env=False).content
    samples: dict[str, list[float]] = {name: [] for name in ("rps", "p50", "frps", "fp50", "max")}
    wrk(url, BODY, expected, platform.key, connections=16, seconds=2)  # makes the seats warm
    for turn in range(ROUNDS):
        say(f"warm calls, round {turn + 1} of {ROUNDS}")
        samples["max"].append(wrk(nginx_url, BODY, BODY, "", connections=16, seconds=2).rps)
        for name, target, body, key in (
            ("f", floor_url, bare, ""),
            ("", url, expected, platform.key),
        ):
            shot = wrk(target, BODY, body, key, connections=16, seconds=SECONDS)
            samples[f"{name}rps"].append(shot.rps)
            shot = wrk(target, BODY, body, key, connections=1, seconds=SECONDS)
            samples[f"{name}p50"].append(shot.p50_us)
    rps, rps_spread = median_of(samples["rps"])
    p50, p50_spread = median_of(samples["p50"])
    floor_rps, floor_p50 = median_of(samples["frps"])[0], median_of(samples["fp50"])[0]
    top = median_of(samples["max"])[0]
    ceiling = f"generator's ceiling (nginx): {top:,.0f}/s = {top / floor_rps:.1f} × the floor"
    if top < 1.5 * floor_rps:
        raise SystemExit(f"the load generator itself is the limit: {ceiling}")
    return [
        Row("warm_sync_rps_c16", rps, "1/s", floor_rps, rps_spread, "ratio ≥ 0.5",
            rps / floor_rps >= 0.5),
        Row("warm_sync_p50_us_c1", p50, "µs", floor_p50, p50_spread, "", True),
    ], ceiling  # fmt: skip


def cold_start(client: httpx.Client) -> Row:
    """First call into a version without a seat, beside `podman run --rm` of the same image."""
    put(client, "bench-cold", ECHO, keep_warm_s=0)
    values, floors = [], []
    for turn in range(COLD_ROUNDS):
        floors.append(podman_run_ms())
        time.sleep(1.5)  # the seat of the last call expires and a stem takes its place
        started = time.perf_counter()
        answer = client.post("/v1/functions/bench-cold/invocations", content=BODY)
        values.append((time.perf_counter() - started) * 1000)
        if answer.status_code != 200 or answer.headers["x-cold-start"] != "true":
            raise SystemExit(f"not a cold start: {answer.status_code} {answer.headers}")
        if turn % 5 == 4:
            say(f"cold starts, {turn + 1} of {COLD_ROUNDS}")
    value, spread = median_of(values)
    return Row("cold_start_ms_p50", value, "ms", median_of(floors)[0], spread, "", True)


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


def idle_memory(data_dir: Path, floor_pid: int) -> list[Row]:
    """Resident memory of the platform's processes when nothing runs; its floor is one bare
    Starlette process. Sandboxes are not counted, they have their own budget."""
    time.sleep(3)
    sizes = dict(platform_processes(data_dir))
    ours = sum(mb for name, mb in sizes.items() if name in ("gateway", "builder", "worker"))
    every = sum(sizes.values())
    floor = rss_mb(floor_pid)
    detail = ", ".join(f"{name} {mb:.0f}" for name, mb in sorted(sizes.items()))
    say(f"idle memory in MB: {detail}")
    return [
        Row("idle_rss_mb", ours, "MB", floor, "gateway + builder", "", True),
        Row("idle_rss_all_mb", every, "MB", floor, "every process", "< 250 MB", every < 250),
    ]


def platform_processes(data_dir: Path) -> Iterator[tuple[str, float]]:
    """(name, MB) of the supervisor and each process it started."""
    supervisor = int((data_dir / "up.pid").read_text())
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            pid = int(folder.name)
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if supervisor in (pid, parent):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                yield _named(command), rss_mb(pid)
        except (OSError, ValueError):
            continue  # it ended while we looked


def _named(command: str) -> str:
    known = {
        "gateway.main": "gateway",
        "worker.main": "builder",
        "executor.guard": "guard",
        "cli.up": "supervisor",
        "podman": "podman",
        "redis-server": "redis",
    }
    return next((name for word, name in known.items() if word in command), command[:40])


def rss_mb(pid: int) -> float:
    """VmRSS of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def podman_run_ms() -> float:
    """What starting a container of the image costs without us."""
    started = time.perf_counter()
    command = ["podman", "run", "--rm", "--network=none", "--ulimit=nofile=1024:1024",
               "--ulimit=nproc=256:256", IMAGE, "true"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return (time.perf_counter() - started) * 1000


def put(client: httpx.Client, name: str, code: str, **config: object) -> None:
    """Deploy one file and wait until it is active."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        member = tarfile.TarInfo("main.py")
        member.size = len(code.encode())
        tar.addfile(member, io.BytesIO(code.encode()))
    answer = client.put(
        f"/v1/functions/{name}?wait=true",
        files={"archive": ("code.tar.gz", archive.getvalue(), "application/gzip")},
        data={"config": json.dumps({"runtime": "python3.13", **config})},
    )
    if answer.status_code not in (200, 201):
        raise SystemExit(f"deploying {name} failed: {answer.status_code} {answer.text}")


def say(text: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(f"· {text}\n")


if __name__ == "__main__":
    sys.exit(main())
