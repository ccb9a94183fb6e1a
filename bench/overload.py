"""Ten times the clients that a function can serve: what is still served, and how fast the rest is
told that it is not."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from urllib.parse import urlsplit

import httpx

from bench.client import BODY, ECHO, put, say
from bench.load import wrk
from bench.rows import Row, median_of
from bench.servers import Platform

CLIENTS = 16
ROUNDS = 3
SECONDS = 4
REFUSAL_MS_MAX = 50
NO_LIMIT = sys.maxsize
PROBES = 8


def overload(client: httpx.Client, platform: Platform) -> list[Row]:
    """Goodput at ten times the clients, as a share of the peak. Two functions: one as fast as can
    be, and one that takes 20 ms and so refuses most of ten times its clients."""
    say("ten times the clients")
    put(client, "bench-busy", ECHO, concurrency=CLIENTS)
    url = f"{platform.url}/v1/functions/bench-busy/invocations"
    answer = client.post(url, content=BODY).content
    wrk(url, BODY, answer, platform.key, connections=CLIENTS, seconds=2)
    peaks: list[float] = []
    loads: list[float] = []
    for _ in range(ROUNDS):
        for samples, clients in ((peaks, CLIENTS), (loads, 10 * CLIENTS)):
            shot = wrk(url, BODY, answer, platform.key, connections=clients, seconds=SECONDS,
                       refusals_max=NO_LIMIT)  # fmt: skip
            samples.append(shot.rps)
    peak = median_of(peaks)[0]
    value, spread = median_of(loads)
    met = value / peak >= 0.9
    rows = [Row("overload_10x_goodput", value, "1/s", peak, spread, "ratio ≥ 0.9", met)]
    return [*rows, *_slow(client, platform)]


def _slow(client: httpx.Client, platform: Platform) -> list[Row]:
    code = "import time\ndef handler(event, context):\n    time.sleep(0.02)\n    return event\n"
    put(client, "bench-slow", code, concurrency=CLIENTS)
    url = f"{platform.url}/v1/functions/bench-slow/invocations"
    answer = client.post(url, content=BODY).content
    shot = wrk(url, BODY, answer, platform.key, connections=CLIENTS, seconds=SECONDS)
    probe = _Probe(platform)
    with probe:
        load = wrk(url, BODY, answer, platform.key, connections=10 * CLIENTS, seconds=SECONDS,
                   refusals_max=NO_LIMIT)  # fmt: skip
    met = load.rps / shot.rps >= 0.9
    p99 = sorted(probe.refused_ms)[int(len(probe.refused_ms) * 0.99)] if probe.refused_ms else 0.0
    told = f"{load.refused:,} refused, {len(probe.refused_ms)} of them timed"
    return [
        Row("overload_10x_slow_goodput", load.rps, "1/s", shot.rps, told, "ratio ≥ 0.9", met),
        Row("overload_refusal_ms_p99", p99, "ms", None, told, "≤ 50 ms", p99 <= REFUSAL_MS_MAX),
    ]


class _Probe:
    """A few clients beside the load that time every refusal, in a thread of their own."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._stop = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.refused_ms: list[float] = []

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join()

    async def _run(self) -> None:
        await asyncio.gather(*(self._one() for _ in range(PROBES)))

    async def _one(self) -> None:
        address = urlsplit(self._platform.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        head = (
            f"POST /v1/functions/bench-slow/invocations HTTP/1.1\r\nHost: bench\r\n"
            f"Authorization: Bearer {self._platform.key}\r\nContent-Length: {len(BODY)}\r\n\r\n"
        )
        while not self._stop:
            started = time.perf_counter()
            writer.write(head.encode() + BODY)
            answer = await reader.readuntil(b"\r\n\r\n")
            took = (time.perf_counter() - started) * 1000
            length = int(answer.lower().split(b"content-length:")[1].split()[0])
            await reader.readexactly(length)
            if answer.split(b" ", 2)[1] in (b"429", b"503"):
                self.refused_ms.append(took)
            await asyncio.sleep(0.02)
        writer.close()
