"""What a sandbox with a network reaches and what reaches it, seen from inside real containers."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from core.settings import Settings
from executor import cgroup, cleanup, egress, netns
from executor.podman import PodmanDriver
from executor.sandbox import Sandbox
from tests.fixtures.internet import (
    GREETING,
    NAME_SERVER,
    PRIVATE,
    PUBLIC,
    PUBLIC_OF_HOST,
    Internet,
    namespaces,
    walls_of,
)
from tests.fixtures.life import Life
from tests.fixtures.nodes import PATIENCE_S, Bench, bound
from tests.fixtures.podman_service import PodmanService
from tests.fixtures.sandboxes import Codes, Lines, event

pytestmark = pytest.mark.podman

NETWORK, SUBNET = "hearth-egress-test", "10.99.248.0/29"  # room for five
GATEWAY = "10.99.248.1"
METADATA = "169.254.169.254"
SOURCE = """
import ctypes, errno, os, socket, struct, threading
def connect(address, port):
    try:
        with socket.create_connection((address, port), timeout=2) as peer:
            return peer.recv(5).decode()
    except OSError as error:
        return errno.errorcode.get(error.errno, type(error).__name__)
def greet(listener):
    while True:
        listener.accept()[0].sendall(b"hello")
ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def heard():
    ear.setblocking(False)
    try:
        return ear.recv(100).decode()
    except BlockingIOError:
        return None
def handler(event, context):
    if "heard" in event:
        return heard()
    if "connect" in event:
        return {address: connect(address, event["port"]) for address in event["connect"]}
    if "listen" in event:
        listener = socket.create_server(("0.0.0.0", event["listen"]))
        threading.Thread(target=greet, args=(listener,), daemon=True).start()
        ear.bind(("0.0.0.0", event["listen"]))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("44.55.66.77", 9))
            return probe.getsockname()[0]
    return tamper() if "tamper" in event else look()
def look():
    read = lambda name: open(name).read() if os.path.exists(name) else None
    return {
        "interfaces": sorted(os.listdir("/sys/class/net")),
        "routes": read("/proc/net/route").splitlines()[1:],
        "hosts": read("/etc/hosts"),
        "resolv": read("/etc/resolv.conf"),
        "caps": [l.split()[1] for l in read("/proc/self/status").splitlines() if l[:3] == "Cap"],
    }
def message(kind, flags, body):
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body
def refused(attempt):
    try:
        return attempt() or "worked"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
def netlink(family, text):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family) as wire:
        wire.settimeout(2)
        wire.send(text)
        answer = wire.recv(4096)
        code = struct.unpack_from("=i", answer, 16)[0]
        return errno.errorcode[-code] if code else "worked"
def tamper():
    libc = ctypes.CDLL(None, use_errno=True)
    def raw():
        socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)
    def replace():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any:
            any.setsockopt(0, 64, b"\\0" * 128)  # IPT_SO_SET_REPLACE
    def delete():
        # NFT_MSG_DELTABLE in a batch: the whole filter.
        begin = message(16, 1, struct.pack(">BBH", 0, 0, 10))
        name = struct.pack("=HH", 11, 1) + b"filter\\0\\0"
        table = message((10 << 8) | 2, 5, struct.pack(">BBH", 2, 0, 0) + name)
        return netlink(12, begin + table + message(17, 1, struct.pack(">BBH", 0, 0, 10)))
    def address():
        body = struct.pack("=BBBBI", 2, 24, 0, 0, 2) + struct.pack("=HH4s", 8, 2, b"\\x0a\\0\\0\\1")
        return netlink(0, message(20, 0x605, body))
    def enter():
        # A user namespace, in which it is root with every capability; the walls are not of it.
        child = os.fork()
        if not child:
            libc.unshare(0x10000000)
            said = refused(delete)
            os._exit(0 if said == "worked" else getattr(errno, said))
        if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            raise OSError(code, "in a namespace of users")
    return {f.__name__: refused(f) for f in (raw, replace, delete, address, enter)}
"""


@pytest.fixture(autouse=True)
def network(podman: PodmanService, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One of the test's own, so that nobody else's sandboxes are on it."""
    monkeypatch.setattr(egress, "NETWORK", NETWORK)
    monkeypatch.setattr(egress, "SUBNETS", (SUBNET,))
    monkeypatch.setattr(netns, "resolvers", lambda: (ip_address(NAME_SERVER),))
    yield
    podman.podman("network", "rm", "--force", NETWORK)


@pytest.fixture
def bench(codes: Codes, lines: Lines, podman: PodmanService) -> Bench:
    return Bench(codes, lines, podman)


async def with_network(driver: PodmanDriver, bench: Bench) -> Sandbox:
    return await bound(driver, bench, SOURCE, network="egress")


@pytest.fixture
async def driver(bench: Bench) -> AsyncIterator[PodmanDriver]:
    async with driver_of(bench, bench.settings()) as driver:
        yield driver


