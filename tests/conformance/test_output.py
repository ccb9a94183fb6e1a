"""What a function writes: all of it comes out of descriptors 1 and 2 before the answer."""

from __future__ import annotations

import base64

import pytest

from runtimes.registry import Runtime
from tests.conformance.conftest import Boot
from tests.conformance.wire_client import READY, Sandbox

SAYS = {
    "python": "import sys\ndef handler(event, context):\n    {}\n    return event\n",
    "node": "export const handler = async (event) => {{\n  {}\n  return event;\n}};\n",
}


def test_both_streams_are_there_before_the_answer_and_apart(cases: Sandbox) -> None:
    cases.call({"do": "write", "out": "to out 🦊\n", "err": "to err\n"})
    assert cases.output(1) == "to out 🦊\n".encode()
    assert cases.output(2) == b"to err\n"


def test_a_line_without_its_end_is_there_before_the_answer(cases: Sandbox) -> None:
    cases.call({"do": "write", "out": "no newline", "err": "none here either"})
    assert (cases.output(1), cases.output(2)) == (b"no newline", b"none here either")


def test_each_call_has_its_own_output(cases: Sandbox) -> None:
    for number in range(20):
        cases.call({"do": "write", "out": f"{number}\n"})
        assert cases.output(1) == f"{number}\n".encode()


@pytest.mark.parametrize("times", [1, 100_000])
def test_much_output_is_whole_and_in_order(cases: Sandbox, times: int) -> None:
    cases.call({"do": "write", "out": "0123456789\n", "times": times})
    assert cases.output(1) == b"0123456789\n" * times


def test_a_line_of_a_megabyte_is_whole(cases: Sandbox) -> None:
    cases.call({"do": "write", "out": "x", "times": 1_000_000})
    assert cases.output(1) == b"x" * 1_000_000


def test_bytes_past_the_languages_streams_arrive_as_they_are(cases: Sandbox) -> None:
    noise = bytes(range(256)) * 16
    cases.call({"do": "write_raw", "bytes": base64.b64encode(noise).decode()})
    assert cases.output(1) == noise


def test_a_subprocess_writes_to_the_same_descriptors(cases: Sandbox) -> None:
    cases.call({"do": "run", "command": ["sh", "-c", "echo out; echo err >&2"]})
    assert (cases.output(1), cases.output(2)) == (b"out\n", b"err\n")


def test_a_subprocess_does_not_inherit_the_wire(cases: Sandbox) -> None:
    cases.call({"do": "run", "command": ["ls", "-l", "/proc/self/fd"]})
    listing = cases.output(1).decode()
    assert "pipe:" in listing
    assert "socket:" not in listing


def test_half_a_surrogate_pair_can_be_written(boot: Boot, runtime: Runtime) -> None:
    says = {"python": "print('a\\ud83db')", "node": "console.log('a\\ud83db');"}[runtime.short]
    sandbox = boot(SAYS[runtime.short].format(says))
    assert sandbox.init().kind == READY
    assert sandbox.call(1).result == 1
    out = sandbox.output(1)
    assert out.startswith(b"a")
    assert out.endswith(b"b\n")


def test_the_languages_own_logging_comes_out(boot: Boot, runtime: Runtime) -> None:
    says = {
        "python": "import logging; logging.warning('warned')",
        "node": "console.log('logged'); console.error('warned');",
    }[runtime.short]
    sandbox = boot(SAYS[runtime.short].format(says))
    assert sandbox.init().kind == READY
    sandbox.call(1)
    assert b"warned" in sandbox.output(2)


CLOSES = {
    "python": "import os; os.close(1); os.close(2); print('lost'); print('lost', file=sys.stderr)",
    "node": "const fs = await import('node:fs'); fs.closeSync(1); fs.closeSync(2);"
    " console.log('lost'); console.error('lost');",
}


def test_closing_descriptors_1_and_2_harms_no_answer(boot: Boot, runtime: Runtime) -> None:
    closes = CLOSES[runtime.short]
    source = {
        "python": "import sys\nfirst = True\ndef handler(event, context):\n    global first\n"
        f"    if first:\n        first = False\n        try:\n            {closes}\n"
        "        except OSError: pass\n    return event\n",
        "node": "let first = true;\nexport const handler = async (event) => {\n"
        f"  if (first) {{ first = false; {closes} }}\n  return event;\n}};\n",
    }
    sandbox = boot(source[runtime.short])
    assert sandbox.init().kind == READY
    for number in range(3):
        assert sandbox.call(number).result == number


STREAMS_CLOSED = {
    "python": "sys.stdout.close(); sys.stderr = None",
    "node": "process.stdout.destroy(); process.stderr.end(); console.log('lost');",
}


def test_closing_the_languages_streams_harms_no_answer(boot: Boot, runtime: Runtime) -> None:
    source = {
        "python": "import sys\ndef handler(event, context):\n"
        f"    if event == 0: {STREAMS_CLOSED['python']}\n    return event\n",
        "node": "export const handler = async (event) => {\n"
        f"  if (event === 0) {{ {STREAMS_CLOSED['node']} }}\n  return event;\n}};\n",
    }
    sandbox = boot(source[runtime.short])
    assert sandbox.init().kind == READY
    for number in range(3):
        assert sandbox.call(number).result == number
