"""Functions that mean harm, in real containers: each costs one invocation a typed answer, and
nobody else anything.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from core.errors import (
    FunctionCrashed,
    FunctionInitFailed,
    FunctionOutOfMemory,
    FunctionTimeout,
    HearthError,
)
from core.limits import LOG_INVOCATION_BYTES_MAX
from core.model import Version
from executor import cgroup, cleanup, mounts, sandbox
from executor.call import Outcome
from executor.executor import Executor
from tests.fixtures.nodes import Bench, leaks_nothing, open_descriptors, until
from tests.fixtures.podman_service import PodmanService
from tests.fixtures.sandboxes import Codes, Lines, event

pytestmark = pytest.mark.podman

# The function does harm when told to, and is of use otherwise.
TEMPLATE = """
import ctypes, json, os, signal, socket, subprocess, sys, threading, time
N = 0
def handler(event, context):
    global N
    N += 1
    if not event:
        return [os.getuid(), N]
    return harm(event)
def harm(event):
"""


@dataclass(frozen=True, slots=True)
class Scene:
    """A node on which a neighbour already has a warm seat."""

    executor: Executor
    codes: Codes
    lines: Lines
    neighbour: Version
    run_dir: Path

    def hostile(self, harm: str, **config: Any) -> Version:
        body = "\n".join("    " + line for line in harm.strip().splitlines())
        return self.codes.version(TEMPLATE + body, **{"memory_mb": 128, **config})

    async def answer(self, version: Version, body: bytes = b"1") -> Any:
        outcome = await self.executor.invoke(version, event(body))
        assert outcome.failure is None, outcome.failure
        return json.loads(outcome.body)

    async def fails(self, version: Version, error: type[HearthError]) -> None:
        with pytest.raises(error):
            await self.executor.invoke(version, event(b"1"))

    async def serves(self, version: Version) -> int:
        """The next call of the same function works; its sandbox's user id."""
        uid, _ = await self.answer(version, b"0")
        return int(uid)


@pytest.fixture
async def scene(codes: Codes, lines: Lines, podman: PodmanService) -> AsyncIterator[Scene]:
    """What a test leaves is counted: one sandbox each for the neighbour and the hostile at most."""
    bench = Bench(codes, lines, podman)
    neighbour = codes.version("n = 0\ndef handler(e, c):\n  global n; n += 1; return n")
    settings = podman.settings(stems=0)
    before = open_descriptors()
    async with Executor(settings, bench.driver(settings), codes, lines) as executor:
        scene = Scene(executor, codes, lines, neighbour, settings.run_dir)
        assert await scene.answer(neighbour) == 1
        yield scene
        assert await scene.answer(neighbour) == 2, "the neighbour lost its sandbox"
        await until(lambda: len(groups(settings.run_dir)) <= 2)
        code_points = mounts.mounts_below(settings.run_dir / "code")
        assert len(code_points) <= 2
    assert not codes.held
    await asyncio.to_thread(podman.await_nothing_of, settings.run_dir)
    await leaks_nothing(before)


def groups(run_dir: Path) -> set[str]:
    trees = cgroup.trees(cleanup.group_of(run_dir))
    return {entry.name for tree in trees for entry in tree.iterdir() if entry.is_dir()}


# --- code that does not load -------------------------------------------------------------------


UNLOADABLE = {
    "def handler(e, c) return 1": "SyntaxError",
    "import missing_module": "ModuleNotFoundError",
    "\0": "SyntaxError",
    "\ud800": "SyntaxError",
    "raise SystemExit(3)": "Runtime.ExitError",
    "import os; os.kill(os.getpid(), 9); os.abort()": "Runtime.ExitError",
    "class E(BaseException):\n  def __str__(self): raise E\nraise E": "E",
    "handler = 5": "HandlerNotFound",
}


async def test_code_that_cannot_load_is_told_why(scene: Scene) -> None:
    for source, kind in UNLOADABLE.items():
        version = scene.codes.version("")
        file = Path(version.layers[0]) / "main.py"
        file.write_bytes(source.encode("utf-8", "surrogatepass"))
        with pytest.raises(FunctionInitFailed) as caught:
            await scene.executor.invoke(version, event())
        assert caught.value.details["type"] == kind, source


