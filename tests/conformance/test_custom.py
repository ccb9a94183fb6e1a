"""What is particular to functions that bring their own program and speak the Runtime API."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtimes.registry import RUNTIMES, Runtime
from tests.conformance import wire_client
from tests.conformance.conftest import FUNCTIONS, Boot
from tests.conformance.wire_client import (
    CALL,
    CHUNK,
    CREDIT_BYTES,
    END,
    ERROR,
    INIT_ERROR,
    READY,
    RESULT,
    Frame,
    Sandbox,
    frame,
)

pytestmark = pytest.mark.parametrize("runtime", [RUNTIMES["custom"]], ids=["custom"], indirect=True)

PUPPET = (FUNCTIONS / "puppet_bootstrap").read_text()
API = "/2018-06-01/runtime/"
IDLE_S = 1.0
# The header of an ELF program for aarch64, as `readelf -h` shows it, without anything behind it.
AARCH64 = (
    b"\x7fELF\x02\x01\x01" + bytes(9) + (2).to_bytes(2, "little") + (183).to_bytes(2, "little")
)


@pytest.fixture(scope="session")
def shared_puppet(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One for all tests that leave it as it was."""
    root = tmp_path_factory.mktemp("puppet")
    with wire_client.make(runtime, {"bootstrap": PUPPET}, root) as sandbox:
        assert sandbox.init().kind == READY
        yield sandbox


@pytest.fixture
def puppet(shared_puppet: Sandbox) -> Sandbox:
    """The shared one, with what it wrote forgotten."""
    shared_puppet.output(1)
    shared_puppet.output(2)
    return shared_puppet


def started(boot: Boot, **changes: Any) -> Sandbox:
    """A puppet of one's own."""
    sandbox = boot({"bootstrap": PUPPET})
    answer = sandbox.init(**changes)
    assert answer.kind == READY, (answer, sandbox.written)
    return sandbox


def failed(boot: Boot, bootstrap: str | bytes | None, mode: int = 0o755) -> dict[str, Any]:
    """What INIT is answered with."""
    sandbox = boot({"data/x.txt": "", "bootstrap": bootstrap or ""})
    file = sandbox.task / "bootstrap"
    file.chmod(mode)
    if bootstrap is None:
        file.unlink()
    answer = sandbox.init()
    assert answer.kind == INIT_ERROR, answer
    return answer.head


def test_a_stem_says_that_it_is_a_bridge(boot: Boot) -> None:
    assert boot({}).hello.head == {"protocol": 2, "runtime": "custom"}


def test_a_missing_bootstrap_names_what_there_is(boot: Boot) -> None:
    head = failed(boot, None)
    assert head["type"] == "Runtime.InvalidEntrypoint"
    assert head["message"] == "there is no bootstrap in the root of the code"
    assert head["found"] == ["data"]


@pytest.mark.parametrize(
    ("bootstrap", "mode", "says"),
    [
        ("#!/bin/sh\n", 0o644, "chmod +x"),
        ("hello", 0o755, "neither #! nor the header of an ELF file"),
        (b"", 0o755, "neither #! nor the header of an ELF file"),
        (
            AARCH64 + bytes(44),
            0o755,
            f"a program for aarch64; this machine is {os.uname().machine}",
        ),
        ("#!/opt/ruby/bin/ruby\n", 0o755, "#!/opt/ruby/bin/ruby, a program that is not in this"),
    ],
    ids=["mode", "text", "empty", "aarch64", "interpreter"],
)
def test_what_cannot_be_started_is_told_apart(
    boot: Boot, bootstrap: str | bytes, mode: int, says: str
) -> None:
    head = failed(boot, bootstrap, mode)
    assert head["type"] == "Runtime.InvalidEntrypoint"
    assert says in head["message"]


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("exit 3", "bootstrap exited with status 3 before it asked for an invocation"),
        ("exit 0", "bootstrap exited with status 0 before it asked for an invocation"),
        ("kill -SEGV $$", "bootstrap was killed by SIGSEGV before it asked for an invocation"),
        ("head -c 5000 /dev/urandom; exit 1", "exited with status 1"),
    ],
)
def test_an_end_before_the_first_question_is_told(boot: Boot, script: str, says: str) -> None:
    head = failed(boot, f"#!/bin/sh\n{script}\n")
    assert head["type"] == "Runtime.ExitError"
    assert says in head["message"]


