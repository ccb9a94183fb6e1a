"""What only real containers can show: the walls seen from inside, memory, Podman's absence."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from core.errors import FunctionOutOfMemory, HearthError, PartAway, SandboxBroken
from core.limits import BOOTS_AT_ONCE_MAX, MIB
from executor import cgroup, cleanup, handshake
from executor import podman as podman_driver
from executor.executor import Executor
from executor.podman import PodmanDriver
from executor.sandbox import State
from runtimes.registry import RUNTIMES
from tests.fixtures.nodes import Bench, leaks_nothing, open_descriptors, until
from tests.fixtures.podman_service import PodmanService
from tests.fixtures.sandboxes import ECHO, NODE, PYTHON, Codes, Lines, event, version_of

pytestmark = pytest.mark.podman

INSIDE = """
import json, os, re

def read(path):
    with open(path) as file:
        return file.read()

def setuid():
    found = []
    for folder, _, names in os.walk("/", onerror=None):
        if folder.startswith(("/proc", "/sys")):
            continue
        for name in names:
            path = os.path.join(folder, name)
            try:
                mode = os.lstat(path).st_mode
            except OSError:
                continue
            if mode & 0o6000 and (mode & 0o170000) == 0o100000:
                found.append(path)
    return found

def writable():
    found = []
    for line in read("/proc/self/mounts").splitlines():
        point = line.split(" ")[1]
        probe = os.path.join(point, "probe")
        try:
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT, 0o600))
        except OSError:
            continue
        os.unlink(probe)
        found.append(point)
    return found

def limits():
    lines = read("/proc/self/limits").splitlines()
    wanted = {"Max open files", "Max processes", "Max core file size"}
    return {l[:26].strip(): l[26:].split()[:2] for l in lines if l[:26].strip() in wanted}

def handler(event, context):
    status = dict(re.findall(r"(\\w+):\\s*(.*)", read("/proc/self/status")))
    mounts = [line.split(" ")[:4] for line in read("/proc/self/mounts").splitlines()]
    return {
        "status": status,
        "mounts": [(m[1], m[2], m[3].split(",")) for m in mounts],
        "writable": writable(),
        "setuid": setuid(),
        "interfaces": sorted(os.listdir("/sys/class/net")),
        "routes": read("/proc/net/route").splitlines()[1:],
        "hosts": read("/etc/hosts"),
        "resolv": os.path.exists("/etc/resolv.conf"),
        "env": dict(os.environ),
        "own": read("/proc/1/environ"),
        "command": read("/proc/1/cmdline"),
        "socket": os.listdir("/run/hearth"),
        "limits": limits(),
        "pids": sorted(int(p) for p in os.listdir("/proc") if p.isdigit()),
        "groups": os.getgroups(),
        "devices": sorted(os.listdir("/dev")),
        "descriptors": sorted(os.listdir("/proc/self/fd"), key=int),
    }
