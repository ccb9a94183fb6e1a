"""What is particular to Python functions."""

from __future__ import annotations

import pytest

from runtimes.registry import RUNTIMES
from tests.conformance.conftest import Boot
from tests.conformance.wire_client import ERROR, INIT_ERROR, READY, Sandbox

pytestmark = pytest.mark.parametrize(
    "runtime", [RUNTIMES["python3.13"]], ids=["python3.13"], indirect=True
)


def ready(boot: Boot, source: str, handler: str = "main.handler") -> Sandbox:
    """A sandbox with a function, which must load."""
    sandbox = boot(source)
    answer = sandbox.init(handler)
    assert answer.kind == READY, answer
    return sandbox


@pytest.mark.parametrize(
    "handler",
    [
        "handler = lambda event, context: [event]",
        "from functools import partial\ndef f(a, event, context): return [event]\n"
        "handler = partial(f, 1)",
        "class H:\n    def __call__(self, event, context): return [event]\nhandler = H()",
        "class H:\n    def at(self, event, context): return [event]\nhandler = H().at",
        "class H:\n    async def __call__(self, event, context): return [event]\nhandler = H()",
        "async def handler(event, context): return [event]",
        "import asyncio\nhandler = lambda event, context: asyncio.run(asyncio.sleep(0, [event]))",
        "class A:\n    def __await__(self):\n        yield\n        return [1]\n"
        "handler = lambda event, context: A()",
    ],
)
def test_any_callable_is_a_handler(boot: Boot, handler: str) -> None:
    sandbox = ready(boot, handler)
    assert sandbox.call(1).result == [1]
    assert sandbox.call(1).result == [1]


def test_async_calls_share_one_event_loop(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "import asyncio\nlock, loops, tasks = asyncio.Lock(), set(), []\n"
        "async def tick(seen):\n    await asyncio.sleep(0)\n    seen.append(1)\n"
        "async def handler(event, context):\n    seen = []\n"
        "    async with lock: loops.add(asyncio.get_running_loop())\n"
        "    tasks.append(asyncio.create_task(tick(seen)))\n"
        "    await asyncio.sleep(0.001)\n    return [len(loops), len(seen)]\n",
    )
    assert sandbox.call(1).result == [1, 1]
    assert sandbox.call(1).result == [1, 1]


def test_a_handler_that_closes_the_loop_gets_another(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "import asyncio\nasync def handler(event, context):\n"
        "    loop = asyncio.get_running_loop()\n    loop.call_later(0, lambda: None)\n"
        "    asyncio.get_event_loop_policy\n    return 1\n"
        "async def work(event): return event\n"
        "import sys\n"
        "def handler(event, context):\n"
        "    if event == 0:\n"
        "        loop = asyncio.new_event_loop(); asyncio.set_event_loop(loop); loop.close()\n"
        "    return work(event)\n",
    )
    assert [sandbox.call(n).result for n in (1, 0, 2)] == [1, 0, 2]


def test_logging_shows_warnings_and_what_the_function_asks_for(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "import logging\nlogger = logging.getLogger()\n"
        "def handler(event, context):\n    logger.setLevel(event)\n"
        "    logger.info('told'); logging.getLogger('a.b').warning('warned')\n",
    )
    sandbox.call("WARNING")
    assert sandbox.output(2) == b"[WARNING] warned\n"
    sandbox.call("INFO")
    assert sandbox.output(2) == b"[INFO] told\n[WARNING] warned\n"
    assert sandbox.output(1) == b""


def test_the_log_level_can_come_from_the_environment(boot: Boot) -> None:
    sandbox = boot(
        "import logging\nlogging.debug('at import')\ndef handler(event, context):\n    pass\n"
    )
    assert sandbox.init(env={"AWS_LAMBDA_LOG_LEVEL": "debug"}).kind == READY
    assert b"[DEBUG] at import\n" in sandbox.output(2)


def test_what_is_printed_to_a_replaced_stream_stays_there(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "import contextlib, io\ndef handler(event, context):\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as caught: print('caught')\n"
        "    return caught.getvalue()\n",
    )
    assert sandbox.call(1).result == "caught\n"
    assert sandbox.output() == b""


def test_a_forked_child_does_not_hold_the_wire(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "import os, time\ndef handler(event, context):\n"
        "    if os.fork() == 0:\n        time.sleep(300)\n        os._exit(0)\n"
        "    if event: os._exit(9)\n    return 'parent'\n",
    )
    assert sandbox.call(0).result == "parent"
    sandbox.send(sandbox.call_frame("event", b"1"))
    assert sandbox.ends() == 9


def test_a_forked_child_ends_as_any_program_and_sends_no_answer(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "import os, sys\nways = {'exit': lambda: sys.exit(3), 'raise': lambda: 1 / 0,"
        " 'return': lambda: 'child'}\n"
        "def handler(event, context):\n"
        "    child = os.fork()\n    if child == 0: return ways[event]()\n"
        "    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n",
    )
    assert [sandbox.call(way).result for way in ("exit", "raise", "return")] == [3, 1, 0]
    assert not sandbox.received


def test_multiprocessing_works(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "import multiprocessing as mp\ndef square(n): return n * n\n"
        "def work(pipe, n): pipe.send(square(n))\n"
        "def handler(event, context):\n"
        "    mine, theirs = mp.Pipe()\n"
        "    child = mp.get_context(event).Process(target=work, args=(theirs, 7))\n"
        "    child.start(); got = mine.recv(); child.join(); return [got, child.exitcode]\n",
    )
    assert sandbox.call("fork").result == [49, 0]
    assert sandbox.call("spawn").result == [49, 0]