def test_an_init_error_is_the_bootstraps_own(boot: Boot) -> None:
    sandbox = boot({"bootstrap": PUPPET})
    told = '{"errorType": "App.NoConfig", "errorMessage": "no DB", "stackTrace": ["a", "b\\nc"]}'
    code = (
        f"print(ask('POST', 'init/error', {told.encode()!r}))\nprint(ask('GET', 'invocation/next'))"
    )
    answer = sandbox.init("start.code", env={"START": code})
    assert answer.kind == INIT_ERROR
    assert answer.head == {"type": "App.NoConfig", "message": "no DB", "trace": ["a", "b", "c"]}
    while sandbox.written[1].count(b"\n") < 2:
        sandbox._pump(30)
    accepted, refused = sandbox.output(1).splitlines()
    assert accepted.startswith(b"[202,")
    assert b'{"status":"OK"}' in accepted
    assert refused.startswith(b"[403,")


def test_who_never_asks_is_never_ready_and_ends_with_the_wire(boot: Boot) -> None:
    sandbox = boot({"bootstrap": "#!/bin/sh\necho up\nexec sleep 600\n"})
    sandbox.send(sandbox.init_frame())
    while not sandbox.written[1]:
        sandbox._pump(30)
    assert sandbox._take() is None
    sandbox.wire.close()
    assert sandbox.exit_status() == 0


def test_the_environment_is_lambdas_and_the_functions(boot: Boot) -> None:
    sandbox = started(boot, env={"GREETING": "héllo", "LD_LIBRARY_PATH": "/own", "INHERITED": "no"})
    env = sandbox.call({"run": "result = dict(os.environ)"}).result
    task = sandbox.task_inside
    assert env.pop("AWS_LAMBDA_RUNTIME_API").startswith("127.0.0.1:")
    assert env.pop("AWS_LAMBDA_LOG_STREAM_NAME")
    for name in ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "SSL_CERT_FILE", "PWD", "SHLVL", "_"):
        env.pop(name, None)
    assert env == {
        "GREETING": "héllo",
        "LD_LIBRARY_PATH": "/own",
        "INHERITED": "no",
        "LAMBDA_TASK_ROOT": task,
        "LAMBDA_RUNTIME_DIR": "/var/runtime",
        "_HANDLER": "main.handler",
        "AWS_LAMBDA_FUNCTION_NAME": "hello",
        "AWS_LAMBDA_FUNCTION_VERSION": "7",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
        "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/hello",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "HEARTH_NAMESPACE": "default",
        "TMPDIR": "/tmp",
        "HOME": "/tmp",
    }


def test_a_question_is_answered_with_lambdas_headers(puppet: Sandbox) -> None:
    puppet.calls += 1
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    head = {"id": "an-id", "kind": "event", "deadline_ms": 1000, "trace": trace}
    puppet.send(frame(CALL, puppet.calls, head, b'{"run": "result = headers"}'))
    told = puppet.receive().result
    del told["content-length"]
    assert told == {
        "content-type": "application/json",
        "lambda-runtime-aws-request-id": "an-id",
        "lambda-runtime-deadline-ms": "1000",
        "lambda-runtime-invoked-function-arn": "arn:aws:lambda:local:000000000000:function:hello:7",
        "lambda-runtime-trace-id": "Root=1-0af76519-16cd43dd8448eb211c80319c;"
        "Parent=b7ad6b7169203331;Sampled=1",
    }


