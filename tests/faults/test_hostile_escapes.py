"""Functions that reach for what is outside: the walls of a container, the wire through them."""

from __future__ import annotations

import json

import pytest

from core.errors import (
    FunctionCrashed,
    FunctionTimeout,
    HearthError,
)
from tests.fixtures.nodes import until
from tests.fixtures.sandboxes import event
from tests.fixtures.scene import Scene

pytestmark = pytest.mark.podman


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