def driver_of(bench: Bench, settings: Settings) -> PodmanDriver:
    return PodmanDriver(settings, bench.codes.release)


async def told(sandbox: Sandbox, **asked: Any) -> Any:
    outcome = await sandbox.call(event(json.dumps(asked).encode()))
    assert outcome.failure is None, outcome.failure
    return json.loads(outcome.body)


async def reached(sandbox: Sandbox, internet: Internet, addresses: Iterable[str]) -> dict[str, str]:
    found = await told(sandbox, connect=list(addresses), port=internet.port)
    assert isinstance(found, dict)
    return found


def pid_of(podman: PodmanService, driver: PodmanDriver, sandbox: Sandbox) -> int:
    name = f"hearth-{driver._tag}-{sandbox.id}"
    return int(podman.podman("inspect", "--format", "{{.State.Pid}}", name))


def host_addresses() -> list[str]:
    """All of version 4, with the bridge's own once a sandbox is on it."""
    return [str(address) for address in netns.host_addresses() if address.version == 4]


async def test_the_public_internet_answers_by_name_and_number(
    driver: PodmanDriver, bench: Bench, internet: Internet
) -> None:
    sandbox = await with_network(driver, bench)
    assert await reached(sandbox, internet, [PUBLIC, "public.test"]) == {
        PUBLIC: "hello", "public.test": "hello",
    }  # fmt: skip


async def test_the_host_is_reached_by_none_of_its_addresses(
    driver: PodmanDriver, bench: Bench, internet: Internet
) -> None:
    sandbox = await with_network(driver, bench)
    addresses = host_addresses()
    assert {GATEWAY, PUBLIC_OF_HOST} <= set(addresses)
    found = await reached(sandbox, internet, [*addresses, "127.0.0.1", "127.0.0.53"])
    assert set(found.values()) == {"ECONNREFUSED"}
    assert internet.callers == []


async def test_private_and_special_addresses_are_refused(
    driver: PodmanDriver, bench: Bench, internet: Internet
) -> None:
    sandbox = await with_network(driver, bench)
    # The private one answers, and so does the name server at another port than its own.
    special = ["100.64.0.1", "198.18.0.1", "203.0.113.9", "240.0.0.1", "0.0.0.0"]
    wanted = [PRIVATE, NAME_SERVER, METADATA, "10.0.0.1", *special]
    found = await reached(sandbox, internet, wanted)
    assert set(found.values()) == {"ECONNREFUSED"}


