"""Responses that a bootstrap streams: heads, preludes, trailers, credit and their early ends."""

from __future__ import annotations

import pytest

from runtimes.registry import RUNTIMES
from tests.conformance.puppet import puppet, shared_puppet
from tests.conformance.wire_client import (
    CHUNK,
    CREDIT_BYTES,
    END,
    ERROR,
    RESULT,
    Frame,
    Sandbox,
)

__all__ = ["puppet", "shared_puppet"]

pytestmark = pytest.mark.parametrize("runtime", [RUNTIMES["custom"]], ids=["custom"], indirect=True)

STREAM = """
own = connect()
head = f"POST {API}invocation/{ID}/response HTTP/1.1\\r\\nTransfer-Encoding: chunked\\r\\n"
head += "Lambda-Runtime-Function-Response-Mode: streaming\\r\\n"
def chunk(data):
    own.sendall(b"%x\\r\\n%b\\r\\n" % (len(data), data))
def finish(trailers=""):
    own.sendall(f"0\\r\\n{trailers}\\r\\n".encode())
    with own.makefile("rb") as file:
        return read_answer(file)
result = "answered"
"""


def streamed(sandbox: Sandbox, code: str) -> list[Frame]:
    """The frames of a stream that the code makes."""
    return sandbox.streamed(sandbox.start({"run": STREAM + code}))


def test_a_streams_head_leaves_before_its_first_byte(puppet: Sandbox) -> None:
    code = """
own.sendall(f"{head}Content-Type: text/event-stream\\r\\n\\r\\n".encode())
while not os.path.exists("/var/task/go"): pass
chunk(b"data: 1")
finish()
"""
    call = puppet.start({"run": STREAM + code.replace("/var/task", puppet.task_inside)})
    first = puppet.receive()
    assert (first.kind, first.body) == (CHUNK, b"")
    assert first.head == {"status": 200, "headers": [["content-type", "text/event-stream"]]}
    (puppet.task / "go").touch()
    rest = puppet.streamed(call)
    assert [(answer.kind, answer.body) for answer in rest] == [(CHUNK, b"data: 1"), (END, b"")]


def test_a_prelude_may_come_byte_by_byte(puppet: Sandbox) -> None:
    kind = "application/vnd.awslambda.http-integration-response"
    prelude = '{"statusCode": 418, "headers": {"X-A": "b"}, "cookies": ["c=1"]}'
    code = f"""
own.sendall(f"{{head}}Content-Type: {kind}\\r\\n\\r\\n".encode())
for byte in {prelude.encode()!r} + bytes(8) + b"tea":
    chunk(bytes([byte]))
finish()
"""
    frames = streamed(puppet, code)
    assert frames[0].head["status"] == 418
    assert ["x-a", "b"] in frames[0].head["headers"]
    assert ["set-cookie", "c=1"] in frames[0].head["headers"]
    assert b"".join(answer.body for answer in frames) == b"tea"


@pytest.mark.parametrize(
    ("prelude", "says"),
    [
        ("[]" + "\\0" * 8, "no object"),
        ("{" + "\\0" * 8, "not JSON"),
        ('{"statusCode": 99}' + "\\0" * 8, "statusCode"),
        ("{}", "within its prelude"),
    ],
)
def test_a_prelude_that_is_none_is_the_calls_error(
    puppet: Sandbox, prelude: str, says: str
) -> None:
    kind = "application/vnd.awslambda.http-integration-response"
    code = f"""
own.sendall(f"{{head}}Content-Type: {kind}\\r\\n\\r\\n".encode())
try:
    chunk(b'{prelude}')
    finish()
except OSError:
    pass
"""
    (answer,) = streamed(puppet, code)
    assert (answer.kind, answer.head["code"]) == (ERROR, "function_response_invalid")
    assert says in answer.head["message"]
    assert puppet.call({"run": ""}).result == "done"


def test_trailers_tell_what_ended_a_stream(puppet: Sandbox) -> None:
    code = """
import base64
body = base64.b64encode(b'{"errorType": "App.Away", "errorMessage": "gone", "stackTrace": ["at"]}')
own.sendall(f"{head}\\r\\n".encode())
chunk(b"some")
name = "Lambda-Runtime-Function-Error-"
print(finish(f"{name}Type: App.Away\\r\\n{name}Body: {body.decode()}\\r\\n")[0])
"""
    *chunks, end = streamed(puppet, code)
    assert b"".join(answer.body for answer in chunks) == b"some"
    assert end.head == {
        "code": "function_error",
        "type": "App.Away",
        "message": "gone",
        "trace": ["at"],
    }


def test_a_stream_whose_client_leaves_is_told_as_cut(puppet: Sandbox) -> None:
    code = 'own.sendall(f"{head}\\r\\n".encode())\nchunk(b"some")\nown.close()'
    *chunks, end = streamed(puppet, code)
    assert b"".join(answer.body for answer in chunks) == b"some"
    assert (end.kind, end.head["type"]) == (END, "Runtime.TruncatedResponse")
    assert puppet.call({"run": ""}).result == "done"


ENDLESS = """
own.sendall(f"{head}\\r\\n".encode())
sent = 0
try:
    while True:
        chunk(b"x" * 1000)
        sent += 1000
        open("/tmp/sent", "w").write(str(sent))
except OSError:
    print("stopped")
"""


def test_without_credit_the_writer_waits_and_a_cancel_stops_it(puppet: Sandbox) -> None:
    call = puppet.start({"run": STREAM + ENDLESS})
    size = 0
    while size < CREDIT_BYTES:
        size += len(puppet.receive().body)
    assert size == CREDIT_BYTES
    puppet.credit(call, 1)
    assert len(puppet.receive().body) == 1  # had more been sent, it would be here
    puppet.cancel(call)
    end = puppet.receive()
    assert (end.kind, end.head["code"], end.head["type"]) == (END, "function_error", "Cancelled")
    assert puppet.output(1) == b"stopped\n"  # of this call: it ends when its function has
    sent = puppet.call({"run": "result = int(open('/tmp/sent').read())"}).result
    assert sent < 16 * 1024 * 1024  # what the socket's buffers hold, at most a few MiB


def test_an_answer_to_a_cancelled_call_still_counts(puppet: Sandbox) -> None:
    call = puppet.start({"run": "print('busy')\nimport time\ntime.sleep(0.05)"})
    while not puppet.written[1]:
        puppet._pump(30)
    puppet.cancel(call)
    answer = puppet.receive()
    assert (answer.kind, answer.call) == (RESULT, call)