async def test_code_that_loads_for_ever_is_given_up(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "INIT_TIMEOUT_S", 0.5)
    with pytest.raises(FunctionInitFailed) as caught:
        await scene.executor.invoke(scene.codes.version("while True: pass"), event())
    assert caught.value.details["type"] == "Runtime.Timeout"


# --- errors and answers ------------------------------------------------------------------------


RAISED, INVALID = "function_error", "function_response_invalid"
ERRORS = {
    "raise ValueError('no')": RAISED,
    "raise KeyboardInterrupt": RAISED,
    "sys.exit(0)": RAISED,
    "raise RecursionError('x' * 10_000_000)": RAISED,
    "def f(): f()\nf()": RAISED,
    "value = object()": INVALID,
    "value = {1, 2}": INVALID,
    "value = float('nan')": INVALID,
    "value = []; value.append(value)": INVALID,
    "value = 'x' * 7_000_000": INVALID,
    "value = (i for i in range(3))": INVALID,
}


async def test_its_own_errors_are_values_and_it_keeps_its_sandbox(scene: Scene) -> None:
    names = "names = dict(globals())\nexec(event, names)\nreturn names['value']"
    version = scene.hostile(names, memory_mb=256)
    uid = await scene.serves(version)
    for source, code in ERRORS.items():
        outcome = await scene.executor.invoke(version, event(json.dumps(source).encode()))
        assert outcome.failure is not None, source
        assert outcome.failure.code == code, source
        assert await scene.serves(version) == uid


# --- the end of its process --------------------------------------------------------------------


@pytest.mark.parametrize(
    "harm",
    [
        "os._exit(0)",
        "os.abort()",
        "ctypes.string_at(0)",
        "os.close(0); os.closerange(1, 1024); return 1",
        "signal.raise_signal(signal.SIGTERM); time.sleep(60)",
        "threading.Thread(target=os._exit, args=(1,)).start(); time.sleep(60)",
    ],
)
async def test_a_process_that_ends_itself_crashed_and_the_next_is_new(
    harm: str, scene: Scene
) -> None:
    version = scene.hostile(harm)
    uid = await scene.serves(version)
    await scene.fails(version, FunctionCrashed)
    assert await scene.serves(version) != uid


async def test_killing_all_reaches_nobody_outside(scene: Scene) -> None:
    """Process 1 of a namespace cannot be killed from inside; a child of it can try."""
    harm = """
subprocess.run([sys.executable, '-c', 'import os; os.kill(-1, 9)'])
for pid in range(1, 3): os.kill(pid, 0) if pid == 1 else None
if os.fork() == 0:
    os.kill(1, 9); os.kill(os.getppid(), 9); os._exit(0)
return sorted(int(p) for p in os.listdir('/proc') if p.isdigit())[0]
"""
    version = scene.hostile(harm)
    assert await scene.answer(version) == 1
    await scene.serves(version)


async def test_running_out_of_memory_is_told_with_the_limit(scene: Scene) -> None:
    version = scene.hostile("x = []\nwhile True: x.append(bytearray(1 << 20))", memory_mb=64)
    uid = await scene.serves(version)
    with pytest.raises(FunctionOutOfMemory) as caught:
        await scene.executor.invoke(version, event(b"1"))
    assert caught.value.details["memory_mb"] == 64
    assert await scene.serves(version) != uid


async def test_a_function_that_never_returns_is_stopped(scene: Scene) -> None:
    version = scene.hostile("while True: pass", timeout_s=1.0)
    await scene.fails(version, FunctionTimeout)
    await scene.serves(version)


async def test_signals_do_not_save_a_function_from_its_timeout(scene: Scene) -> None:
    harm = (
        "for n in set(range(1, 32)) - {9, 19}: signal.signal(n, signal.SIG_IGN)\n"
        "while True: time.sleep(1)"
    )
    await scene.fails(scene.hostile(harm, timeout_s=1.0), FunctionTimeout)


# --- too much of everything --------------------------------------------------------------------