def post(what: str, body: str = "1", *headers: str, path: str = "") -> str:
    """A request as text."""
    lines = [f"POST {API}{path or 'invocation/{id}/' + what} HTTP/1.1", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", body])


GET = f"GET {API}invocation/next HTTP/1.1\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n\r\n"
BODIES = "Content-Length: 3\r\n\r\nabc"
BROKEN = [
    ("garbage\r\n\r\n", 400, "not HTTP"),
    ("\x16\x03\x01\x02\x00\x01\r\n\r\n", 400, "not HTTP"),
    (f"GET {API}invocation/next HTTP/2.0\r\n\r\n", 505, "HTTP/1.1"),
    ("GET / HTTP/1.1\r\n\r\n", 404, "no such path"),
    (f"GET {API}invocation HTTP/1.1\r\n\r\n", 404, "no such path"),
    (f"POST {API}invocation/a/b/c HTTP/1.1\r\n{BODIES}", 404, "no such path"),
    (f"POST {API}invocation/next HTTP/1.1\r\n{BODIES}", 405, "only GET"),
    (f"PUT {API}invocation/{{id}}/response HTTP/1.1\r\n{BODIES}", 405, "only POST"),
    (GET + "x: " + "y" * 70_000, 431, "65536 bytes"),
    (GET + "x: y\r\n" * 101 + "\r\n", 431, "100 headers"),
    (GET + "no colon\r\n\r\n", 400, "no name and value"),
    (GET + "a b: c\r\n\r\n", 400, "no name and value"),
    (GET + "Content-Length: -1\r\n\r\n", 400, "cannot be believed"),
    (GET + "Content-Length: 1e3\r\n\r\n", 400, "cannot be believed"),
    (GET + "Content-Length: 1\r\nContent-Length: 1\r\n\r\n", 400, "said twice"),
    (GET + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "cannot be believed"),
    (GET + "Transfer-Encoding: gzip, chunked\r\n\r\n", 501, "only chunked"),
    (post("response", path="invocation/nobodys/response"), 400, "InvalidRequestID"),
    (post("error", "{}", path="invocation/nobodys/error"), 400, "InvalidRequestID"),
    (post("", "{}", path="init/error"), 403, "InvalidStateTransition"),
    (
        post("response", "1", "Lambda-Runtime-Function-Response-Mode: odd"),
        400,
        "InvalidFunctionResponseMode",
    ),
    (
        post("response", "1", "Expect: 100-continue", path="invocation/nobodys/response"),
        400,
        "InvalidRequestID",
    ),
    (f"POST {API}invocation/x/error HTTP/1.1\r\n{CHUNKED}zz\r\n", 400, "a chunk has no length"),
    (f"POST {API}invocation/x/error HTTP/1.1\r\n{CHUNKED}1\r\nab\r\n", 400, "longer than it"),
]


@pytest.mark.parametrize(("text", "status", "says"), BROKEN, ids=range(len(BROKEN)))
def test_a_request_that_is_none_is_refused_and_harms_no_call(
    puppet: Sandbox, text: str, status: int, says: str
) -> None:
    (answer,) = puppet.call({"raw": [text], "answers": 1}).result
    assert answer[0] == status
    assert says in answer[1]


def test_requests_may_come_in_pieces_and_several_at_once(puppet: Sandbox) -> None:
    unknown = post("response", path="invocation/nobodys/response")
    answers = puppet.call({"raw": [*unknown, unknown + unknown], "answers": 3}).result
    assert [status for status, _ in answers] == [400, 400, 400]


def test_an_answer_may_be_chunked_and_expect_a_word_first(puppet: Sandbox) -> None:
    code = """
with connect() as own, own.makefile("rb") as file:
    head = f"POST {API}invocation/{ID}/response HTTP/1.1\\r\\nTransfer-Encoding: chunked\\r\\n"
    own.sendall(head.encode() + b"Expect: 100-continue\\r\\n\\r\\n")
    first = file.readline() + file.readline()
    for byte in b"2;name=value\\r\\n[1\\r\\n2\\r\\n,2\\r\\n1\\r\\n]\\r\\n0\\r\\nX: y\\r\\n\\r\\n":
        own.sendall(bytes([byte]))
    print(first, read_answer(file)[0])
result = "answered"
"""
    assert puppet.call({"run": code}).result == [1, 2]
    assert puppet.call({"run": ""}).result == "done"
    assert puppet.output(1) == b"b'HTTP/1.1 100 Continue\\r\\n\\r\\n' 202\n"


def test_a_second_answer_is_refused(puppet: Sandbox) -> None:
    code = "ask('POST', f'invocation/{ID}/response', b'1')\nresult = 'answered'\n"
    for what in ("response", "error"):
        again = f"print(ask('POST', f'invocation/{{ID}}/{what}', b'{{}}'))"
        assert puppet.call({"run": code + again}).result == 1
        assert puppet.call({"run": ""}).result == "done"
        said = puppet.output(1)
        assert said.startswith(b"[403,")
        assert b"InvalidStateTransition" in said


def test_two_answers_at_once_are_one(puppet: Sandbox) -> None:
    code = """
head = f"POST {API}invocation/{ID}/response HTTP/1.1\\r\\nContent-Length: 2\\r\\n\\r\\n"
with connect() as own, own.makefile("rb") as file:
    own.sendall(head.encode() + b"1")
    print(ask("POST", f"invocation/{ID}/response", b"5")[0], end=" ")
    print(ask("POST", f"invocation/{ID}/error", b"{}")[0], end=" ")
    own.sendall(b"7")
    print(read_answer(file)[0])
result = "answered"
"""
    assert puppet.call({"run": code}).result == 17
    puppet.call({"run": ""})
    assert puppet.output(1) == b"403 403 202\n"


def test_a_response_over_the_limit_is_refused_and_told(boot: Boot) -> None:
    sandbox = started(boot, payload_bytes_max=1000)
    code = "print(ask('POST', f'invocation/{ID}/response', b'x' * %d)[0])\nresult = 'answered'\n"
    for size in (1001, 3_000_000):
        answer = sandbox.call({"run": code % size})
        assert answer.head["type"] == "Function.ResponseSizeTooLarge"
        assert answer.head["code"] == "function_response_invalid"
        assert sandbox.call({"run": ""}).result == "done"
        assert sandbox.output(1) == b"413\n"


@pytest.mark.parametrize(
    ("body", "says"),
    [("{", "not JSON"), ("\xff", "not JSON"), ("", "not JSON"), ("NaN", "not JSON")],
)
def test_a_response_that_is_not_json_is_told(puppet: Sandbox, body: str, says: str) -> None:
    text = post("response", body)
    answer = puppet.call({"run": f"speak([{text!r}], 1)\nresult = 'answered'"})
    assert (answer.kind, answer.head["code"]) == (ERROR, "function_response_invalid")
    assert answer.head["type"] == "Runtime.MarshalError"
    assert says in answer.head["message"]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ('{"errorType": "A", "errorMessage": "m", "stackTrace": ["x"]}', 202, ("A", "m", ["x"])),
        ('{"errorMessage": {"a": 1}, "stackTrace": "x\\ny"}', 202, ("H", '{"a":1}', ["x", "y"])),
        ("", 202, ("H", "", [])),
        ("[]", 400, ("H", "the error's body cannot be read: it is no object", [])),
        ("{", 400, ("H", "the error's body cannot be read: ", [])),
    ],
)
def test_an_error_is_told_whatever_its_body_is(
    puppet: Sandbox, body: str, status: int, told: tuple[str, str, list[str]]
) -> None:
    text = post("error", body, "Lambda-Runtime-Function-Error-Type: H")
    answer = puppet.call({"run": f"print(speak([{text!r}], 1)[0][0])\nresult = 'answered'"})
    assert (answer.kind, answer.head["code"]) == (ERROR, "function_error")
    assert (answer.head["type"], answer.head["trace"]) == (told[0], told[2])
    assert answer.head["message"].startswith(told[1])
    assert puppet.call({"run": ""}).result == "done"
    assert puppet.output(1) == f"{status}\n".encode()


