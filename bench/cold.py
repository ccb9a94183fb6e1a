"""Cold starts: one by one, and many at once, beside `podman run --rm` of the same image."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any
from urllib.parse import urlsplit

import httpx

from bench.client import BODY, ECHO, podman_run_ms, put, say
from bench.rows import Row, median_of
from bench.servers import Platform

COLD_ROUNDS = 20
BURST = 20
BURSTS = 3
QUIET_S = 1.5


def cold_start(client: httpx.Client, platform: Platform) -> list[Row]:
    """First call into a version without a seat."""
    put(client, "bench-cold", ECHO, keep_warm_s=0)
    # The client's first call costs the client 20 ms, whatever it calls.
    client.post("/v1/functions/bench-cold/invocations", content=BODY)
    values, floors = [], []
    for turn in range(COLD_ROUNDS):
        floors.append(podman_run_ms())
        await_quiet(platform)  # the seat of the last call expires and a stem takes its place
        started = time.perf_counter()
        answer = client.post("/v1/functions/bench-cold/invocations", content=BODY)
        values.append((time.perf_counter() - started) * 1000)
        if answer.status_code != 200 or answer.headers["x-cold-start"] != "true":
            raise SystemExit(f"not a cold start: {answer.status_code} {answer.headers}")
        if turn % 5 == 4:
            say(f"cold starts, {turn + 1} of {COLD_ROUNDS}")
    value, spread = median_of(values)
    p95 = statistics.quantiles(values, n=20)[18]
    floor = median_of(floors)[0]
    return [
        Row("cold_start_ms_p50", value, "ms", floor, spread, "ratio ≤ 0.05", value <= floor / 20),
        Row("cold_start_ms_p95", p95, "ms", floor, spread, "ratio ≤ 0.05", p95 <= floor / 20),
    ]


def cold_burst(client: httpx.Client, platform: Platform) -> Row:
    """Functions that have no seat, all invoked at the same moment; the slowest of each burst."""
    floors = [podman_run_ms() for _ in range(5)]
    say(f"bursts of {BURST} cold starts")
    slowest: list[float] = []
    for burst in range(BURSTS):
        names = [f"bench-burst-{burst}-{number}" for number in range(BURST)]
        for name in names:
            put(client, name, ECHO, keep_warm_s=0, memory_mb=64)
        await_quiet(platform)
        times = asyncio.run(_at_once(platform, names))
        slowest.append(statistics.quantiles(times, n=20)[18])
    value, spread = median_of(slowest)
    floor = median_of(floors)[0]
    bound, met = "ratio ≤ 1", value <= floor
    return Row("cold_burst_20_ms_p95", value, "ms", floor, spread, bound, met)


async def _at_once(platform: Platform, names: list[str]) -> list[float]:
    """Milliseconds until each function's answer was there."""
    address = urlsplit(platform.url)
    pairs = [await asyncio.open_connection(address.hostname, address.port) for _ in names]

    async def one(at: int) -> float:
        reader, writer = pairs[at]
        head = (
            f"POST /v1/functions/{names[at]}/invocations HTTP/1.1\r\nHost: bench\r\n"
            f"Authorization: Bearer {platform.key}\r\nContent-Length: {len(BODY)}\r\n\r\n"
        )
        started = time.perf_counter()
        writer.write(head.encode() + BODY)
        answer = await reader.readuntil(b"\r\n\r\n")
        took = (time.perf_counter() - started) * 1000
        if b" 200 " not in answer.splitlines()[0] or b"x-cold-start: true" not in answer.lower():
            raise SystemExit(f"not a cold start: {answer.decode()}")
        return took

    try:
        return await asyncio.gather(*(one(at) for at in range(len(names))))
    finally:
        for _, writer in pairs:
            writer.close()


def await_quiet(platform: Platform) -> None:
    """Until stems are stocked, and no seat has come or gone for a while: what may expire has."""
    since, seen = time.monotonic(), platform.stats()
    while time.monotonic() - since < QUIET_S or not _is_stocked(seen):
        time.sleep(0.1)
        now = platform.stats()
        if any(now[name] != seen[name] for name in ("idle", "busy", "booting", "leaving", "stems")):
            since = time.monotonic()
        seen = now


def _is_stocked(stats: dict[str, Any]) -> bool:
    levels = stats["stem_levels"].items()
    return all(stats["stems"].get(kind, 0) >= level for kind, level in levels)