async def test_forking_for_ever_stops_at_its_limit_and_ends_with_the_sandbox(scene: Scene) -> None:
    harm = """
made = 0
while True:
    try:
        if os.fork() == 0: time.sleep(3600)
        made += 1
    except OSError:
        return made
"""
    version = scene.hostile(harm, memory_mb=1024)
    made = await scene.answer(version)
    assert 100 < made < 256
    scene.executor.retire(version.id)
    await scene.serves(version)


async def test_a_fork_bomb_is_stopped_at_its_timeout(scene: Scene) -> None:
    harm = "while True:\n  try: os.fork()\n  except OSError: pass"
    version = scene.hostile(harm, memory_mb=1024, timeout_s=2.0, cpus=0.5)
    with pytest.raises((FunctionTimeout, FunctionCrashed)):
        await scene.executor.invoke(version, event(b"1"))
    await scene.serves(version)


async def test_threads_without_end_stop_at_their_limit(scene: Scene) -> None:
    harm = """
made = 0
while True:
    try:
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
        made += 1
    except RuntimeError:
        return made
"""
    assert 100 < await scene.answer(scene.hostile(harm, memory_mb=1024)) < 256


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
async def test_filling_a_folder_hits_its_size(folder: str, scene: Scene) -> None:
    harm = f"""
written = 0
with open({folder!r} + '/x', 'wb', buffering=0) as file:
    try:
        while True: written += file.write(bytes(1 << 20))
    except OSError as error:
        return [error.errno, written >> 20]
"""
    version = scene.hostile(harm, memory_mb=256)
    errno, written_mb = await scene.answer(version)
    assert errno == 28
    assert written_mb <= 64
    await scene.serves(version)


async def test_descriptors_stop_at_their_limit(scene: Scene) -> None:
    harm = """
held = []
try:
    while True: held.append(os.open('/dev/null', 0))
except OSError as error:
    return [error.errno, len(held)]
"""
    errno, held = await scene.answer(scene.hostile(harm))
    assert errno == 24
    assert held < 1024


async def test_a_hundred_megabytes_of_print_cost_only_its_own_log(scene: Scene) -> None:
    version = scene.hostile("for _ in range(100): print('x' * 1_000_000)\nreturn 'done'")
    call = event(b"1")
    outcome = await scene.executor.invoke(version, call)
    assert outcome.body == b'"done"'
    kept = sum(map(len, scene.lines.of(call)))
    assert 0 < kept <= LOG_INVOCATION_BYTES_MAX + 65536
    assert "bytes of log dropped" in scene.lines.of(call, "platform")[0]
    await scene.serves(version)


async def test_the_loop_goes_on_while_a_function_floods_its_log(scene: Scene) -> None:
    harm = "end = time.time() + 2\nwhile time.time() < end: os.write(1, b'\\n' * 65536)\nreturn 1"
    flooding = asyncio.create_task(scene.executor.invoke(scene.hostile(harm), event(b"1")))
    longest = 0.0
    loop = asyncio.get_running_loop()
    while not flooding.done():
        before = loop.time()
        await asyncio.sleep(0)
        longest = max(longest, loop.time() - before)
    assert (await flooding).body == b"1"
    assert longest < 1.0, "one sandbox held up the loop"


async def test_binary_output_is_kept_readable(scene: Scene) -> None:
    version = scene.hostile("os.write(1, bytes(range(256))); os.write(2, b'\\xff\\n'); return 1")
    call = event(b"1")
    await scene.executor.invoke(version, call)
    text = "\n".join(scene.lines.of(call))
    assert "\\xff" in text
    assert "\\x00" in text
    assert scene.lines.of(call, "stderr") == ["\\xff"]


async def test_closing_its_outputs_costs_only_its_log(scene: Scene) -> None:
    version = scene.hostile("os.close(1); os.close(2); print('lost'); return 1")
    outcome: Outcome = await scene.executor.invoke(version, event(b"1"))
    assert outcome.body == b"1" or outcome.failure is not None
    await scene.serves(version)


# --- out of its walls --------------------------------------------------------------------------