async def test_without_walls_all_of_these_would_answer(
    driver: PodmanDriver, bench: Bench, internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the tests above would see it."""
    monkeypatch.setattr(netns, "wall", lambda pid, rules: None)
    sandbox, neighbour = [await with_network(driver, bench) for _ in range(2)]
    theirs = await told(neighbour, listen=internet.port)
    wanted = [*host_addresses(), PRIVATE, NAME_SERVER, theirs]
    assert set((await reached(sandbox, internet, wanted)).values()) == {"hello"}
    assert internet.callers != []
    assert await answers(theirs, internet.port)
    shout(theirs, internet.port)
    assert await told(neighbour, heard=True) == "hello"


async def test_neighbours_do_not_reach_each_other_and_the_host_reaches_none(
    driver: PodmanDriver, bench: Bench, internet: Internet
) -> None:
    one, other = [await with_network(driver, bench) for _ in range(2)]
    theirs = await told(other, listen=internet.port)
    assert (await reached(one, internet, [theirs]))[theirs] == "ECONNREFUSED"
    assert not await answers(theirs, internet.port)
    shout(theirs, internet.port)
    assert await told(other, heard=True) is None
    assert (await reached(other, internet, ["127.0.0.1"])) == {"127.0.0.1": "hello"}


async def test_a_neighbour_without_walls_of_its_own_is_kept_out_too(
    driver: PodmanDriver, bench: Bench, internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes in must pass the walls of who listens."""
    walled = await with_network(driver, bench)
    theirs = await told(walled, listen=internet.port)
    monkeypatch.setattr(netns, "wall", lambda pid, rules: None)
    stranger = await with_network(driver, bench)
    assert (await reached(stranger, internet, [theirs]))[theirs] != "hello"


def shout(address: str, port: int) -> None:
    """A datagram needs no answer to be heard."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth:
        mouth.sendto(b"hello", (address, port))


async def answers(address: str, port: int) -> bool:
    """Whether this host gets a greeting there."""
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                return await reader.read(5) == GREETING
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


async def test_what_operators_allow_answers_and_nothing_beside_it(
    bench: Bench, internet: Internet
) -> None:
    port = internet.port
    settings = bench.settings(egress_allow=(f"{PRIVATE}:{port}", f"{PUBLIC_OF_HOST}/32:{port}"))
    async with driver_of(bench, settings) as driver:
        sandbox = await with_network(driver, bench)
        found = await reached(sandbox, internet, [PRIVATE, PUBLIC_OF_HOST, NAME_SERVER])
        assert found == {PRIVATE: "hello", PUBLIC_OF_HOST: "hello", NAME_SERVER: "ECONNREFUSED"}
        assert await told(sandbox, connect=[PRIVATE], port=port + 1) == {PRIVATE: "ECONNREFUSED"}
    assert len(internet.callers) == 1


async def test_version_6_is_closed_where_the_bridge_has_none(
    driver: PodmanDriver, bench: Bench, internet: Internet, podman: PodmanService
) -> None:
    sandbox = await with_network(driver, bench)
    walls = walls_of(pid_of(podman, driver, sandbox))
    assert walls.count("-P INPUT DROP") == walls.count("-P OUTPUT DROP") == 2
    of_host = [a for a in netns.host_addresses() if a.version == 6]
    wanted = [f"{a}%eth0" if a.is_link_local else str(a) for a in of_host]
    found = await reached(sandbox, internet, [*wanted, "fe80::1%eth0", "2600::1"])
    assert not {"hello", "TimeoutError"} & set(found.values())


async def test_a_sandbox_without_a_network_has_no_interface_but_its_own(
    driver: PodmanDriver, bench: Bench
) -> None:
    seen = await told(await bound(driver, bench, SOURCE), look=True)
    assert seen["interfaces"] == ["lo"]
    assert seen["routes"] == []


async def test_hosts_are_ours_and_name_servers_those_that_can_be_asked(
    driver: PodmanDriver, bench: Bench
) -> None:
    seen = await told(await with_network(driver, bench), look=True)
    assert seen["hosts"] == "127.0.0.1\tlocalhost sandbox\n::1\tlocalhost\n"
    assert seen["resolv"] == f"nameserver {NAME_SERVER}\nsearch .\n"
    assert seen["interfaces"] == ["eth0", "lo"]


async def test_the_walls_cannot_be_changed_from_inside(
    driver: PodmanDriver, bench: Bench, podman: PodmanService
) -> None:
    sandbox = await with_network(driver, bench)
    pid = pid_of(podman, driver, sandbox)
    before = walls_of(pid)
    assert set((await told(sandbox, look=True))["caps"]) == {"0" * 16}
    assert set((await told(sandbox, tamper=True)).values()) <= {"EPERM", "EACCES", "ENOPROTOOPT"}
    assert walls_of(pid) == before


async def test_walls_that_cannot_be_built_keep_the_container_from_starting(
    driver: PodmanDriver, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    spaces: set[int] = set()
    build = netns.wall

    def wall(pid: int, rules: Any) -> None:
        spaces.add(Path(f"/proc/{pid}/ns/net").stat().st_ino)
        build(pid, rules)

    monkeypatch.setattr(netns, "wall", wall)
    monkeypatch.setattr(netns, "_PATH", "/nowhere")
    with pytest.raises(Exception, match="iptables-restore is not installed"):
        await with_network(driver, bench)
    await asyncio.gather(*[p.closing for p in driver._parts.values() if p.closing])
    assert len(spaces) == 1
    assert spaces.isdisjoint(path.stat().st_ino for path in Path("/run/netns").iterdir())
    assert not bench.codes.held


# --- what a killed node leaves of its network ----------------------------------------------------

NODE = f"""
import asyncio, sys, uvloop
from pathlib import Path
from core.settings import Settings
from executor import egress
from executor.podman import PodmanDriver
from tests.fixtures.sandboxes import PYTHON
egress.NETWORK, egress.SUBNETS = {NETWORK!r}, ({SUBNET!r},)

async def main():
    async with PodmanDriver(Settings.from_env(), lambda code: None) as driver:
        *stems, frozen = [await driver.boot(PYTHON, "egress") for _ in range(4)]
        assert driver.freeze(frozen)
        booting = asyncio.create_task(driver.boot(PYTHON, "egress"))
        await asyncio.sleep(0.05)
        print("ready", flush=True)
        await asyncio.sleep(3600)

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize("who_clears", ["guard", "next start"])
async def test_a_killed_node_keeps_no_address_of_the_network(
    podman: PodmanService, codes: Codes, tmp_path: Path, who_clears: str
) -> None:
    """Five addresses for five sandboxes: the second and third life need those of the first."""
    for _ in range(3):
        life = Life(podman, tmp_path / "code", NODE)
        try:
            await asyncio.to_thread(life.start)
            mine = namespaces(podman, life.settings.run_dir)
            assert len(mine) >= 4
            if who_clears == "guard":
                life.kill(life.node)
                assert life.guard is not None
                await asyncio.to_thread(life.guard.wait, PATIENCE_S)
            else:
                life.kill(life.guard)
                life.kill(life.node)
                async with PodmanDriver(life.settings, codes.release):
                    assert cgroup.kill(cleanup.group_of(life.settings.run_dir)) == 0
            await asyncio.to_thread(podman.await_nothing_of, life.settings.run_dir)
            assert [path for path in mine if path.exists()] == []
        finally:
            life.close()