"""
EATS = (
    "def handler(event, context):\n"
    "  eaten = []\n"
    "  while True: eaten.append(bytearray(1 << 20))"
)  # fmt: skip


# A thread may come late to its first call of Podman's.
API_CONNECTIONS_MAX = BOOTS_AT_ONCE_MAX + 2


@pytest.fixture
def bench(codes: Codes, lines: Lines, podman: PodmanService) -> Bench:
    return Bench(codes, lines, podman)


async def told(executor: Executor, codes: Codes, source: str, **config: Any) -> Any:
    outcome = await executor.invoke(codes.version(source, **config), event())
    assert outcome.failure is None, outcome.failure
    return json.loads(outcome.body)


async def failing(work: Awaitable[object], error: type[HearthError]) -> HearthError:
    with pytest.raises(error) as caught:
        await work
    return caught.value


async def test_the_walls_seen_from_inside(bench: Bench, codes: Codes) -> None:
    async with bench.node() as executor:
        seen = await told(executor, codes, INSIDE, env={"TOKEN": "s3cret"})
        shown = await asyncio.to_thread(inspected, bench)
    status = seen["status"]
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert len({*status["Uid"].split(), *status["Gid"].split()}) == 1
    assert int(status["Uid"].split()[0]) > 400_000
    assert seen["groups"] in ([], [int(status["Gid"].split()[0])])
    points = {point: (kind, options) for point, kind, options in seen["mounts"]}
    for point in ("/", "/var/task", "/run/hearth", "/etc/hosts", "/sys"):
        assert "ro" in points[point][1], point
    for point in ("/var/task", "/run/hearth", "/tmp"):
        assert {"nosuid", "nodev"} <= set(points[point][1]), point
    assert set(seen["writable"]) <= {"/tmp", "/dev/shm", "/dev/mqueue"}
    assert seen["setuid"] == []
    assert (seen["interfaces"], seen["routes"], seen["resolv"]) == (["lo"], [], False)
    assert seen["hosts"] == "127.0.0.1\tlocalhost sandbox\n::1\tlocalhost\n"
    assert seen["socket"] == []
    assert seen["limits"] == {
        "Max open files": ["1024", "1024"],
        "Max processes": ["256", "256"],
        "Max core file size": ["0", "0"],
    }
    assert seen["pids"] == [1]
    assert not {"kmsg", "mem", "vda", "sda", "fuse", "net"} & set(seen["devices"])
    assert seen["env"]["TOKEN"] == "s3cret"
    assert "s3cret" not in shown + seen["own"] + seen["command"]


def inspected(bench: Bench) -> str:
    assert bench.service is not None
    ids = bench.service.podman("ps", "--quiet", "--filter", "label=hearth.node").split()
    return bench.service.podman("inspect", *ids)


async def test_the_environment_is_the_functions_own_and_nothing_of_the_hosts(
    bench: Bench, codes: Codes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEARTH_S3_SECRET", "of-the-platform")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:password@proxy.invalid")
    async with bench.node() as executor:
        env = await told(
            executor, codes, "import os\ndef handler(e, c): return dict(os.environ)", env={"A": "b"}
        )
    assert env.pop("A") == "b"
    allowed = ("AWS_LAMBDA_", "LAMBDA_TASK_ROOT", "_HANDLER", "HEARTH_NAMESPACE", "TMPDIR", "HOME",
               "PATH", "LANG", "LC_", "SSL_CERT_FILE")  # fmt: skip
    assert [name for name in env if not name.startswith(allowed)] == []


async def test_every_sandbox_has_an_id_of_its_own(bench: Bench, codes: Codes) -> None:
    source = "import os\ndef handler(e, c): return [os.getuid(), os.getgid()]"
    async with bench.node() as executor:
        ids = [await told(executor, codes, source) for _ in range(3)]
        assert all(uid == gid for uid, gid in ids)
        assert len({uid for uid, _ in ids}) == 3


async def test_ids_are_used_again_when_their_sandbox_is_gone_and_not_before(
    bench: Bench, codes: Codes
) -> None:
    source = "import os\ndef handler(e, c): return os.getuid()"
    async with bench.node(uid_count=2) as executor:
        first, second = codes.version(source), codes.version(source)
        used = [(await executor.invoke(v, event())).body for v in (first, second)]
        await failing(executor.invoke(codes.version(source), event()), SandboxBroken)
        executor.retire(first.id)
        for _ in range(1000):
            try:
                again = (await executor.invoke(first, event())).body
                break
            except SandboxBroken:  # not gone yet
                await asyncio.sleep(0.02)
        assert again == used[0] != used[1]


async def test_limits_are_the_versions_own(bench: Bench, codes: Codes) -> None:
    async with bench.node() as executor:
        await told(executor, codes, ECHO, memory_mb=200, cpus=0.25)
        said = {}
        for group in sandbox_groups(bench):
            for file in ("memory.limit_in_bytes", "cpu.cfs_quota_us", "memory.max", "cpu.max"):
                if (group / file).exists():
                    said[file] = (group / file).read_text().split()[0]
    assert str(200 * MIB) in said.values()
    assert "25000" in said.values()


def node_group(bench: Bench) -> str:
    assert bench.service is not None
    return cleanup.group_of(bench.service._run_dirs[-1])


async def test_running_out_of_memory_is_told_with_the_limit(bench: Bench, codes: Codes) -> None:
    async with bench.node() as executor:
        version = codes.version(EATS, memory_mb=64)
        for _ in range(3):
            error = await failing(executor.invoke(version, event()), FunctionOutOfMemory)
            assert error.details["memory_mb"] == 64
            assert "64 MB" in error.message


async def test_running_out_of_memory_while_loading_is_told_as_such(
    bench: Bench, codes: Codes
) -> None:
    async with bench.node() as executor:
        version = codes.version("eaten = [bytearray(1 << 20) for _ in range(1000)]", memory_mb=64)
        await failing(executor.check(version), FunctionOutOfMemory)


async def test_out_of_memory_is_known_after_the_container_s_group_is_gone(
    bench: Bench, codes: Codes, lines: Lines
) -> None:
    """As on a machine so loaded that Podman has cleaned up before the loop looks."""
    settings = bench.settings()
    assert bench.service is not None
    for source, ran_out in ((EATS, True), ("import os\ndef handler(e, c): os._exit(9)", False)):
        async with PodmanDriver(settings, codes.release) as driver:
            version = codes.version(source, memory_mb=64)
            stem = await driver.boot(PYTHON, "none")
            await driver.bind(stem, version, await codes.tree(version))
            await stem.init(version, lines, 1000)
            answer = stem.call(event())
            await asyncio.sleep(0)  # the loop sends the call, then stands still
            group = driver._parts[stem.id].cgroup
            wait_without_the_loop(bench.service, settings.run_dir, group.path)
            assert stem.state is State.READY
            assert group.ran_out_of_memory() is ran_out
            with pytest.raises(HearthError) as caught:
                await answer
            assert (caught.type is FunctionOutOfMemory) is ran_out


def wait_without_the_loop(service: PodmanService, run_dir: Path, path: str) -> None:
    """Block until Podman has removed container and group."""
    while service.containers(run_dir):
        pass
    for tree in cgroup.trees(path):
        assert [entry for entry in tree.iterdir() if entry.is_dir()] == []


async def test_a_child_that_runs_out_of_memory_does_not_end_the_function(
    bench: Bench, codes: Codes
) -> None:
    source = (
        "import subprocess, sys\n"
        "def handler(e, c):\n"
        "  code = 'x = [bytearray(1 << 20) for _ in range(1000)]'\n"
        "  return subprocess.run([sys.executable, '-c', code]).returncode"
    )
    async with bench.node() as executor:
        assert await told(executor, codes, source, memory_mb=64) == -9


async def test_podman_away_is_told_and_heals(bench: Bench, codes: Codes) -> None:
    async with bench.node() as executor:
        assert bench.service is not None
        await told(executor, codes, ECHO)
        await executor.ping()
        await asyncio.to_thread(bench.service.stop)
        try:
            error = await failing(executor.invoke(codes.version(ECHO), event()), PartAway)
            assert error.details["part"] == "podman"
            await failing(executor.ping(), PartAway)
        finally:
            await asyncio.to_thread(bench.service.start)
        await told(executor, codes, ECHO)
        await executor.ping()


async def test_a_missing_image_is_told_with_what_to_do(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = dataclasses.replace(PYTHON, image="localhost/hearth-nothing:latest")
    monkeypatch.setitem(RUNTIMES, PYTHON.name, gone)
    async with bench.node() as executor:
        error = await failing(executor.invoke(version_of("/"), event()), SandboxBroken)
        assert "hearth images build" in error.message


async def test_a_container_that_never_connects_is_given_up_and_removed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "HELLO_TIMEOUT_S", 0.5)
    silent = dataclasses.replace(PYTHON, command=("sleep", "3600"))
    settings = bench.settings()
    before = open_descriptors()
    async with PodmanDriver(settings, bench.codes.release) as driver:
        await failing(driver.boot(silent, "none"), SandboxBroken)
        assert bench.service is not None
        await until(lambda: not sandbox_groups(bench))
        assert bench.service.containers(settings.run_dir) == []
    await leaks_nothing(before)


@pytest.mark.parametrize(
    "command",
    [
        ("/no/such/program",),
        ("true",),
        ("python3", "-c", "import socket; socket.socket(1).connect('/run/hearth/shim.sock')"),
        ("python3", "-c", "import socket as s; c = s.socket(1); c.connect('/run/hearth/shim.sock')"
                          "\nc.sendall(b'x' * 100000)"),
    ],
)  # fmt: skip
async def test_a_container_that_is_no_shim_is_broken_and_leaves_nothing(
    command: tuple[str, ...], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "HELLO_TIMEOUT_S", 2.0)
    settings = bench.settings()
    async with PodmanDriver(settings, bench.codes.release) as driver:
        await failing(
            driver.boot(dataclasses.replace(PYTHON, command=command), "none"), SandboxBroken
        )
    assert bench.service is not None
    await asyncio.to_thread(bench.service.await_nothing_of, settings.run_dir)


async def test_one_run_directory_has_one_node_at_a_time(
    bench: Bench, codes: Codes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(podman_driver, "_TAKE_OVER_S", 0.2)
    settings = bench.settings()
    async with Executor(settings, bench.driver(settings), codes, bench.lines) as executor:
        version = codes.version(ECHO)
        await executor.invoke(version, event())
        with pytest.raises(SandboxBroken, match="another node"):
            async with PodmanDriver(settings, codes.release):
                pass
        assert not (await executor.invoke(version, event())).cold


async def test_stems_make_a_cold_start_a_bind_and_are_refilled(bench: Bench, codes: Codes) -> None:
    async with bench.node(stems=1) as executor:
        full = {PYTHON.name: 1, NODE.name: 1}
        await until(lambda: executor.stats().stems == full)
        assert (await executor.invoke(codes.version(ECHO), event())).cold
        await until(lambda: executor.stats().stems == full)


async def test_a_stem_killed_in_stock_is_replaced(bench: Bench, codes: Codes) -> None:
    async with bench.node(stems=1) as executor:
        full = {PYTHON.name: 1, NODE.name: 1}
        await until(lambda: executor.stats().stems == full)
        assert bench.service is not None
        names = await asyncio.to_thread(bench.service.containers, bench.service._run_dirs[-1])
        await asyncio.to_thread(bench.service.podman, "kill", *names)
        await until(lambda: executor.stats().stems != full)
        await until(lambda: executor.stats().stems == full)
        assert (await executor.invoke(codes.version(ECHO), event())).status == 200


async def test_every_sandbox_closed_gives_back_all_it_held(bench: Bench, codes: Codes) -> None:
    async with bench.node() as executor:
        for number in range(4):
            version = codes.version(ECHO)
            await executor.invoke(version, event())
            executor.retire(version.id)
            await until(lambda: not codes.held)
            assert bench.service is not None
            await until(lambda: cgroup.trees(node_group(bench)) and not sandbox_groups(bench))
            if number == 0:  # threads and connections of Podman's API are there from now on
                before = open_descriptors()
        assert len(open_descriptors() - before) <= API_CONNECTIONS_MAX


def sandbox_groups(bench: Bench) -> list[Path]:
    trees = cgroup.trees(node_group(bench))
    found = [entry for tree in trees for entry in tree.iterdir() if entry.is_dir()]
    return [entry for entry in found if entry.name != cgroup.STILL]