def test_a_connection_that_ends_within_an_answer_ends_the_call(puppet: Sandbox) -> None:
    text = post("response", "1")[:-1]
    answer = puppet.call({"run": f"speak([{text!r}], 0)\nresult = 'answered'"})
    assert (answer.kind, answer.head["type"]) == (ERROR, "Runtime.TruncatedResponse")
    assert puppet.call({"run": ""}).result == "done"


def test_many_connections_are_bounded_and_given_back(puppet: Sandbox) -> None:
    code = """
import contextlib
with contextlib.ExitStack() as stack:
    held = [stack.enter_context(connect()) for _ in range(70)]
    file = stack.enter_context(held[-1].makefile("rb"))
    result = read_answer(file)[0]
"""
    assert puppet.call({"run": code}).result == 503
    assert puppet.call({"run": "result = ask('GET', 'nothing')[0]"}).result == 404


def test_two_processes_may_take_calls_in_turn(boot: Boot) -> None:
    start = "os.fork()"
    sandbox = boot({"bootstrap": PUPPET})
    assert sandbox.init("start.code", env={"START": start}).kind == READY
    seen = [sandbox.call({"run": "result = os.getpid()"}).result for _ in range(50)]
    assert len(set(seen)) == 2


def test_who_left_while_asking_is_given_no_call(puppet: Sandbox) -> None:
    code = f"with connect() as own: own.sendall({(GET + chr(13) + chr(10)).encode()!r})"
    for _ in range(3):
        assert puppet.call({"run": code}).result == "done"
    assert puppet.call({"run": "result = 1"}).result == 1


