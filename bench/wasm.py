"""WebAssembly: warm calls, first calls, and what the host of many modules holds of memory."""

from __future__ import annotations

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from bench.client import BODY, say
from bench.cold import await_quiet
from bench.load import wrk
from bench.rows import Row, median_of
from bench.servers import Platform

ROOT = Path(__file__).resolve().parent.parent
ECHO = ROOT / "examples" / "wasm-wat" / "main.wasm"
SLEEPER = ROOT / "bench" / "wasm_sleeper" / "main.wasm"
ROUNDS, SECONDS = 5, 4
FIRST_CALLS = 20
MODULES = 100
LOOK_AFTER_S = 3.0  # by then all of them sleep, and none has ended
HOST = b"/opt/hearth/host.py"


def wasm(
    client: httpx.Client, platform: Platform, floor_url: str, cold_start_ms: float
) -> list[Row]:
    """The three rows. `cold_start_ms` is that of the same run."""
    put_module(client, "bench-wasm", ECHO, 0, concurrency=64)
    rows = [_calls(platform, floor_url), _first_calls(client, platform, cold_start_ms)]
    return [*rows, _host_memory(client, platform)]


def put_module(
    client: httpx.Client, name: str, module: Path, number: int, **config: object
) -> None:
    """Deploy a module, made another one by a custom section that holds a number."""
    code = module.read_bytes() + b"\x00\x06\x01n" + number.to_bytes(4, "big")
    answer = client.put(
        f"/v1/functions/{name}?wait=true",
        files={"archive": ("main.wasm", code, "application/wasm")},
        data={"config": json.dumps({"runtime": "wasm", "memory_mb": 16, **config})},
    )
    if answer.status_code not in (200, 201):
        raise SystemExit(f"deploying {name} failed: {answer.status_code} {answer.text}")


def _calls(platform: Platform, floor_url: str) -> Row:
    """Warm calls of an echo at 16 connections, in turns with the floor."""
    url = f"{platform.url}/v1/functions/bench-wasm/invocations"
    expected = {
        url: BODY,
        floor_url: httpx.post(floor_url, content=BODY, trust_env=False).content,
    }
    rps: dict[str, list[float]] = {url: [], floor_url: []}
    wrk(url, BODY, BODY, platform.key, connections=16, seconds=SECONDS)
    for turn in range(ROUNDS):
        say(f"wasm calls, round {turn + 1} of {ROUNDS}")
        for target, answer in expected.items():
            key = platform.key if target == url else ""
            shot = wrk(target, BODY, answer, key, connections=16, seconds=SECONDS)
            rps[target].append(shot.rps)
    value, spread = median_of(rps[url])
    floor = median_of(rps[floor_url])[0]
    met = value / floor >= 0.6
    return Row("wasm_call_rps_c16", value, "1/s", floor, spread, "ratio ≥ 0.6", met)


def _first_calls(client: httpx.Client, platform: Platform, cold_start_ms: float) -> Row:
    """Functions without a seat in a host that runs; the floor is a cold start in a container."""
    names = [f"bench-wasm-first-{number}" for number in range(FIRST_CALLS)]
    for number, name in enumerate(names):
        put_module(client, name, ECHO, number, keep_warm_s=0)
    await_quiet(platform)
    address = urlsplit(platform.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port)
    headers = {"Authorization": f"Bearer {platform.key}"}
    values = []
    for name in ["bench-wasm", *names]:  # the first is not counted: it opens the connection
        started = time.perf_counter()
        connection.request("POST", f"/v1/functions/{name}/invocations", BODY, headers)
        answer = connection.getresponse()
        body = answer.read()
        values.append((time.perf_counter() - started) * 1000)
        is_cold = answer.headers["x-cold-start"] == "true"
        if (answer.status, body) != (200, BODY) or (name != "bench-wasm" and not is_cold):
            raise SystemExit(f"not a first call: {answer.status} {body!r} {answer.headers}")
    connection.close()
    value, spread = median_of(values[1:])
    met = value <= 2
    return Row("wasm_first_call_ms_p50", value, "ms", cold_start_ms, spread, "≤ 2 ms", met)


def _host_memory(client: httpx.Client, platform: Platform) -> Row:
    """What the host holds with as many modules at work at once."""
    names = [f"bench-wasm-sleeper-{number}" for number in range(MODULES)]
    say(f"deploying {MODULES} modules")
    for number, name in enumerate(names):
        put_module(client, name, SLEEPER, number)
    with ThreadPoolExecutor(MODULES) as threads:
        urls = [f"{platform.url}/v1/functions/{name}/invocations" for name in names]
        headers = {"Authorization": f"Bearer {platform.key}"}
        calls = [
            threads.submit(
                httpx.post, url, content=b"{}", headers=headers, timeout=60, trust_env=False
            )
            for url in urls
        ]
        time.sleep(LOOK_AFTER_S)
        value = sum(_rss_mb(process) for process in _hosts(platform))
        statuses = {call.result().status_code for call in calls}
    if statuses != {200}:
        raise SystemExit(f"the sleeping functions answered {statuses}")
    met = value <= 200
    return Row("wasm_host_rss_mb", value, "MB", None, "", "≤ 200 MB", met)


def _hosts(platform: Platform) -> list[Path]:
    """The host processes of this platform: whose monitor was started for its data directory."""
    mine = str(platform.data_dir).encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            is_host = HOST in (path / "cmdline").read_bytes().split(b"\0")
            parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
            above = Path("/proc", parent, "environ").read_bytes()
            told = Path("/proc", parent, "cmdline").read_bytes()
        except OSError:
            continue
        if is_host and (mine in above or mine in told):
            found.append(path)
    if not found:
        raise SystemExit("this platform has no wasm host that could be measured")
    return found


def _rss_mb(process: Path) -> float:
    for line in (process / "status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1000
    return 0.0
