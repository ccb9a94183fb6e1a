"""The Runtime API beside our own shim: one handler, behind AWS's client and without it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import httpx

from bench.client import BODY, ECHO, put, say
from bench.load import wrk
from bench.rows import Row, median_of
from bench.servers import Platform

CLIENT = "awslambdaric==4.2.2"
BOOTSTRAP = """#!/bin/sh
export PYTHONPATH=$LAMBDA_TASK_ROOT
exec /usr/bin/python3 -m awslambdaric "$_HANDLER"
"""
ROUNDS = 5
SECONDS = 4
ASKED = 0.4


def custom(client: httpx.Client, platform: Platform) -> Row:
    """Calls a second of an echo behind awslambdaric, beside the same echo on the Python shim."""
    put(client, "bench-floor", ECHO, concurrency=64)
    _deploy(client, "bench-custom")
    names = ("bench-custom", "bench-floor")
    urls = {name: f"{platform.url}/v1/functions/{name}/invocations" for name in names}
    expected = {url: client.post(url, content=BODY).content for url in urls.values()}
    for url in urls.values():  # the seats become warm
        wrk(url, BODY, expected[url], platform.key, connections=16, seconds=SECONDS)
    rps: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(ROUNDS):
        say(f"custom runtime, round {turn + 1} of {ROUNDS}")
        for name, url in urls.items():
            shot = wrk(url, BODY, expected[url], platform.key, connections=16, seconds=SECONDS)
            rps[name].append(shot.rps)
    value, spread = median_of(rps["bench-custom"])
    floor, _ = median_of(rps["bench-floor"])
    met = value / floor >= ASKED
    return Row("custom_rps_c16", value, "1/s", floor, spread, f"ratio ≥ {ASKED}", met)


def _deploy(client: httpx.Client, name: str) -> None:
    """The handler with AWS's client beside it, as people ship it."""
    with tempfile.TemporaryDirectory(prefix="hearth-bench-ric-") as folder:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder]
        command += ["--python-version", "3.13", "--only-binary", ":all:", CLIENT]
        subprocess.run(command, check=True)
        (Path(folder) / "main.py").write_text(ECHO)
        (Path(folder) / "bootstrap").write_text(BOOTSTRAP)
        (Path(folder) / "bootstrap").chmod(0o755)
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            for path in sorted(Path(folder).iterdir()):
                tar.add(path, arcname=path.name)
    answer = client.put(
        f"/v1/functions/{name}?wait=true",
        files={"archive": ("code.tar.gz", archive.getvalue(), "application/gzip")},
        data={"config": json.dumps({"runtime": "custom", "concurrency": 64})},
    )
    if answer.status_code not in (200, 201):
        raise SystemExit(f"deploying {name} failed: {answer.status_code} {answer.text}")
