"""How a Python shim ends: exit hooks run when it was idle, and at no other time."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from runtimes.registry import RUNTIMES
from tests.conformance.conftest import Boot
from tests.conformance.wire_client import READY, Sandbox

pytestmark = pytest.mark.parametrize(
    "runtime", [RUNTIMES["python3.13"]], ids=["python3.13"], indirect=True
)
STOPPED = 128 + signal.SIGTERM
HOOK = "import atexit\natexit.register(print, 'hook ran')\n"
ECHO = "def handler(event, context):\n    return event\n"
ASYNC_ECHO = "async " + ECHO
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "serial": (ECHO, {}),
    "async": (ASYNC_ECHO, {}),
    "several": (ASYNC_ECHO, {"per_sandbox": 4}),
    "request": (ECHO, {"isolation": "request"}),
}


@pytest.fixture(params=list(WAYS))
def way(request: pytest.FixtureRequest) -> str:
    """Each way of answering calls."""
    found: str = request.param
    return found


def idle(boot: Boot, before: str, way: str) -> Sandbox:
    """A sandbox that has answered a call and waits for the next."""
    echo, fields = WAYS[way]
    sandbox = boot(before + echo)
    assert sandbox.init(**fields).kind == READY
    assert sandbox.call(1).result == 1
    return sandbox


def test_a_stop_signal_runs_the_exit_hooks_of_an_idle_function(boot: Boot, way: str) -> None:
    sandbox = idle(boot, HOOK, way)
    sandbox.stop()
    assert sandbox.ends() == STOPPED
    assert sandbox.output() == b"hook ran\n"


def test_a_stop_signal_ends_a_function_before_its_first_call(boot: Boot, way: str) -> None:
    echo, fields = WAYS[way]
    sandbox = boot(HOOK + echo)
    assert sandbox.init(**fields).kind == READY
    sandbox.stop()
    assert sandbox.ends() == STOPPED
    assert sandbox.output() == b"hook ran\n"


def test_a_stop_signal_ends_a_stem(boot: Boot) -> None:
    sandbox = boot(ECHO)
    sandbox.stop()
    assert sandbox.ends() == STOPPED


def test_a_stop_signal_in_a_call_ends_it_at_once(boot: Boot, way: str) -> None:
    _, fields = WAYS[way]
    wait = "await asyncio.sleep(600)" if way in ("async", "several") else "time.sleep(600)"
    start = "async def" if way in ("async", "several") else "def"
    sandbox = boot(
        f"{HOOK}import asyncio, time\n{start} handler(event, context):\n"
        f"    print('busy')\n    {wait}\n"
    )
    assert sandbox.init(**fields).kind == READY
    sandbox.start(1)
    while b"busy" not in sandbox.written[1]:
        sandbox._pump(60)
    sandbox.stop()
    assert sandbox.ends() == STOPPED
    assert b"hook" not in sandbox.output()


def test_threads_of_the_function_do_not_keep_it_from_ending(boot: Boot, way: str) -> None:
    threads = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\n"
    sandbox = idle(boot, HOOK + threads, way)
    sandbox.stop()
    assert sandbox.ends() == STOPPED
    assert sandbox.output() == b"hook ran\n"


def test_a_handler_of_the_functions_own_decides(boot: Boot, way: str) -> None:
    own = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
    sandbox = idle(boot, HOOK + own, way)
    sandbox.stop()
    assert sandbox.ends() == 5
    assert sandbox.output() == b"hook ran\n"


def test_a_handler_that_goes_on_goes_on(boot: Boot, way: str) -> None:
    own = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: print('heard'))\n"
    sandbox = idle(boot, HOOK + own, way)
    sandbox.stop()
    while b"heard" not in sandbox.written[1]:
        sandbox._pump(60)
    assert sandbox.call(2).result == 2
    sandbox.wire.close()
    assert sandbox.exit_status() == 0
    assert b"hook" not in sandbox.output()


def test_what_a_handler_raises_ends_an_idle_shim_as_any_program(boot: Boot, way: str) -> None:
    own = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: 1 / 0)\n"
    sandbox = idle(boot, HOOK + own, way)
    sandbox.stop()
    assert sandbox.ends() == 1
    assert sandbox.output() == b"hook ran\n"
    assert b"ZeroDivisionError" in sandbox.output(2)


def test_the_words_of_an_exit_are_written(boot: Boot) -> None:
    own = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit('bye'))\n"
    sandbox = idle(boot, own, "serial")
    sandbox.stop()
    assert sandbox.ends() == 1
    assert sandbox.output(2) == b"bye\n"


def test_exit_hooks_may_use_a_loop(boot: Boot, way: str) -> None:
    hook = (
        "import asyncio, atexit\nasync def close():\n    await asyncio.sleep(0)\n"
        "    print('closed')\natexit.register(lambda: asyncio.run(close()))\n"
    )
    sandbox = idle(boot, hook, way)
    sandbox.stop()
    assert sandbox.ends() == STOPPED
    assert sandbox.output() == b"closed\n"


def test_a_loops_own_signal_handler_is_heard(boot: Boot) -> None:
    sandbox = boot(
        "import asyncio, signal, sys\nasync def handler(event, context):\n"
        "    loop = asyncio.get_running_loop()\n"
        "    loop.add_signal_handler(signal.SIGTERM, sys.exit, 6)\n    return event\n"
    )
    assert sandbox.init(per_sandbox=2).kind == READY
    assert sandbox.call(1).result == 1
    sandbox.stop()
    assert sandbox.ends() == 6


def test_a_second_stop_signal_ends_hooks_that_take_long(boot: Boot, way: str) -> None:
    hook = (
        "import atexit, time\ndef slow():\n    print('closing')\n    time.sleep(600)\n"
        "atexit.register(slow)\n"
    )
    sandbox = idle(boot, hook, way)
    sandbox.stop()
    while b"closing" not in sandbox.written[1]:
        sandbox._pump(60)
    sandbox.stop()
    assert sandbox.ends() == STOPPED
