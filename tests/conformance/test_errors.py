"""What a function may do wrong during a call: each is an ERROR, and the sandbox stays usable."""

from __future__ import annotations

import json

import pytest

from runtimes.registry import Runtime
from tests.conformance.conftest import Boot
from tests.conformance.wire_client import ERROR, READY, Frame, Sandbox

HEAD_BYTES_MAX = 128 * 1024


def test_an_exception_is_told_with_type_message_and_place(cases: Sandbox, runtime: Runtime) -> None:
    answer = cases.call({"do": "fail", "message": "no such ördér 🦊"})
    assert (answer.kind, answer.head["code"]) == (ERROR, "function_error")
    assert answer.head["type"] == {"python": "ValueError", "node": "RangeError"}[runtime.short]
    assert answer.head["message"] == "no such ördér 🦊"
    trace = "\n".join(answer.head["trace"])
    assert f"main{runtime.suffixes[0]}" in trace
    assert "fail" in trace
    assert answer.body == b""
    assert cases.call({"do": "echo", "value": 1}).result == 1


def test_a_trace_shows_no_frame_of_the_shim(cases: Sandbox) -> None:
    trace = "\n".join(cases.call({"do": "fail", "message": ""}).head["trace"])
    assert "shim" not in trace
    assert "node:internal" not in trace


def test_an_http_call_fails_like_any_other(boot: Boot, runtime: Runtime) -> None:
    sandbox = boot(
        {
            "python": "def handler(event, context):\n    raise KeyError('order')",
            "node": "export const handler = async () => { throw new TypeError('order'); };",
        }[runtime.short]
    )
    assert sandbox.init().kind == READY
    answer = sandbox.http("/")
    assert (answer.kind, answer.head["code"]) == (ERROR, "function_error")
    assert "order" in answer.head["message"]


@pytest.mark.parametrize("length", [20_000, 500_000])
@pytest.mark.parametrize("character", ["x", "\u0001", "🦊"])
def test_a_giant_message_is_cut_to_fit_a_head(cases: Sandbox, character: str, length: int) -> None:
    answer = cases.call({"do": "fail", "message": character * length})
    assert answer.kind == ERROR
    assert answer.head["message"].startswith(character * 100)
    assert len(json.dumps(answer.head, ensure_ascii=False).encode()) <= HEAD_BYTES_MAX + 1024
    assert cases.call({"do": "echo", "value": 1}).result == 1


# What handlers do -> part of the error's type, part of its message. One sandbox for each language.
PYTHON_WAYS = {
    "import sys; sys.exit('bye')": ("Runtime.ExitError", "bye"),
    "raise SystemExit": ("Runtime.ExitError", "sys.exit"),
    "raise KeyboardInterrupt": ("KeyboardInterrupt", ""),
    "raise BaseException('base')": ("BaseException", "base"),
    "raise GeneratorExit": ("GeneratorExit", ""),
    "raise MemoryError": ("MemoryError", ""),
    "handler({}, None) if 0 else deep()": ("RecursionError", "recursion"),
    "import asyncio; raise asyncio.CancelledError": ("CancelledError", ""),
    "return cancelled()": ("CancelledError", ""),
    "return exits()": ("Runtime.ExitError", "5"),
    "raise Unspeakable": ("Unspeakable", "raised"),
    "raise ExceptionGroup('both', [ValueError('a'), TypeError('b')])": ("ExceptionGroup", "both"),
    "raise UnicodeDecodeError('utf-8', b'x', 0, 1, 'why')": ("UnicodeDecodeError", "why"),
    "raise ValueError('\\ud83d')": ("ValueError", ""),
    "raise Named": ("N" * 100, ""),
    "x = 1 / 0": ("ZeroDivisionError", "division"),
}
PYTHON_ERRORS = """
class Unspeakable(Exception):
    def __str__(self): raise OSError("no")
    __repr__ = __str__
class Noted(Exception): pass
Named = type("N" * 100_000, (Exception,), {})
def deep(): deep()
async def cancelled():
    import asyncio
    asyncio.current_task().cancel()
    await asyncio.sleep(1)
async def exits(): raise SystemExit(5)
def handler(event, context):
    space = {**globals()}
    exec("def way():\\n    " + event, space)
    return space["way"]()
"""
NODE_WAYS = {
    "throw 'text'": ("string", "text"),
    "throw null": ("object", "null"),
    "throw undefined": ("undefined", "undefined"),
    "throw { code: 7 }": ("object", "code: 7"),
    "throw Object.create(null)": ("object", ""),
    "throw Object.assign(new Error('m'), { name: 'OrderMissing' })": ("OrderMissing", "m"),
    "throw new Proxy({}, { get() { throw 1 } })": ("", ""),
    "throw Object.defineProperty(new Error, 'message', { get() { throw 1 } })": ("Error", "throw"),
    "const e = new Error('m'); e.stack = 5; throw e": ("Error", "m"),
    "const deep = () => deep(); deep()": ("RangeError", "call stack"),
    "return Promise.reject(new Error('async'))": ("Error", "async"),
    "return Promise.reject()": ("undefined", ""),
    "return { then() { throw new Error('thenable') } }": ("Error", "thenable"),
    "return { get then() { throw new Error('getter') } }": ("Error", "getter"),
    "throw new AggregateError([new Error('a')], 'both')": ("AggregateError", "both"),
    "throw new Error('m', { cause: 'because' })": ("Error", "m"),
    "const e = new Error('m'); e.cause = e; throw e": ("Error", "m"),
    "JSON.parse('{')": ("SyntaxError", "JSON"),
}
NODE_ERRORS = "export const handler = (event, context) => new Function(event)();"


