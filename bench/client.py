"""What the bench asks of a running platform: deploys, progress, and what a bare container costs."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import time

import httpx

from runtimes.registry import RUNTIMES

BODY = b'{"name":"Ada","n":[1,2,3]}'
ECHO = "def handler(event, context):\n    return event\n"
ECHO_NODE = "export const handler = async (event) => event;\n"
IMAGE = RUNTIMES["python3.13"].image


def put(client: httpx.Client, name: str, code: str, **config: object) -> None:
    """Deploy one file and wait until it is active. `runtime` is Python unless the config says."""
    settings = {"runtime": "python3.13", **config}
    file = "main.mjs" if settings["runtime"] == "node24" else "main.py"
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        member = tarfile.TarInfo(file)
        member.size = len(code.encode())
        tar.addfile(member, io.BytesIO(code.encode()))
    answer = client.put(
        f"/v1/functions/{name}?wait=true",
        files={"archive": ("code.tar.gz", archive.getvalue(), "application/gzip")},
        data={"config": json.dumps(settings)},
    )
    if answer.status_code not in (200, 201):
        raise SystemExit(f"deploying {name} failed: {answer.status_code} {answer.text}")


def podman_run_ms() -> float:
    """What starting a container of the image costs without us."""
    started = time.perf_counter()
    command = ["podman", "run", "--rm", "--network=none", "--ulimit=nofile=1024:1024",
               "--ulimit=nproc=256:256", IMAGE, "true"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return (time.perf_counter() - started) * 1000


def say(text: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(f"· {text}\n")
