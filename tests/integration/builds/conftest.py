"""A builder's surroundings: everything real but the gateway, which says what a test wants."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from catalog.catalog import Catalog
from cli.host import ensure_containers_conf
from core.errors import HearthError
from core.model import Build, BuildStatus, FunctionConfig, Version
from core.settings import Settings
from events.jobs import JobQueue
from events.notices import Notices
from executor.build_sandbox import BuildSandbox
from storage.archive import pack_tree
from storage.store import ObjectStore, object_key, open_store
from tests.fixtures.redis_server import RedisServer
from worker.build import Builder
from worker.identity import builder_name
from worker.installation import Installer

WAIT_S = 100.0  # far more than anything takes; only a hang reaches it


def eventually(holds: Callable[[], Any], what: str, within_s: float = WAIT_S) -> Any:
    """The first true value."""
    deadline = time.monotonic() + within_s
    while not (value := holds()):
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.02)
    return value


class StandInGateway:
    """Answers POST /internal/check on the internal socket, as a test tells it to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[dict[str, Any]] = []
        self.answer: Callable[[dict[str, Any]], tuple[int, Any]] = lambda _: (200, {"ok": True})
        self._server: _UnixServer | None = None

    def start(self) -> None:
        """Listen."""
        gateway = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                gateway.asked.append(asked)
                status, body = gateway.answer(asked)
                raw = json.dumps(body).encode()
                self.send_response(status if self.path == "/internal/check" else 404)
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None: ...
            def address_string(self) -> str:
                return "builder"

        self._server = _UnixServer(str(self.path), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Be away: the socket's file is gone."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self.path.unlink()
            self._server = None


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: Any) -> None: ...


class Workshop:
    """One node's data, and what a test does with it."""

    def __init__(self, settings: Settings, redis: RedisServer, gateway: StandInGateway) -> None:
        self.settings = settings
        self.redis = redis
        self.gateway = gateway
        self.catalog = Catalog(settings.database)
        self.catalog.migrate()
        self.store: ObjectStore = open_store(settings)
        self.jobs = JobQueue(settings.redis)
        self.notices = Notices(settings.redis)
        self.stopping = threading.Event()
        self.processes: list[subprocess.Popen[bytes]] = []
        self._count = 0

    def builder(self, **changed: Any) -> Builder:
        """A builder in this process."""
        settings = replace(self.settings, **changed)
        name = builder_name(settings.node)
        sandbox = BuildSandbox(settings.podman_socket, node=settings.node, builder=name)
        return Builder(
            name=name,
            settings=settings,
            catalog=self.catalog,
            store=self.store,
            notices=self.notices,
            installer=Installer(settings, sandbox, self.store),
            stopping=self.stopping,
        )

    def deploy(
        self,
        files: dict[str, str | bytes],
        *,
        runtime: str = "python3.13",
        name: str = "hello",
        namespace: str = "default",
        handler: str = "main.handler",
    ) -> Version:
        """What the gateway does with an upload, up to the queue."""
        function = self.catalog.ensure_function(namespace, name, must_be_new=False)
        self._count += 1
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "code"
            for path, content in files.items():
                target = root / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content if isinstance(content, bytes) else content.encode())
            archive = Path(folder) / "code.tar"
            digest = pack_tree(root, archive)
            self.store.put(object_key(function.id, digest), archive)
            size = archive.stat().st_size
        return self.catalog.add_version(
            function.id, FunctionConfig(runtime, handler), archive_digest=digest, archive_bytes=size
        )

    def build(self, version: Version, **changed: Any) -> Version:
        """Build it here and now; the version afterwards."""
        self.builder(**changed).build(version.id)
        return self.catalog.version_by_id(version.id)

    def log_of(self, version: Version) -> str:
        """Its build log."""
        return self.catalog.build(version.id).log

    def start_builder(self, **environment: str) -> subprocess.Popen[bytes]:
        """A builder process, as `hearth up` starts it."""
        known = {"data_dir", "run_dir", "node", "redis_url", "build_timeout_s"}
        env = {name: text for name, text in os.environ.items() if not name.startswith("HEARTH_")}
        env |= {f"HEARTH_{name.upper()}": str(getattr(self.settings, name)) for name in known}
        env |= environment
        with (self.settings.data_dir / "builder.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker.main"], env=env, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    def said(self) -> str:
        """What builder processes logged."""
        return (self.settings.data_dir / "builder.log").read_text()

    def ended(self, version: Version) -> Build:
        """Wait until its build has ended."""

        def look() -> Build | None:
            build = self.catalog.build(version.id)
            ended = build.status in (BuildStatus.SUCCEEDED, BuildStatus.FAILED)
            return build if ended else None

        build: Build = eventually(look, f"an end of the build of {version.label}")
        return build

    def close(self) -> None:
        """Stop what still runs."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
        self.gateway.stop()
        self.jobs.close()
        self.notices.close()
        self.store.close()
        self.catalog.close()


def containers_of(node: str) -> list[str]:
    """Ids of a node's build containers, as Podman's own command line knows them."""
    label = f"label=hearth.node={node}"
    command = ["podman", "ps", "--all", "--quiet", "--filter", label]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.fixture(scope="session")
def build_podman() -> Iterator[Path]:
    """The socket of a `podman system service` of these tests' own."""
    with tempfile.TemporaryDirectory(prefix="hearth-podman-") as folder:
        conf = ensure_containers_conf(Path(folder))
        path = Path(folder) / "podman.sock"
        service = subprocess.Popen(
            ["podman", "system", "service", "--time", "0", f"unix://{path}"],
            env={**os.environ, "CONTAINERS_CONF": str(conf)},
        )
        sandbox = BuildSandbox(path, node="none", builder="none")

        def answers() -> bool:
            try:
                sandbox.remove_leftovers(lambda _: True)
            except HearthError:
                return False
            return True

        eventually(answers, "podman's service answers")
        yield path
        service.send_signal(signal.SIGTERM)
        service.wait()


@pytest.fixture
def workshop(redis_server: RedisServer) -> Iterator[Workshop]:
    """Without Podman: for what installs nothing."""
    with tempfile.TemporaryDirectory(prefix="hearth-build-") as folder:
        settings = Settings(
            data_dir=Path(folder) / "data",
            run_dir=Path(folder) / "run",
            node=Path(folder).name,
            redis_url=redis_server.url,
        )
        settings.data_dir.mkdir()
        settings.run_dir.mkdir()
        gateway = StandInGateway(settings.internal_socket)
        gateway.start()
        made = Workshop(settings, redis_server, gateway)
        before = os.umask(0o077)  # as in the builder's process
        yield made
        os.umask(before)
        made.close()


@pytest.fixture
def workshop_with_podman(workshop: Workshop, build_podman: Path) -> Workshop:
    """With Podman: for what installs dependencies."""
    workshop.settings.podman_socket.symlink_to(build_podman)
    return workshop