def test_decimals_are_numbers_as_on_aws(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "from decimal import Decimal\ndef handler(event, context): return [Decimal(event)]\n",
    )
    assert sandbox.call("1.5").result == [1.5]
    assert sandbox.call("NaN").head["code"] == "function_response_invalid"


def test_bytes_as_a_body_are_refused_with_advice(boot: Boot) -> None:
    sandbox = ready(
        boot, "def handler(event, context): return {'statusCode': 200, 'body': b'raw'}\n"
    )
    answer = sandbox.http("/")
    assert answer.kind == ERROR
    assert "isBase64Encoded" in answer.head["message"]


def test_exiting_at_import_is_an_init_error(boot: Boot) -> None:
    head = boot("import sys\nsys.exit('no key')\n").init().head
    assert (head["type"], "no key" in head["message"]) == ("Runtime.ExitError", True)


def test_a_package_is_a_module_too(boot: Boot) -> None:
    sandbox = boot({"pkg/__init__.py": "", "pkg/mod.py": "def handler(event, context): return 5\n"})
    assert sandbox.init("pkg.mod.handler").kind == READY
    assert sandbox.call(1).result == 5
    missing = boot({"pkg/__init__.py": ""}).init("pkg.mod.handler")
    assert (missing.kind, missing.head["found"]) == (INIT_ERROR, ["pkg"])


def test_pythonpath_is_honoured(boot: Boot) -> None:
    sandbox = boot(
        {
            "main.py": "import far\ndef handler(event, context): return far.x\n",
            "lib/far.py": "x = 1",
        }
    )
    assert sandbox.init(env={"PYTHONPATH": f"{sandbox.task_inside}/lib:"}).kind == READY
    assert sandbox.call(1).result == 1


def test_chained_exceptions_are_told(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "def handler(event, context):\n    try: 1 / 0\n"
        "    except ZeroDivisionError as error: raise ValueError('outer') from error\n",
    )
    trace = "\n".join(sandbox.call(1).head["trace"])
    assert trace.index("ZeroDivisionError") < trace.index("direct cause") < trace.index("outer")


def test_changing_the_timezone_and_the_default_timeout_harms_no_call(boot: Boot) -> None:
    sandbox = boot(
        "import socket, time\nsocket.setdefaulttimeout(0.001)\n"
        "def handler(event, context): return time.strftime('%H', time.localtime(0))\n"
    )
    assert sandbox.init(env={"TZ": "XXX-5"}).kind == READY
    assert sandbox.call(1).result == "05"


def test_an_answer_survives_hostile_module_state(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "import builtins, json, os, sys, time\ndef handler(event, context):\n"
        "    json.dumps = json.loads = os.fsencode = time.time = None\n"
        "    sys.modules.pop('json'); sys.path.clear(); builtins.print = None\n"
        "    sys.setrecursionlimit(200)\n    return event\n",
    )
    assert sandbox.call({"a": 1}).result == {"a": 1}
    assert sandbox.call({"a": 2}).kind in (ERROR, 19)


def test_the_end_is_noticed_whatever_the_function_made_of_the_library(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "import asyncio, os, select, signal, socket, struct, threading\n"
        "def handler(event, context):\n"
        "    os._exit = os.getpid = os.killpg = os.write = select.poll = None\n"
        "    socket.socket.recv_into = socket.socket.sendall = struct.Struct = None\n"
        "    asyncio.ensure_future = asyncio.new_event_loop = None\n"
        "    return work(event) if event else event\n"
        "async def work(event): return event\n",
    )
    assert [sandbox.call(number).result for number in (0, 1, 2)] == [0, 1, 2]
    sandbox.wire.close()
    assert sandbox.exit_status() == 0


EVIL = """
class Meta(type):
    def __getattribute__(cls, name): raise ValueError("evil " + name)
class Result(metaclass=Meta): pass
class NamelessMeta(type):
    __name__ = property(lambda cls: 1 / 0)
class Nameless(Exception, metaclass=NamelessMeta): pass
class Endless:
    def __iter__(self): return self
    def __next__(self): return self
class Head(dict):
    def get(self, name, default=None): raise SystemExit(3)
class Text(str):
    def encode(self, *_): raise KeyboardInterrupt
class Closing:
    sent = False
    def __iter__(self): return self
    def __next__(self): return {1}
    def close(self): raise KeyError("closing")
def raises(): raise Nameless("words")
def handler(event, context):
    return eval(event)
"""


@pytest.mark.parametrize(
    ("way", "code", "says"),
    [
        ("Result()", "function_error", "evil"),
        ("raises()", "function_error", "words"),
        ("Endless()", "function_response_invalid", "Endless"),
        ("(x for x in [Head(statusCode=200)])", "function_response_invalid", "3"),
        ("(x for x in [Text('a')])", "function_response_invalid", ""),
        ("(x for x in [float('nan')])", "function_response_invalid", "Out of range"),
        ("Closing()", "function_error", "closing"),
        ("(1 / 0 for x in [1])", "function_error", "division"),
        ("(exit(3) for x in [1])", "function_error", "3"),
    ],
)
def test_hostile_classes_are_answered_once(boot: Boot, way: str, code: str, says: str) -> None:
    sandbox = ready(boot, EVIL)
    answer = sandbox.call(way)
    assert (answer.kind, answer.head["code"]) == (ERROR, code), answer
    assert says in answer.head["message"]
    assert sandbox.call("5").result == 5
