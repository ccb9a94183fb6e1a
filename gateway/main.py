"""The gateway's process: one node. `python -m gateway.main`; `hearth up` starts it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
import uvloop
from starlette.types import ASGIApp

from catalog.catalog import Catalog
from core.errors import HearthError
from core.limits import KEEP_ALIVE_S
from core.settings import Settings, SettingsInvalid
from executor.driver import Driver
from gateway.app import Gateway, MakeDriver, opened, prepare
from gateway.protocol import Connection, sweep
from gateway.tls import Certificate

THREADS_MAX = 32  # made as they are needed; a part that does not answer may hold several
SWEEP_S = 1.0
LAST_ANSWERS_S = 2  # for what is not an invocation, when the time to drain is over
BACKLOG = 2048

log = logging.getLogger("hearth.gateway")


def main() -> int:
    """Serve until SIGTERM or SIGINT. Exit 0 after an orderly stop, 1 when it could not start."""
    try:
        settings = Settings.from_env()
        _log_to_stderr(settings.log_level)
        _keep_guard()
        check_address(settings)
        _migrate_apart(settings)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(settings))
    except (SettingsInvalid, HearthError, OSError) as error:
        print(f"hearth gateway: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


async def run(settings: Settings) -> None:
    """The whole life of a node."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="gateway"))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serving(settings, podman_driver) as node:
        gc.collect()
        gc.freeze()  # what start-up made stays: the collector need not look at it again
        log.info("serving %s", node.url)
        await stop.wait()
        log.info("stopping: %s", node.gateway.executor.stats())


def podman_driver(settings: Settings, release_code: Callable[[str], None]) -> Driver:
    """The driver of a real node."""
    from executor.podman import PodmanDriver  # late: tests without Podman do not need it

    return PodmanDriver(settings, release_code)


@dataclass(frozen=True, slots=True)
class Node:
    """A gateway that listens at `url`."""

    gateway: Gateway
    url: str
    server: uvicorn.Server


@asynccontextmanager
async def serving(settings: Settings, make_driver: MakeDriver) -> AsyncIterator[Node]:
    """A node. Leaving drains it: running invocations finish within `drain_s`, new ones are
    refused, then connections and sandboxes are closed."""
    certificate = Certificate.of(settings)
    async with opened(settings, make_driver) as gateway:
        with _listen(settings) as outside, _listen_inside(settings.internal_socket) as inside:
            checks = _serve(gateway.internal, inside, None)
            served = _serve(gateway.edge, outside, certificate)
            async with checks, served as server:
                yield Node(gateway, _url(outside, certificate), server)
                gateway.parts.health.draining = True
                until = time.monotonic() + settings.drain_s
                await gateway.executor.drain()
                left = max(LAST_ANSWERS_S, until - time.monotonic())
                server.config.timeout_graceful_shutdown = round(left)


@asynccontextmanager
async def _serve(
    app: ASGIApp, sock: socket.socket, certificate: Certificate | None
) -> AsyncIterator[uvicorn.Server]:
    """One uvicorn server in this loop, without its signals, which belong to `run`. Leaving closes
    idle connections and waits for the others, at most `timeout_graceful_shutdown`."""
    config = uvicorn.Config(
        app,
        loop="none",
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=LAST_ANSWERS_S,
        interface="asgi3",
        ssl_context_factory=(lambda *_: certificate.context) if certificate else None,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[sock])
    tasks = [asyncio.create_task(server.main_loop()), asyncio.create_task(_sweep(server))]
    if certificate is not None:
        tasks.append(asyncio.create_task(certificate.watch()))
    try:
        yield server
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.shutdown(sockets=[sock])


async def _sweep(server: uvicorn.Server) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(SWEEP_S)
        sweep(server.server_state.connections, loop.time())


def _url(sock: socket.socket, certificate: Certificate | None) -> str:
    host, port = sock.getsockname()[:2]
    scheme = "http" if certificate is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


@contextlib.contextmanager
def _listen(settings: Settings) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((settings.host, settings.port))
        except OSError as error:
            raise SettingsInvalid(f"cannot listen on {settings.address}: {error}") from None
        sock.listen(BACKLOG)
        yield sock


@contextlib.contextmanager
def _listen_inside(path: Path) -> Iterator[socket.socket]:
    """The internal socket, for this user only."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
        path.chmod(0o600)
        sock.listen(BACKLOG)
        try:
            yield sock
        finally:
            path.unlink(missing_ok=True)


def check_address(settings: Settings) -> None:
    """Keys and code do not travel in the clear: beyond loopback TLS, ours or a proxy's, is a
    must. SettingsInvalid."""
    try:
        is_local = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        is_local = settings.host == "localhost"
    if not is_local and settings.tls_cert == Path() and not settings.trusted_proxies:
        raise SettingsInvalid(
            f"HEARTH_ADDRESS {settings.address} is reached from elsewhere: set HEARTH_TLS_CERT "
            "and HEARTH_TLS_KEY, or HEARTH_TRUSTED_PROXIES if a proxy speaks TLS for it"
        )


def _migrate_apart(settings: Settings) -> None:
    """Bring the database up to date in a child, since what that loads would stay in memory for
    ever (11 MB). If it fails there, it fails again here, where the error is told."""
    prepare(settings)
    child = os.fork()  # there is no thread yet
    if child == 0:
        with contextlib.suppress(HearthError):
            Catalog(settings.database).migrate()
        os._exit(0)
    os.waitpid(child, 0)


def _keep_guard() -> None:
    """Hold the pipe whose end tells the guard that this process is gone: it must not be inherited,
    or a surviving child would keep it open."""
    number = os.environ.get("HEARTH_GUARD_FD", "")
    if number:
        os.set_inheritable(int(number), False)


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )
    for noisy in ("uvicorn.error", "alembic", "python_multipart"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