REFUSED = {
    "internet": "socket.create_connection(('1.1.1.1', 53), 2)",
    "metadata service": "socket.create_connection(('169.254.169.254', 80), 2)",
    "name server": "socket.getaddrinfo('example.com', 80)",
    "raw socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "packet socket": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "code directory": "open('/var/task/x', 'w')",
    "its own code": "os.unlink('/var/task/main.py')",
    "the mode of its code": "os.chmod('/var/task/main.py', 0o777)",
    "the times of its code": "os.utime('/var/task/main.py')",
    "the shim": "open('/opt/hearth/shim.py', 'a')",
    "hosts": "open('/etc/hosts', 'a')",
    "root directory": "open('/usr/x', 'w')",
    "socket directory": "os.mkdir('/run/hearth/x')",
    "control group": "os.mkdir('/sys/fs/cgroup/memory/x')",
    "core pattern": "open('/proc/sys/kernel/core_pattern', 'w')",
    "system request": "open('/proc/sysrq-trigger', 'w')",
    "out-of-memory score": "os.write(os.open('/proc/1/oom_score_adj', os.O_WRONLY), b'-1000')",
    "device": "os.mknod('/tmp/sda', 0o60666, os.makedev(8, 0))",
    "root user": "os.setuid(0)",
    "root group": "os.setgid(0)",
    "groups": "os.setgroups([0])",
    "root of the file system": "os.chroot('/tmp')",
    "host name": "socket.sethostname('x')",
    "priority": "os.nice(-5)",
    "descriptor limit": "__import__('resource').setrlimit(7, (4096, 4096))",
    "the listener, once more": "socket.socket(socket.AF_UNIX).connect('/run/hearth/shim.sock')",
    "clock": "time.clock_settime(time.CLOCK_REALTIME, 0)",
    "mount": "call('mount', b'/', b'/tmp', None, 4096, None)",
    "unmount": "call('umount2', b'/var/task', 2)",
    "remount": "call('mount', b'none', b'/var/task', None, 32 | 4096, None)",
    "namespace of mounts": "call('unshare', 0x00020000)",
    "namespace of users": "call('unshare', 0x10000000)",
    "namespace of its init": "call('setns', os.open('/proc/1/ns/mnt', 0), 0)",
    "kexec": "call('syscall', 246, 0, 0, 0, 0)",
    "kernel module": "call('syscall', 175, b'', 0, b'')",
    "keyring": "call('syscall', 248, b'user', b'x', b'y', 1, -3)",
    "bpf": "call('syscall', 321, 0, 0, 0)",
    "reboot": "call('reboot', 0x01234567)",
    "swap": "call('swapon', b'/tmp/x', 0)",
    "file by handle": "call('syscall', 304, -100, b'', 0)",
}


async def test_what_reaches_beyond_its_walls_is_refused(scene: Scene) -> None:
    harm = """
lib = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(lib, name)(*arguments) < 0: raise OSError(ctypes.get_errno(), name)
done = []
for name, attempt in event.items():
    try: eval(attempt, globals(), {"call": call})
    except (OSError, ValueError): continue
    done.append(name)
return done
"""
    version = scene.hostile(harm)
    assert await scene.answer(version, json.dumps(REFUSED).encode()) == []
    await scene.serves(version)


async def test_nothing_of_other_sandboxes_can_be_seen(scene: Scene) -> None:
    harm = """
seen = []
for folder in ('/proc', '/run/hearth', '/tmp', '/dev/shm', '/var/task'):
    names = [n for n in os.listdir(folder) if n.isdigit() or folder != '/proc']
    seen += [os.path.join(folder, n) for n in names]
return seen
"""
    version = scene.hostile(harm)
    other = scene.hostile("open('/tmp/secret', 'w').close()\nopen('/dev/shm/s', 'w').close()")
    await scene.executor.invoke(other, event(b"1"))
    seen = await scene.answer(version)
    scene.executor.retire(other.id)
    assert set(seen) <= {"/proc/1", "/var/task/main.py", "/var/task/__pycache__"}


# --- the wire ----------------------------------------------------------------------------------