def test_whatever_is_thrown_is_that_calls_error(boot: Boot, runtime: Runtime) -> None:
    ways = {"python": PYTHON_WAYS, "node": NODE_WAYS}[runtime.short]
    sandbox = boot({"python": PYTHON_ERRORS, "node": NODE_ERRORS}[runtime.short])
    assert sandbox.init().kind == READY
    for way, (kind, message) in ways.items():
        answer = sandbox.call(way)
        assert (answer.kind, answer.head.get("code")) == (ERROR, "function_error"), way
        assert kind in answer.head["type"], way
        assert message in answer.head["message"], (way, answer.head)
        assert "last" not in answer.head


PYTHON_RESULTS = {
    "b'bytes'": "bytes",
    "{1, 2}": "set",
    "__import__('datetime').datetime.now()": "datetime",
    "float('nan')": "Out of range",
    "[float('inf')]": "Out of range",
    "{(1, 2): 3}": "keys must be",
    "[(x for x in [1])]": "generator",
    "[agen()]": "generator",
    "object()": "object",
    "cyclic": "Circular",
    "nested": "",
    "Evil()": "evil",
    "10 ** 5000": "digits",
}
PYTHON_RESULT = """
cyclic = []
cyclic.append(cyclic)
nested = []
for _ in range(100_000): nested = [nested]
class Evil(dict):
    def items(self): raise ValueError("evil")
    def __contains__(self, key): raise ValueError("evil")
Evil = lambda cls=Evil: cls(a=1)
async def agen():
    yield 1
def handler(event, context):
    return eval(event if isinstance(event, str) else event["body"])
"""
NODE_RESULTS = {
    "10n": "BigInt",
    "[1n]": "BigInt",
    "const a = []; a.push(a); a": "circular",
    "() => 1": "function",
    "Symbol('s')": "symbol",
    "({ toJSON() { throw new Error('evil') } })": "evil",
    "({ get a() { throw new Error('evil') } })": "evil",
}
NODE_RESULT = """
export const handler = async (event) => (0, eval)(typeof event === "string" ? event : event.body);
"""


def test_a_result_that_is_not_json_is_told_apart(boot: Boot, runtime: Runtime) -> None:
    results = {"python": PYTHON_RESULTS, "node": NODE_RESULTS}[runtime.short]
    sandbox = boot({"python": PYTHON_RESULT, "node": NODE_RESULT}[runtime.short])
    assert sandbox.init().kind == READY
    for result, says in results.items():
        _check_invalid(sandbox.call(result), says, result)
        text = [("content-type", "text/plain")]
        _check_invalid(sandbox.http("/", result.encode(), headers=text), says, result)
    assert sandbox.call("1").result == 1


def _check_invalid(answer: Frame, says: str, result: str) -> None:
    assert answer.kind == ERROR, result
    assert answer.head["code"] == "function_response_invalid", result
    assert answer.head["type"] == "Runtime.MarshalError", result
    assert says in answer.head["message"], (result, answer.head)
