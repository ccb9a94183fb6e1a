"""The servers of a run: Hearth itself, the floor, and nginx for the generator's ceiling."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from core.settings import Settings

_HEARTH = str(Path(sys.executable).parent / "hearth")
_READY_S = 30.0


@dataclass(frozen=True, slots=True)
class Platform:
    """A running Hearth of this run's own. `run_dir` names its sockets."""

    url: str
    key: str
    data_dir: Path
    environ: dict[str, str]

    def client(self) -> httpx.Client:
        """A client with the admin key."""
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=120,
            trust_env=False,
        )

    def stats(self) -> dict[str, Any]:
        """The node's counts of this moment, from its internal socket."""
        socket_path = str(Settings.from_env(self.environ).internal_socket)
        with httpx.Client(transport=httpx.HTTPTransport(uds=socket_path)) as client:
            found: dict[str, Any] = client.get("http://node/internal/stats").json()
        return found


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def hearth() -> Iterator[Platform]:
    """`hearth up --detach` in a directory of its own; everything else by default."""
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
        data_dir = Path(folder) / "data"
        address = f"127.0.0.1:{free_port()}"
        environ = {k: v for k, v in os.environ.items() if not k.startswith("HEARTH_")}
        environ |= {"HEARTH_DATA_DIR": str(data_dir), "HEARTH_ADDRESS": address}
        subprocess.run([_HEARTH, "up", "--detach"], env=environ, check=True)
        try:
            key = (data_dir / "admin.key").read_text().strip()
            yield Platform(f"http://{address}", key, data_dir, environ)
        finally:
            subprocess.run([_HEARTH, "down"], env=environ, check=True)


@contextlib.contextmanager
def bare_starlette() -> Iterator[tuple[str, int]]:
    """The floor's URL and process id."""
    port = free_port()
    command = [sys.executable, "-m", "bench.floor", str(port)]
    with _child(command) as process:
        url = f"http://127.0.0.1:{port}/echo"
        _await_answer(url)
        yield url, process.pid


@contextlib.contextmanager
def nginx(answer: bytes) -> Iterator[str]:
    """A server far faster than what is measured: what `wrk` can reach at most."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="hearth-bench-nginx-") as folder:
        conf = Path(folder) / "nginx.conf"
        body = answer.decode().replace("'", "\\'")
        conf.write_text(
            f"daemon off; pid {folder}/pid; error_log stderr crit; worker_processes 1;\n"
            "events {}\n"
            f"http {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};\n"
            f"fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};\n"
            f"server {{ listen 127.0.0.1:{port}; keepalive_requests 1000000000;\n"
            f"location / {{ default_type application/json; return 200 '{body}'; }} }} }}\n"
        )
        with _child(["nginx", "-c", str(conf), "-p", folder]):
            url = f"http://127.0.0.1:{port}/"
            _await_answer(url)
            yield url


@contextlib.contextmanager
def _child(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=10)


def _await_answer(url: str) -> None:
    until = time.monotonic() + _READY_S
    while True:
        with contextlib.suppress(httpx.TransportError):
            httpx.post(url, content=json.dumps({}), trust_env=False)
            return
        if time.monotonic() > until:
            raise RuntimeError(f"{url} does not answer")
        time.sleep(0.02)
