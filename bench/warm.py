"""Warm calls: throughput and latency beside a bare Starlette echo, in turns within one run."""

from __future__ import annotations

import httpx

from bench.client import BODY, ECHO, ECHO_NODE, put, say
from bench.cold import await_quiet
from bench.load import wrk
from bench.rows import Row, median_of
from bench.servers import Platform

ROUNDS = 5
SECONDS = 4


def warm(
    client: httpx.Client, platform: Platform, floor_url: str, nginx_url: str
) -> tuple[list[Row], str]:
    """Python and Node at 16 connections, Python at one; and the generator's ceiling, as text."""
    put(client, "bench-echo", ECHO, concurrency=64)
    put(client, "bench-node", ECHO_NODE, concurrency=64, runtime="node24")
    urls = {
        "python": f"{platform.url}/v1/functions/bench-echo/invocations",
        "node": f"{platform.url}/v1/functions/bench-node/invocations",
        "floor": floor_url,
    }
    expected = {name: _answer(url, platform.key) for name, url in urls.items()}
    for name in ("python", "node"):  # makes the seats warm, and V8 compile what is hot
        wrk(urls[name], BODY, expected[name], platform.key, connections=16, seconds=SECONDS)
    await_quiet(platform)  # the stems that it took have been booted anew
    rps: dict[str, list[float]] = {name: [] for name in (*urls, "ceiling")}
    p50: dict[str, list[float]] = {name: [] for name in ("python", "floor")}
    for turn in range(ROUNDS):
        say(f"warm calls, round {turn + 1} of {ROUNDS}")
        rps["ceiling"].append(wrk(nginx_url, BODY, BODY, "", connections=16, seconds=2).rps)
        for name, url in urls.items():
            key = "" if name == "floor" else platform.key
            shot = wrk(url, BODY, expected[name], key, connections=16, seconds=SECONDS)
            rps[name].append(shot.rps)
            if name in p50:
                shot = wrk(url, BODY, expected[name], key, connections=1, seconds=SECONDS)
                p50[name].append(shot.p50_us)
    return _rows(rps, p50)


def _rows(rps: dict[str, list[float]], p50: dict[str, list[float]]) -> tuple[list[Row], str]:
    floor_rps, floor_p50 = median_of(rps["floor"])[0], median_of(p50["floor"])[0]
    top = median_of(rps["ceiling"])[0]
    ceiling = f"generator's ceiling (nginx): {top:,.0f}/s = {top / floor_rps:.1f} × the floor"
    if top < 1.5 * floor_rps:
        raise SystemExit(f"the load generator itself is the limit: {ceiling}")
    rows = []
    for name, key in (("warm_sync_rps_c16", "python"), ("warm_node_rps_c16", "node")):
        value, spread = median_of(rps[key])
        met = value / floor_rps >= 0.9
        rows.append(Row(name, value, "1/s", floor_rps, spread, "ratio ≥ 0.9", met))
    value, spread = median_of(p50["python"])
    met = value / floor_p50 <= 1.4
    rows.insert(1, Row("warm_sync_p50_us_c1", value, "µs", floor_p50, spread, "ratio ≤ 1.4", met))
    return rows, ceiling


def _answer(url: str, key: str) -> bytes:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(url, content=BODY, headers=headers, trust_env=False).content
