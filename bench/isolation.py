"""What a process of its own for each request costs over a plain warm call."""

from __future__ import annotations

import httpx

from bench.client import BODY, ECHO, put, say
from bench.load import wrk
from bench.rows import Row, median_of
from bench.servers import Platform

ROUNDS = 3
SECONDS = 3


def fork_isolation(client: httpx.Client, platform: Platform) -> Row:
    """The difference of two medians, at one connection, in turns."""
    say("a process for each request")
    put(client, "bench-plain", ECHO)
    put(client, "bench-forked", ECHO, isolation="request")
    plain: list[float] = []
    forked: list[float] = []
    for _ in range(ROUNDS):
        for name, samples in (("bench-plain", plain), ("bench-forked", forked)):
            url = f"{platform.url}/v1/functions/{name}/invocations"
            answer = client.post(url, content=BODY).content
            shot = wrk(url, BODY, answer, platform.key, connections=1, seconds=SECONDS)
            samples.append(shot.p50_us)
    floor = median_of(plain)[0] / 1000
    overheads = [(f - p) / 1000 for f, p in zip(forked, plain, strict=True)]
    value, spread = median_of(overheads)
    name = "fork_isolation_overhead_ms_p50"
    return Row(name, value, "ms", floor, spread, "≤ 3 ms", value <= 3)
