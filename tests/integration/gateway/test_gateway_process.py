"""The gateway as a process of its own: uvloop, signals, TLS, what it holds and what it lets go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from catalog.catalog import Catalog
from core.settings import Settings, SettingsInvalid
from events.notices import Notices
from gateway import tls
from gateway.main import LAST_ANSWERS_S, check_address
from tests.integration.gateway.conftest import Builder, form_of, running

# The real process but for the driver: sandboxes without isolation.
LAUNCHER = """
import sys
import gateway.main as main
from executor.process_driver import ProcessDriver
main.podman_driver = lambda s, release: ProcessDriver(s.payload_bytes_max, release)
sys.exit(main.main())
"""
# Leaves a mark when it runs, which only a sandbox without isolation can.
SLOW = """
import pathlib, time
def handler(event, context):
    pathlib.Path(event["mark"]).touch()
    time.sleep(event["s"])
    return "done"
"""


@dataclass
class Process:
    """A gateway process and a client of it."""

    process: asyncio.subprocess.Process
    client: httpx.AsyncClient
    settings: Settings

    async def deploy(self, name: str, code: str) -> None:
        """A version that is active when this returns."""
        form = form_of({"main.py": code}, '{"runtime": "python"}')
        answer = await self.client.put(f"/v1/functions/{name}?wait=true", files=form)
        assert answer.status_code == 201, answer.text

    async def invoke(self, name: str, event: object) -> httpx.Response:
        """POST …/invocations."""
        return await self.client.post(f"/v1/functions/{name}/invocations", json=event)

    async def running(self, name: str, seconds: float) -> asyncio.Task[httpx.Response]:
        """An invocation that has begun and goes on for so long."""
        mark = self.settings.data_dir / "mark"
        call = asyncio.create_task(self.invoke(name, {"s": seconds, "mark": str(mark)}))
        while not mark.exists():
            await asyncio.sleep(0.01)
        return call

    def children(self) -> list[int]:
        """Processes that it started and that still run."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