WIRE = """
import stat
open_fds = [int(n) for n in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{n}')]
wires = [n for n in open_fds if stat.S_ISSOCK(os.fstat(n).st_mode)]
wire = socket.socket(fileno=os.dup(wires[0]))
"""


def frame(kind: int, call: int, head: bytes = b"", body: bytes = b"") -> bytes:
    length = 9 + len(head) + len(body)
    return (
        length.to_bytes(4, "big") + bytes([kind]) + call.to_bytes(4, "big")
        + len(head).to_bytes(4, "big") + head + body
    )  # fmt: skip


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"garbage" * 10, id="garbage"),
        pytest.param(frame(16, 0, b'{"protocol":1}'), id="HELLO"),
        pytest.param(frame(17, 0), id="READY"),
        pytest.param(frame(18, 0, b"{}"), id="INIT_ERROR"),
        pytest.param(frame(19, 99), id="another call"),
        pytest.param(frame(21, 1), id="reserved"),
        pytest.param((2**32 - 1).to_bytes(4, "big") + b"\x13" + bytes(8), id="oversized"),
        pytest.param(frame(20, 1, b"[" * 100_000), id="deep head"),
    ],
)
async def test_lies_on_the_wire_end_the_sandbox_alone(said: bytes, scene: Scene) -> None:
    version = scene.hostile(f"{WIRE}wire.sendall({said!r})\ntime.sleep(60)")
    uid = await scene.serves(version)
    with pytest.raises(HearthError):
        await scene.executor.invoke(version, event(b"1"))
    assert await scene.serves(version) != uid


async def test_an_answer_of_its_own_making_answers_only_its_own_call(scene: Scene) -> None:
    """Call 2 of this sandbox. The shim then answers it again, which is the sandbox's end."""
    version = scene.hostile(f"{WIRE}wire.sendall({frame(19, 2, b'{}', b'7')!r})\nreturn 'again'")
    uid = await scene.serves(version)
    call = event(b"1")
    assert (await scene.executor.invoke(version, call)).body == b"7"
    await until(lambda: scene.executor.stats().idle == 1)  # the neighbour's
    assert await scene.serves(version) != uid


async def test_a_flood_on_the_wire_ends_the_sandbox_alone(scene: Scene) -> None:
    harm = f"""{WIRE}
def flood():
    while True: wire.sendall(bytes(1 << 16))
threading.Thread(target=flood).start()
time.sleep(60)
"""
    version = scene.hostile(harm)
    await scene.fails(version, FunctionCrashed)
    await scene.serves(version)


async def test_words_between_calls_end_the_sandbox(scene: Scene) -> None:
    harm = f"{WIRE}threading.Timer(0.2, wire.sendall, [b'x']).start()\nreturn os.getuid()"
    version = scene.hostile(harm)
    uid = await scene.answer(version)
    await until(lambda: scene.executor.stats().idle == 1)  # the neighbour's
    assert await scene.serves(version) != uid


async def test_half_a_frame_holds_nobody_up(scene: Scene) -> None:
    said = frame(19, 1, b"{}", b"x" * 1000)[:-1]
    version = scene.hostile(f"{WIRE}wire.sendall({said!r})\ntime.sleep(60)", timeout_s=1.0)
    await scene.fails(version, FunctionTimeout)
    await scene.serves(version)


async def test_hanging_up_is_a_crash(scene: Scene) -> None:
    version = scene.hostile(f"{WIRE}wire.shutdown(socket.SHUT_RDWR)\ntime.sleep(60)")
    await scene.fails(version, FunctionCrashed)
    await scene.serves(version)


@pytest.mark.parametrize(
    "harm",
    [
        "if os.fork() == 0: os.kill(1, signal.SIGSTOP)\nwhile True: pass",
        "if os.fork() == 0: ctypes.CDLL(None).ptrace(16, 1, 0, 0); time.sleep(3600)\n"
        "while True: pass",
    ],
)
async def test_a_sandbox_that_stops_itself_is_stopped_at_its_timeout(
    harm: str, scene: Scene
) -> None:
    version = scene.hostile(harm, timeout_s=1.0)
    await scene.fails(version, FunctionTimeout)
    await scene.serves(version)
