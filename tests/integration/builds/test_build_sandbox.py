"""The container that installs: what it may reach, what stops it, and that nothing of it stays."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from core.errors import BuildFailed, PartAway, SandboxBroken
from executor import netns
from executor.build_sandbox import BuildSandbox, Installation
from executor.firewall import Endpoint
from runtimes.registry import RUNTIMES
from tests.integration.builds.conftest import containers_of
from worker.images import Images

pytestmark = pytest.mark.podman

IMAGE = RUNTIMES["python3.13"].builder_image
UID = 299_001


class Bench:
    """Runs one command after the other."""

    def __init__(self, podman: Path, folder: Path) -> None:
        self.podman = podman
        self.node = folder.name
        self.sandbox = BuildSandbox(podman, node=self.node, builder="test")
        self.folder = folder
        self.printed = b""

    def run(
        self,
        command: str,
        *,
        tick: Callable[[], None] = lambda: None,
        timeout_s: float = 100.0,
        memory_mb: int = 256,
        has_network: bool = False,
        allowed: frozenset[Endpoint] = frozenset(),
    ) -> int:
        (self.folder / "src").mkdir(exist_ok=True)
        wanted = Installation(
            image=IMAGE,
            command=("sh", "-c", command),
            source=self.folder / "src",
            output=self.folder / "out",
            uid=UID,
            memory_mb=memory_mb,
            timeout_s=timeout_s,
            has_network=has_network,
            allowed=allowed,
        )
        self.printed = b""
        return self.sandbox.run(wanted, write=self._print, tick=tick)

    def python(self, code: str, **more: object) -> int:
        (self.folder / "src").mkdir(exist_ok=True)
        (self.folder / "src" / "run.py").write_text(code)
        return self.run("exec python3 /src/run.py", **more)  # type: ignore[arg-type]

    def _print(self, output: bytes) -> None:
        self.printed += output


@pytest.fixture
def bench(build_podman: Path, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(build_podman, tmp_path)
    yield made
    root = Path("/sys/fs/cgroup")  # not all of it: others' groups come and go
    groups = [*root.glob("hearth-builds/*/"), *root.glob("*/hearth-builds/*/")]
    mine = [path for path in groups if path.name.startswith(("test.", "living."))]
    assert mine == [], "a control group was left behind"
    assert containers_of(made.node) == [], "a container was left behind"


def test_output_and_status_come_back(bench: Bench) -> None:
    assert bench.run("echo to stdout; echo to stderr >&2; exit 3") == 3
    assert sorted(bench.printed.splitlines()) == [b"to stderr", b"to stdout"]


def test_a_flood_of_output_arrives_whole(bench: Bench) -> None:
    assert bench.run("yes 0123456789abcde | head -c 4194304") == 0
    assert bench.printed == b"0123456789abcde\n" * (4194304 // 16)


def test_a_process_that_closes_its_output_is_still_waited_for(bench: Bench) -> None:
    assert bench.run("exec >&- 2>&-; sleep 0.5; exit 7") == 7


def test_it_has_no_rights_and_can_write_only_its_output(bench: Bench) -> None:
    code = """
import json, os
status = dict(l.split(":", 1) for l in open("/proc/self/status").read().splitlines())
writable = []
for place in ("/", "/src", "/etc", "/usr", "/var/task", "/opt", "/run", "/dev", "/out", "/tmp"):
    try:
        open(f"{place}/x", "w").close()
        writable.append(place)
    except OSError:
        pass