@contextlib.asynccontextmanager
async def started(settings: Settings, **environment: str) -> AsyncIterator[Process]:
    """The process, ready; killed afterwards if the test has not ended it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    settings = replace(settings, address=address)
    env = {
        **os.environ,
        "HEARTH_DATA_DIR": str(settings.data_dir),
        "HEARTH_RUN_DIR": str(settings.run_dir),
        "HEARTH_REDIS_URL": settings.redis_url,
        "HEARTH_ADDRESS": address,
        "HEARTH_STEMS": "0",
        "HEARTH_DRAIN_S": f"{settings.drain_s}",
        **environment,
    }
    descriptors = [int(environment[name]) for name in environment if name.endswith("_FD")]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", LAUNCHER, env=env, pass_fds=descriptors
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=60) as client:
            while True:
                assert process.returncode is None, "the gateway ended at its start"
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get("/readyz")).status_code == 200:
                        break
                await asyncio.sleep(0.05)
            key = settings.admin_key_file.read_text().strip()
            client.headers["authorization"] = f"Bearer {key}"
            yield Process(process, client, settings)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def builder(settings: Settings) -> AsyncIterator[None]:
    """A stand-in for the builder process."""
    catalog, notices = Catalog(settings.database), Notices(settings.redis)
    stand_in = Builder(catalog, notices, settings.internal_socket)
    stand_in.held.set()
    task = asyncio.create_task(stand_in.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await notices.aclose()
    catalog.close()


async def test_sigterm_lets_running_invocations_finish_and_ends_everything(
    settings: Settings,
) -> None:
    async with started(replace(settings, drain_s=60.0)) as node, builder(node.settings):
        await node.deploy("slow", SLOW)
        idle = await asyncio.open_connection("127.0.0.1", node.settings.port)
        call = await node.running("slow", LAST_ANSWERS_S + 1.0)
        sandboxes = node.children()
        assert sandboxes
        node.process.send_signal(signal.SIGTERM)
        while (await node.client.get("/readyz")).status_code != 503:
            await asyncio.sleep(0.01)
        refused = await node.invoke("slow", {"s": 0, "mark": ""})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "node_draining")
        answer = await call
        assert (answer.status_code, answer.json()) == (200, "done")
        assert await node.process.wait() == 0
        assert await idle[0].read() == b""
        idle[1].close()
        assert [pid for pid in sandboxes if Path(f"/proc/{pid}").exists()] == []
        assert not node.settings.internal_socket.exists()


async def test_a_call_that_outlasts_the_drain_is_cut(settings: Settings) -> None:
    short = replace(settings, drain_s=0.5)
    async with started(short) as node, builder(node.settings):
        await node.deploy("slow", SLOW)
        call = await node.running("slow", 25)
        node.process.send_signal(signal.SIGTERM)
        assert await node.process.wait() == 0
        with contextlib.suppress(httpx.TransportError):
            assert (await call).status_code >= 500


async def test_functions_deployed_before_answer_after_a_restart(settings: Settings) -> None:
    async with started(settings) as node:
        async with builder(node.settings):
            await node.deploy("hello", "def handler(e, c): return 'still here'")
        node.process.kill()  # without any farewell
        await node.process.wait()
    async with started(settings) as node:
        assert (await node.invoke("hello", {})).json() == "still here"


async def test_the_guards_pipe_ends_with_the_process_though_children_live(
    settings: Settings,
) -> None:
    read_end, write_end = os.pipe()
    async with started(settings, HEARTH_GUARD_FD=str(write_end)) as node, builder(node.settings):
        os.close(write_end)
        await node.deploy("slow", SLOW)
        pipe = Path(f"/proc/self/fd/{read_end}").readlink()
        assert node.children()
        for pid in node.children():
            held = [fd.readlink() for fd in Path(f"/proc/{pid}/fd").iterdir()]
            assert pipe not in held
        os.set_blocking(read_end, False)
        with pytest.raises(BlockingIOError):
            os.read(read_end, 1)
        node.process.kill()
        await node.process.wait()
        assert os.read(read_end, 1) == b""
    os.close(read_end)


async def test_a_port_that_is_taken_is_said_in_a_sentence(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        env = {
            **os.environ,
            "HEARTH_DATA_DIR": str(settings.data_dir),
            "HEARTH_RUN_DIR": str(settings.run_dir),
            "HEARTH_REDIS_URL": settings.redis_url,
            "HEARTH_ADDRESS": f"127.0.0.1:{taken.getsockname()[1]}",
            "HEARTH_STEMS": "0",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", LAUNCHER, env=env, stderr=asyncio.subprocess.PIPE
        )
        _, said = await process.communicate()
    assert process.returncode == 1
    assert b"cannot listen on 127.0.0.1" in said
    assert b"Traceback" not in said


def test_an_address_that_others_reach_needs_tls_or_a_proxy() -> None:
    for open_to_all in ("0.0.0.0:8080", "192.0.2.1:80", "[::]:8080", "hearth.example:80"):
        exposed = Settings(address=open_to_all)
        with pytest.raises(SettingsInvalid, match="HEARTH_TLS_CERT"):
            check_address(exposed)
        check_address(replace(exposed, trusted_proxies=("10.0.0.1",)))
        check_address(replace(exposed, tls_cert=Path("c"), tls_key=Path("k")))
    for local in ("127.0.0.1:1", "localhost:1", "[::1]:1", "127.9.9.9:1"):
        check_address(Settings(address=local))


def certificate(folder: Path, serial: int) -> tuple[Path, Path]:
    """A self-signed pair, known by its serial number."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_file, key_file


async def serial_of(port: int) -> int:
    """The serial number of the certificate that the node shows now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return x509.load_der_x509_certificate(shown).serial_number


async def test_a_renewed_certificate_is_served_and_a_broken_one_is_not(
    with_settings: Callable[..., Settings],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tls, "LOOK_S", 0.02)
    cert_file, key_file = certificate(folder, 1)
    async with running(with_settings(tls_cert=cert_file, tls_key=key_file)) as node:
        assert node.url.startswith("https://")
        assert await serial_of(node.port) == 1
        certificate(folder, 2)
        while await serial_of(node.port) != 2:
            await asyncio.sleep(0.02)
        (folder / "next").mkdir()
        next_cert, _ = certificate(folder / "next", 4)
        for broken in (lambda: key_file.write_text("x"), lambda: next_cert.rename(cert_file)):
            caplog.clear()
            broken()
            while "cannot be used" not in caplog.text:
                await asyncio.sleep(0.02)
            assert await serial_of(node.port) == 2
        certificate(folder, 3)
        while await serial_of(node.port) != 3:
            await asyncio.sleep(0.02)
        async with httpx.AsyncClient(base_url=node.url, verify=False) as client:
            assert (await client.get("/healthz")).json() == {"status": "ok"}


async def test_certificates_that_cannot_be_used_are_said_at_start(
    with_settings: Callable[..., Settings], folder: Path
) -> None:
    missing = with_settings(tls_cert=folder / "no.pem", tls_key=folder / "no.pem")
    with pytest.raises(SettingsInvalid, match="HEARTH_TLS_CERT"):
        async with running(missing):
            pass