def test_noise_on_the_outputs_is_only_noise(puppet: Sandbox) -> None:
    code = "os.write(1, bytes(range(256)) * 64)\nos.write(2, b'HTTP/1.1 200 OK\\r\\n\\r\\n')"
    assert puppet.call({"run": code}).result == "done"
    assert puppet.output(1) == bytes(range(256)) * 64
    assert puppet.output(2) == b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("os._exit(3)", 3, b"bootstrap exited with status 3"),
        ("os._exit(0)", 0, b"bootstrap exited with status 0"),
        ("os.kill(os.getpid(), 9)", 137, b"bootstrap was killed by SIGKILL"),
    ],
)
def test_an_end_within_a_call_ends_the_sandbox(
    boot: Boot, code: str, status: int, says: bytes
) -> None:
    sandbox = started(boot)
    sandbox.start({"run": code})
    assert sandbox.ends() == status
    assert sandbox._take() is None
    assert sandbox.output(2) == b"hearth: " + says + b"\n"


def test_what_was_said_before_the_end_counts(boot: Boot) -> None:
    sandbox = started(boot)
    text = post("response", '"last words"')
    code = f"s = connect()\ns.sendall({text!r}.replace('{{id}}', ID).encode())\nos._exit(0)"
    assert sandbox.call({"run": code}).result == "last words"
    assert sandbox.ends() == 0


def test_orphans_are_buried(puppet: Sandbox) -> None:
    code = """
import time
if os.fork() == 0:
    os._exit(0) if os.fork() else os._exit(0)
os.wait()
states = lambda: [open(f"/proc/{p}/stat").read().rpartition(")")[2].split()[0]
                  for p in os.listdir("/proc") if p.isdigit()]
while "Z" in states():
    time.sleep(0.001)
"""
    assert puppet.call({"run": code}).result == "done"


def test_sigterm_is_the_bootstraps_to_obey(boot: Boot) -> None:
    sandbox = started(boot)
    code = "import signal\nsignal.signal(15, lambda *_: (print('closing'), sys.exit(7)))"
    assert sandbox.call({"run": code}).result == "done"
    sandbox.stop()
    assert sandbox.ends() == 7
    assert sandbox.output(1) == b"closing\n"


def test_an_idle_sandbox_takes_no_time_of_a_cpu(puppet: Sandbox) -> None:
    assert puppet.call({"run": ""}).result == "done"
    pids = [process_of(puppet)]
    pids += map(int, Path(f"/proc/{pids[0]}/task/{pids[0]}/children").read_text().split())
    assert len(pids) >= 2
    before = [ticks(pid) for pid in pids]
    time.sleep(IDLE_S)
    assert [ticks(pid) for pid in pids] == before


def process_of(sandbox: Sandbox) -> int:
    """The bridge's id on this host."""
    if wire_client.place_of(sandbox.runtime) == "host":
        return sandbox.process.pid
    command = ["podman", "inspect", "--format", "{{.State.Pid}}", sandbox.name]
    done = subprocess.run(command, env=wire_client.environ(), check=True, capture_output=True)
    return int(done.stdout)


def ticks(pid: int) -> tuple[str, ...]:
    """CPU time in the kernel's ticks, and how often it has gone to sleep."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    switches = [line for line in status if line.startswith("voluntary_ctxt_switches")]
    return (*stat[11:13], *switches)


# --- streams

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