print(json.dumps({
    "ids": [os.getuid(), os.getgid(), os.getgroups()],
    "caps": [status[n].strip() for n in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb")],
    "privileges": status["NoNewPrivs"].strip(),
    "writable": writable,
}))
"""
    assert bench.python(code) == 0
    assert json.loads(bench.printed) == {
        "ids": [UID, UID, [UID]],
        "caps": ["0" * 16] * 5,
        "privileges": "1",
        "writable": ["/out", "/tmp"],
    }


# --- the walls


PROBE = """
import json, socket, sys
def tries(address, port):
    try:
        socket.create_connection((address, port), 5).close()
    except OSError as error:
        return type(error).__name__
    return "open"
def gateway():
    for line in open("/proc/net/route").read().splitlines()[1:]:
        words = line.split()
        if words[1] == "00000000":
            return socket.inet_ntoa(bytes.fromhex(words[2])[::-1])
port = {port}
places = [gateway(), *{addresses}]
for place in places:
    family = socket.AF_INET6 if ":" in place else socket.AF_INET
    try:
        socket.socket(family, socket.SOCK_DGRAM).sendto(b"hello", (place, port))
    except OSError:
        pass
print(json.dumps({{place: tries(place, port) for place in places}}))
"""


@contextmanager
def listening() -> Iterator[tuple[int, list[str]]]:
    """A server on every address of the host, TCP and UDP: (port, who got through)."""
    heard: list[str] = []
    tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    tcp.bind(("0.0.0.0", 0))
    port = tcp.getsockname()[1]
    udp.bind(("0.0.0.0", port))
    tcp.listen()

    def accept() -> None:
        while True:
            try:
                tcp.accept()[0].close()
            except OSError:
                return
            heard.append("tcp")

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield port, heard
        udp.setblocking(False)
        try:
            udp.recv(100)
            heard.append("udp")
        except BlockingIOError:
            pass
    finally:
        tcp.shutdown(socket.SHUT_RDWR)
        tcp.close()
        udp.close()


def probe(bench: Bench, port: int, allowed: frozenset[Endpoint] = frozenset()) -> dict[str, str]:
    """What the container could connect to."""
    own = sorted(str(address) for address in netns.host_addresses())
    code = PROBE.format(port=port, addresses=[*own, "169.254.169.254", "127.0.0.1"])
    assert bench.python(code, has_network=True, allowed=allowed) == 0, bench.printed
    result: dict[str, str] = json.loads(bench.printed)
    return result


def test_no_address_of_the_host_is_reachable_from_a_build(bench: Bench) -> None:
    with listening() as (port, heard):
        found = probe(bench, port)
    assert len(found) >= 3
    assert "open" not in found.values(), found
    assert heard == []


def test_an_endpoint_that_was_allowed_is_reachable_and_only_it(bench: Bench) -> None:
    own = next(a for a in netns.host_addresses() if isinstance(a, IPv4Address))
    with listening() as (port, heard):
        found = probe(bench, port, frozenset({Endpoint(own, port)}))
    assert [place for place, result in found.items() if result == "open"] == [str(own)]
    assert "tcp" in heard


def test_without_its_walls_nothing_is_started(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("executor.netns._PATH", "/nowhere")
    with pytest.raises(SandboxBroken, match="iptables-restore is not installed"):
        bench.run("echo started", has_network=True)
    assert bench.printed == b""


def test_what_a_name_means_is_asked_again_when_it_may_have_changed(
    build_podman: Path, tmp_path: Path
) -> None:
    sandbox = BuildSandbox(build_podman, node="x", builder="x")
    images, name = Images(sandbox), f"localhost/hearth-test-{secrets.token_hex(8)}:latest"
    asked: list[str] = []
    ask = sandbox.image_id

    def image_id(image: str) -> str:
        asked.append(image)
        return ask(image)

    sandbox.image_id = image_id  # type: ignore[method-assign]
    made, found = [], []
    try:
        for content in (b"one", b"two"):  # images of this test's own, and of one file
            with tarfile.open(tmp_path / "image.tar", "w") as archive:
                archive.addfile(tarfile.TarInfo(content.decode()))
            command = ["podman", "import", "--quiet", str(tmp_path / "image.tar"), name]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            made.append(done.stdout.strip())
            before = images._look(), len(asked)
            found += [images.ids(name), images.ids(name)]
            if images._look() == before[0]:  # unless somebody else makes images meanwhile
                assert len(asked) == before[1] + 1
    finally:
        subprocess.run(["podman", "rmi", *made], check=True, capture_output=True)
    assert (
        found == [[made[0].removeprefix("sha256:")]] * 2 + [[made[1].removeprefix("sha256:")]] * 2
    )
    with pytest.raises(SandboxBroken, match="is missing on this node"):
        images.ids(name)


# --- what stops it


def test_a_run_over_its_time_is_ended(bench: Bench) -> None:
    with pytest.raises(BuildFailed, match="took longer than 1 s"):
        bench.run("sleep 1000", timeout_s=1.0)


def test_a_run_that_nobody_wants_any_more_is_ended(bench: Bench) -> None:
    class Enough(Exception):
        pass

    def tick() -> None:
        if b"started" in bench.printed:
            raise Enough

    with pytest.raises(Enough):
        bench.run("echo started; trap '' TERM; while :; do sleep 1; done", tick=tick)


def test_a_run_that_fills_the_disk_is_ended_while_it_does(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("executor.build_sandbox.DEPENDENCIES_BYTES_MAX", 4 << 20)
    monkeypatch.setattr("executor.build_sandbox._MEASURE_S", 0.1)
    fill = "for i in 1 2 3 4 5 6 7 8; do head -c 1048576 /dev/zero > /out/$i; done; sleep 1000"
    with pytest.raises(BuildFailed, match="more than 4 MiB"):
        bench.run(fill)


def test_one_file_cannot_outgrow_the_limit_at_all(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("executor.build_sandbox.DEPENDENCIES_BYTES_MAX", 1 << 20)
    bench.run("head -c 1000000000 /dev/zero > /out/big")
    assert (bench.folder / "out" / "big").stat().st_size <= 1 << 20


def test_a_sparse_file_counts_in_full_and_many_small_ones_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("executor.build_sandbox.DEPENDENCIES_ENTRIES_MAX", 100)
    with pytest.raises(BuildFailed, match="100 files"):
        bench.run("cd /out; for i in $(seq 200); do : > $i; done")


def test_out_of_memory_is_called_by_its_name(bench: Bench) -> None:
    with pytest.raises(BuildFailed, match="ran out of memory"):
        bench.python("x = bytearray(200 << 20); x[::4096] = b'1' * len(x[::4096])", memory_mb=64)


def test_forks_are_bounded(bench: Bench) -> None:
    code = """
import os, time
made = 0
try:
    while made < 100_000:
        if os.fork() == 0:
            time.sleep(1000)
        made += 1
except OSError:
    print("bounded", flush=True)
os._exit(0)
"""
    assert bench.python(code) == 0
    assert bench.printed == b"bounded\n"


# --- around it


def test_a_missing_image_is_named_with_what_makes_it(bench: Bench) -> None:
    with pytest.raises(SandboxBroken, match="hearth images build"):
        bench.sandbox.image_id("localhost/hearth-no-such-image:latest")


def test_a_podman_that_is_away_is_named(tmp_path: Path) -> None:
    sandbox = BuildSandbox(tmp_path / "nothing.sock", node="n", builder="b")
    with pytest.raises(PartAway, match="podman"):
        sandbox.image_id(IMAGE)


def test_only_containers_of_builders_that_died_are_removed(bench: Bench) -> None:
    living = BuildSandbox(bench.podman, node=bench.node, builder="living")
    started = threading.Event()
    stop = threading.Event()

    class Stopped(Exception):
        pass

    def tick() -> None:
        started.set()
        if stop.is_set():
            raise Stopped

    def run() -> None:
        (bench.folder / "src").mkdir(exist_ok=True)
        wanted = Installation(
            image=IMAGE,
            command=("sleep", "1000"),
            source=bench.folder / "src",
            output=bench.folder / "out",
            uid=UID,
            memory_mb=64,
            timeout_s=100,
            has_network=False,
        )
        with pytest.raises(Stopped):
            living.run(wanted, write=lambda _: None, tick=tick)

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(100)
    assert bench.sandbox.remove_leftovers(lambda builder: builder == "living") == 0
    assert len(containers_of(bench.node)) == 1
    stop.set()
    thread.join()
