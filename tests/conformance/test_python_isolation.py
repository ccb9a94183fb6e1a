"""A process for each request: nothing that one call does is there in the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtimes.registry import RUNTIMES, Runtime
from tests.conformance.conftest import Boot
from tests.conformance.wire_client import (
    CHUNK,
    CREDIT_BYTES,
    END,
    ERROR,
    PAYLOAD_BYTES_MAX,
    READY,
    RESULT,
    Sandbox,
    place_of,
)

pytestmark = pytest.mark.parametrize(
    "runtime", [RUNTIMES["python3.13"]], ids=["python3.13"], indirect=True
)
# Runs what the event says and answers `out`.
RUNS = "def handler(event, context):\n    space = {}\n    exec(event, space)\n"
RUNS += "    return space.get('out')\n"
ECHO = "def handler(event, context):\n    return event\n"


def ready(boot: Boot, source: str, handler: str = "main.handler") -> Sandbox:
    """A sandbox that forks for each call."""
    sandbox = boot(source)
    answer = sandbox.init(handler, isolation="request")
    assert answer.kind == READY, answer
    return sandbox


@pytest.fixture
def contained(runtime: Runtime) -> None:
    """Skip, saying so, where the shim is not alone in its sandbox."""
    if place_of(runtime) != "image":
        pytest.skip("the shim shares this host's /tmp and processes: it leaves them alone")


def test_a_call_does_not_see_what_another_did(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "import os\nloaded, seen, here = os.getpid(), [], os.getcwd()\n"
        "def handler(event, context):\n    seen.append(event)\n    os.environ['SEEN'] = 'yes'\n"
        "    state = [seen, len(seen), here == os.getcwd(), os.getpid() != loaded]\n"
        "    os.chdir('/')\n    return state\n",
    )
    for number in range(5):
        assert sandbox.call(number).result == [[number], 1, True, True]


def test_every_call_has_random_numbers_of_its_own(boot: Boot) -> None:
    sandbox = boot(
        {
            "main.py": "import random, secrets, uuid, tempfile, numpy.random\nrandom.seed(1)\n"
            "def handler(event, context):\n    return [random.random(), secrets.token_hex(),"
            " str(uuid.uuid4()), str(uuid.uuid1()), numpy.random.seeded]\n",
            "numpy/__init__.py": "",
            "numpy/random.py": "import os\nseeded = 0\n"
            "def seed():\n    global seeded\n    seeded = os.urandom(8).hex()\n",
        }
    )
    assert sandbox.init(isolation="request").kind == READY
    found = [sandbox.call(1).result for _ in range(8)]
    for kind in range(5):
        assert len({row[kind] for row in found}) == 8


def test_results_and_errors_are_those_of_any_sandbox(boot: Boot) -> None:
    sandbox = ready(boot, RUNS)
    assert sandbox.call("out = {'a': [1, 'é']}").result == {"a": [1, "é"]}
    error = sandbox.call("raise KeyError('missing')")
    assert (error.kind, error.head["type"]) == (ERROR, "KeyError")
    assert "hearth_shim" not in "\n".join(error.head["trace"])
    assert sandbox.call("import sys; sys.exit('bye')").head["type"] == "Runtime.ExitError"
    assert sandbox.call("out = {1}").head["code"] == "function_response_invalid"
    assert sandbox.call_raw(b"{").head["type"] == "Runtime.UnmarshalError"
    assert sandbox.call("out = 5").result == 5


def test_async_handlers_work(boot: Boot) -> None:
    source = "import asyncio\nasync def handler(event, context):\n"
    sandbox = ready(boot, source + "    await asyncio.sleep(0.001)\n    return event\n")
    assert [sandbox.call(number).result for number in range(3)] == [0, 1, 2]


def test_http_calls_work(boot: Boot) -> None:
    sandbox = ready(boot, "def handler(event, context):\n    return event['body']\n")
    answer = sandbox.http("/", b"hi", headers=[("content-type", "text/plain")])
    assert (answer.head["status"], answer.result) == (200, "hi")


def test_the_largest_bodies_pass(boot: Boot) -> None:
    sandbox = ready(boot, ECHO)
    for _ in range(2):
        value = "x" * (PAYLOAD_BYTES_MAX - 2)
        assert sandbox.call(value).result == value
    assert sandbox.call(1).result == 1


def test_what_a_call_wrote_is_there_before_its_answer(boot: Boot) -> None:
    sandbox = ready(boot, RUNS)
    for number in range(3):
        sandbox.call(f"print({number}); import sys; sys.stdout.write('unfinished')")
        assert sandbox.output() == f"{number}\nunfinished".encode()


def test_several_frames_may_arrive_at_once(boot: Boot) -> None:
    sandbox = ready(boot, ECHO)
    frames = [sandbox.call_frame("event", b"%d" % number) for number in range(4)]
    sandbox.send(b"".join(frames))
    assert [sandbox.receive().result for _ in frames] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("way", "status"),
    [
        ("import os; os._exit(3)", 3),
        ("import os; os.kill(os.getpid(), 9)", 137),
        ("import os; os.kill(os.getpid(), 11)", 139),
        ("import os; os.kill(os.getpid(), 15)", 143),
    ],
)
def test_a_child_without_an_answer_ends_the_sandbox(boot: Boot, way: str, status: int) -> None:
    sandbox = ready(boot, RUNS)
    assert sandbox.call("out = 1").result == 1
    sandbox.start(f"print('last words')\n{way}")
    assert sandbox.ends() == status
    assert sandbox.output() == b"last words\n"


def test_a_child_that_closes_every_descriptor_ends_the_sandbox(boot: Boot) -> None:
    sandbox = ready(boot, RUNS)
    sandbox.start("import os; os.closerange(3, 256)")
    assert sandbox.ends() == 0


def test_a_child_that_writes_noise_ends_the_sandbox(boot: Boot) -> None:
    sandbox = ready(boot, RUNS)
    sandbox.start(
        "import os, stat\nfor fd in range(3, 20):\n    try:\n"
        "        if stat.S_ISSOCK(os.fstat(fd).st_mode): os.write(fd, b'noise' * 100)\n"
        "    except OSError: pass\n"
    )
    assert sandbox.ends() == 70
    assert b"hearth: the wire broke" in sandbox.output(2)


def test_a_child_ends_with_the_connection(boot: Boot, tmp_path: Path) -> None:
    sandbox = ready(boot, RUNS)
    sandbox.start("import time\nprint('busy')\ntime.sleep(600)")
    while b"busy" not in sandbox.written[1]:
        sandbox._pump(60)
    sandbox.wire.close()
    assert sandbox.exit_status() == 0
    while 1 in sandbox.outputs:  # the last writer of the pipe goes away: that is the child
        sandbox._drain()


def test_a_crash_of_the_import_is_an_init_error(boot: Boot) -> None:
    assert boot("1 / 0").init(isolation="request").head["type"] == "ZeroDivisionError"


def test_streams_pass_through_with_their_credit(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "def handler(event, context):\n    yield {'statusCode': 202}\n"
        "    for size in event: yield b'x' * size\n",
    )
    frames = sandbox.streamed(sandbox.start([1, 1_000_000, 5]))
    assert frames[0].head["status"] == 202
    assert (frames[-1].kind, frames[-1].head) == (END, {})
    assert sum(len(frame.body) for frame in frames) == 1_000_006
    call = sandbox.start([CREDIT_BYTES, 7])
    got = len(sandbox.receive().body)
    while got < CREDIT_BYTES:
        got += len(sandbox.receive().body)
    sandbox.credit(call, 3)
    assert sandbox.receive().body == b"xxx"
    sandbox.cancel(call)
    end = sandbox.receive()
    assert (end.kind, end.head["type"]) == (END, "CancelledError")
    assert [frame.kind for frame in sandbox.streamed(sandbox.start([]))] == [CHUNK, END]


def test_an_async_child_hears_its_cancel(boot: Boot) -> None:
    source = "import asyncio\nasync def handler(event, context):\n    print('begun')\n"
    sandbox = ready(boot, source + "    await asyncio.sleep(600 if event else 0)\n")
    call = sandbox.start(1)
    while b"begun" not in sandbox.written[1]:
        sandbox._pump(60)
    sandbox.cancel(call)
    answer = sandbox.receive()
    assert (answer.kind, answer.head["type"]) == (ERROR, "CancelledError")
    assert sandbox.call(0).kind == RESULT


def test_a_forked_grandchild_sends_no_answer(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "import os\ndef handler(event, context):\n    child = os.fork()\n"
        "    if child == 0: return 'grandchild'\n"
        "    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n",
    )
    assert [sandbox.call(1).result for _ in range(3)] == [0, 0, 0]


def test_warnings_and_threads_of_the_import_are_no_obstacle(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "import threading, time, warnings, socket\nwarnings.simplefilter('error')\n"
        "socket.setdefaulttimeout(0.001)\n"
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        "def handler(event, context):\n    time.sleep(0.01)\n    return event\n",
    )
    assert [sandbox.call(number).result for number in range(3)] == [0, 1, 2]
    assert sandbox.output(2) == b""


LEAVES = """
import os, pathlib, tempfile
for folder in ("/tmp", "/dev/shm"):
    base = pathlib.Path(folder)
    (base / "file").write_text("secret")
    (base / "link").symlink_to("/var/task")
    (base / "a" / "b").mkdir(parents=True)
    (base / "a" / "b" / "link").symlink_to("/var/task/main.py")
    (base / "a" / "b" / "file").write_text("secret")
    os.mkfifo(base / "fifo")
    (base / ".hidden").mkdir()
    (base / ".hidden" / "x").write_text("")
    (base / "closed" / "in").mkdir(parents=True)
    (base / "closed" / "in").chmod(0)
    (base / "closed").chmod(0)
    deep = base / "deep"
    deep.mkdir()
    at = os.open(deep, os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("d" * 100, dir_fd=at)
        inner = os.open("d" * 100, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    (base / ".hearth-1").mkdir()
out = 1
"""
LISTS = "import os\nout = os.listdir('/tmp') + os.listdir('/dev/shm')"


@pytest.mark.usefixtures("contained")
def test_files_are_gone_before_the_answer(boot: Boot) -> None:
    sandbox = ready(boot, "open('/tmp/at-import', 'w').close()\n" + RUNS)
    assert sandbox.call(LISTS).result == []
    for _ in range(2):
        assert sandbox.call(LEAVES).result == 1
        assert sandbox.call(LISTS).result == []
    assert (sandbox.task / "main.py").exists()


PROCESSES = """
import os
out = 0
for entry in os.listdir("/proc"):
    if entry.isdigit() and entry not in ("1", str(os.getpid())):
        out += 1
"""
SCATTERS = """
import os, subprocess, time
subprocess.Popen(["sleep", "600"], start_new_session=True)
subprocess.Popen(["sh", "-c", "trap '' TERM INT HUP; sleep 600 & sleep 600 & wait"])
for _ in range(20):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
out = 1
"""


@pytest.mark.usefixtures("contained")
def test_processes_are_gone_before_the_answer(boot: Boot) -> None:
    sandbox = ready(boot, "import subprocess\nsubprocess.Popen(['sleep', '600'])\n" + RUNS)
    assert sandbox.call(PROCESSES).result == 0
    for _ in range(5):
        assert sandbox.call(SCATTERS).result == 1
        assert sandbox.call(PROCESSES).result == 0


REACHES = """
import os
out = []
for path in ("/proc/1/mem", "/proc/1/environ", "/proc/1/fd/0", "/proc/self/environ"):
    try:
        open(path, "rb").close()
        out.append(path)
    except OSError: pass
import ctypes
PTRACE_SEIZE, PIDFD_GETFD = 0x4206, 438
libc = ctypes.CDLL(None)
if libc.ptrace(PTRACE_SEIZE, 1, 0, 0) == 0: out.append("ptrace")
for number in range(3, 20):
    if libc.syscall(PIDFD_GETFD, os.pidfd_open(1), number, 0) >= 0: out.append("wire")
"""


@pytest.mark.usefixtures("contained")
def test_a_call_cannot_reach_the_process_that_the_next_comes_from(boot: Boot) -> None:
    sandbox = ready(boot, RUNS)
    assert sandbox.call(REACHES).result == ["/proc/self/environ"]


SEARCHES = """
marker = bytes(reversed(b"qwkvxjzq"))
out = 0
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
    for line in maps:
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if " rw" in line and "[v" not in line:
            memory.seek(start)
            out += memory.read(end - start).count(marker)
"""


@pytest.mark.parametrize("times", [1, 10_000, 500_000])
def test_memory_holds_nothing_of_an_earlier_call(boot: Boot, times: int) -> None:
    sandbox = ready(boot, RUNS)
    assert sandbox.call(SEARCHES).result == 1  # the marker itself
    for _ in range(3):
        secret = sandbox.call(f"# {'qzjxvkwq' * times}\nout = 'qzjxvkwq' * {times}")
        assert len(secret.result) == 8 * times
        assert sandbox.call(SEARCHES).result == 1


@pytest.mark.usefixtures("contained")
def test_a_sandbox_full_of_processes_is_free_again(boot: Boot) -> None:
    sandbox = ready(boot, RUNS)
    bomb = (
        "import os, time\nout = 0\ntry:\n    while True:\n"
        "        if os.fork() == 0: time.sleep(600)\n        out += 1\nexcept OSError: pass\n"
    )
    first = sandbox.call(bomb).result
    assert first > 10
    assert sandbox.call(bomb).result == first


@pytest.mark.usefixtures("contained")
def test_more_files_than_can_be_removed_end_the_sandbox(boot: Boot) -> None:
    sandbox = ready(boot, RUNS)
    sandbox.start("import os\nfor n in range(300_000): os.mkfifo(f'/dev/shm/{n}')\nout = 1")
    assert sandbox.ends() == 70
    assert b"/dev/shm" in sandbox.output(2)


def test_hundreds_of_calls_leave_nothing_behind(boot: Boot) -> None:
    sandbox = ready(boot, "import os\ndef handler(event, context): return len(os.listdir(event))\n")
    first = sandbox.call("/proc/self/fd").result
    for _ in range(200):
        assert sandbox.call("/proc/self/fd").result == first
