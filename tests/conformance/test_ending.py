"""How a shim ends: with its connection, by a crash, by a broken frame; and never for less."""

from __future__ import annotations

import json
import signal

import pytest

from runtimes.registry import Runtime
from tests.conformance.conftest import Boot
from tests.conformance.wire_client import (
    CALL,
    ERROR,
    HEADER,
    INIT,
    READY,
    RESULT,
    Sandbox,
    WireEnded,
    frame,
)

ECHO = {
    "python": "def handler(event, context):\n    return event\n",
    "node": "export const handler = async (event) => event;\n",
}
WAITS = {
    "python": "import time\ndef handler(event, context):\n    print('busy')\n    time.sleep(600)\n",
    "node": "export const handler = () => { console.log('busy');"
    " return new Promise((done) => setTimeout(done, 600_000)); };\n",
}


def wait_until_busy(sandbox: Sandbox) -> None:
    """The handler has begun when it has written."""
    sandbox.send(sandbox.call_frame("event", b"1"))
    while not sandbox.written[1]:
        sandbox._pump(60)


@pytest.mark.parametrize("at", ["stem", "idle", "between"])
def test_a_shim_ends_with_its_connection(boot: Boot, runtime: Runtime, at: str) -> None:
    sandbox = boot(ECHO[runtime.short])
    if at != "stem":
        assert sandbox.init().kind == READY
    if at == "between":
        assert sandbox.call(1).result == 1
    sandbox.wire.close()
    assert sandbox.exit_status() == 0


def test_a_busy_shim_ends_with_its_connection(boot: Boot, runtime: Runtime) -> None:
    sandbox = boot(WAITS[runtime.short])
    assert sandbox.init().kind == READY
    wait_until_busy(sandbox)
    sandbox.wire.close()
    assert sandbox.exit_status() == 0


def test_exit_hooks_of_the_function_cannot_keep_it_alive(boot: Boot, runtime: Runtime) -> None:
    hook = {
        "python": "import atexit, threading, time\natexit.register(time.sleep, 600)\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n",
        "node": "process.on('exit', () => { for (;;); });\nsetInterval(() => {}, 1000);\n",
    }[runtime.short]
    sandbox = boot(hook + ECHO[runtime.short])
    assert sandbox.init().kind == READY
    sandbox.wire.close()
    assert sandbox.exit_status() == 0


def test_a_crash_ends_the_connection_and_keeps_the_last_words(boot: Boot, runtime: Runtime) -> None:
    source = {
        "python": "import os\ndef handler(event, context):\n"
        "    print('last words')\n    os._exit(3)\n",
        "node": "export const handler = () => { console.log('last words'); process.exit(3); };\n",
    }
    sandbox = boot(source[runtime.short])
    assert sandbox.init().kind == READY
    sandbox.send(sandbox.call_frame("event", b"1"))
    assert sandbox.ends() == 3
    assert sandbox.output() == b"last words\n"


def test_a_crash_at_import_ends_the_connection(boot: Boot, runtime: Runtime) -> None:
    source = {"python": "import os\nos._exit(4)\n", "node": "process.exit(4);\n"}
    sandbox = boot(source[runtime.short])
    sandbox.send(sandbox.init_frame())
    assert sandbox.ends() == 4


def test_after_a_failed_init_the_shim_waits_for_the_end(boot: Boot) -> None:
    sandbox = boot({})
    sandbox.init()
    sandbox.wire.close()
    assert sandbox.exit_status() == 0


def test_a_stop_signal_ends_an_idle_shim(boot: Boot, runtime: Runtime) -> None:
    source = {
        "python": "import os, signal\ndef handler(event, context):\n"
        "    os.kill(os.getpid(), getattr(signal, event))\n    return event\n",
        "node": "export const handler = async (event) => {\n"
        "  process.kill(process.pid, event);\n"
        "  await new Promise((done) => setTimeout(done, 20));\n  return event;\n};\n",
    }
    sandbox = boot(source[runtime.short])
    assert sandbox.init().kind == READY
    assert sandbox.call("SIGINT").result == "SIGINT"
    sandbox.send(sandbox.call_frame("event", b'"SIGTERM"'))
    assert sandbox.ends() == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    "bytes_",
    [
        frame(CALL, 1, {"id": "x", "kind": "event", "deadline_ms": 1}, b"1"),  # before INIT
        frame(RESULT, 0, {}),
        HEADER.pack(8, INIT, 0, 0),  # shorter than its own header
        HEADER.pack(9, INIT, 0, 1),  # a head longer than the frame
        HEADER.pack(9 + 131_073, INIT, 0, 131_073),
        HEADER.pack(0xFFFFFFFF, INIT, 0, 10),
        frame(INIT, 0, {}, b"body"),
    ],
    ids=["call", "result", "short", "head", "large-head", "large", "body"],
)
def test_a_broken_first_frame_ends_the_shim(boot: Boot, runtime: Runtime, bytes_: bytes) -> None:
    sandbox = boot(ECHO[runtime.short])
    sandbox.send(bytes_)
    assert sandbox.ends() == 70
    assert b"hearth: the wire broke" in sandbox.output(2)


def test_a_body_over_the_limit_ends_the_shim(boot: Boot, runtime: Runtime) -> None:
    sandbox = boot(ECHO[runtime.short])
    assert sandbox.init(payload_bytes_max=1000).kind == READY
    assert sandbox.call_raw(json.dumps("x" * 998).encode()).kind == RESULT
    assert sandbox.call_raw(b"[" + b" " * 998 + b"]"[:1]).kind in (RESULT, ERROR)
    sandbox.send(sandbox.call_frame("event", b"x" * 1001))
    assert sandbox.ends() == 70


def test_a_second_init_ends_the_shim(boot: Boot, runtime: Runtime) -> None:
    sandbox = boot(ECHO[runtime.short])
    assert sandbox.init().kind == READY
    with pytest.raises(WireEnded):
        sandbox.init()
