"""What is particular to streams in Node: iterators of every kind, and awslambda's streams."""

from __future__ import annotations

import pytest

from runtimes.registry import RUNTIMES
from tests.conformance.conftest import Boot
from tests.conformance.wire_client import (
    CANCEL,
    CHUNK,
    CHUNK_BYTES_MAX,
    CREDIT_BYTES,
    END,
    ERROR,
    INIT_ERROR,
    READY,
    Frame,
    Sandbox,
    frame,
)

pytestmark = pytest.mark.parametrize("runtime", [RUNTIMES["node24"]], ids=["node24"], indirect=True)

OCTETS = {"status": 200, "headers": [["content-type", "application/octet-stream"]]}
STREAMED = "export const handler = awslambda.streamifyResponse(async (event, stream, context) => {"
FROM = "awslambda.HttpResponseStream.from"


def ready(boot: Boot, source: str, **changes: int) -> Sandbox:
    """A sandbox with a function, which must load."""
    sandbox = boot(source)
    answer = sandbox.init("main.handler", **changes)
    assert answer.kind == READY, answer
    return sandbox


def streaming(boot: Boot, body: str) -> Sandbox:
    """A sandbox whose handler, made by streamifyResponse, has this body."""
    imports = "import { once } from 'node:events';\nimport { Readable } from 'node:stream';\n"
    imports += "import { pipeline } from 'node:stream/promises';\n"
    return ready(boot, f"{imports}{STREAMED} {body} }});\n")


def whole(frames: list[Frame]) -> bytes:
    """The bytes of a stream that ended well."""
    assert [frame.kind for frame in frames] == [CHUNK] * (len(frames) - 1) + [END], frames
    assert frames[-1].head == {}
    return b"".join(frame.body for frame in frames)


@pytest.mark.parametrize(
    "handler",
    [
        "function* (event) { yield event; yield 'b'; }",
        "async function* (event) { yield event; yield 'b'; }",
        "async (event) => [event, 'b'].values()",
        "function* (event) { yield Promise.resolve(event); yield (async () => 'b')(); }",
        "(event) => { const rest = [event, 'b'];"
        " return { next: async () => ({ done: rest.length === 0, value: rest.shift() }),"
        " [Symbol.asyncIterator]() { return this; } }; }",
        "(event, context, callback) => callback(null, [event, 'b'].values())",
        "(event, context) => { context.succeed([event, 'b'].values()); }",
    ],
)
def test_every_kind_of_iterator_streams(boot: Boot, handler: str) -> None:
    sandbox = ready(boot, f"export const handler = {handler};\n")
    for _ in range(2):
        assert whole(sandbox.streamed(sandbox.start("a"))) == b"ab"


def test_bytes_of_every_kind_are_written_as_they_are(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "const bytes = Buffer.from('-abcdefgh-');\n"
        "const copy = new Uint8Array([...bytes]).buffer;\n"
        "export async function* handler() {\n  yield bytes.subarray(1, 3);\n"
        "  yield new DataView(copy, 3, 2);\n  yield new Uint16Array(copy.slice(5, 9));\n"
        "  yield new TextEncoder().encode('i').buffer;\n}\n",
    )
    assert whole(sandbox.streamed(sandbox.start(1))) == b"abcdefghi"


def test_no_chunk_is_larger_than_a_payload_may_be(boot: Boot) -> None:
    source = "export async function* handler() { yield 'x'.repeat(2500); }"
    sandbox = ready(boot, source, payload_bytes_max=1000)
    frames = sandbox.streamed(sandbox.start(1))
    assert [len(frame.body) for frame in frames] == [1000, 1000, 500, 0]


def test_a_generator_is_not_asked_while_the_credit_is_used_up(boot: Boot) -> None:
    sandbox = ready(
        boot,
        f"export async function* handler() {{\n  yield 'x'.repeat({CREDIT_BYTES});\n"
        "  console.log('asked');\n}\n",
    )
    call = sandbox.start(1)
    for _ in range(CREDIT_BYTES // CHUNK_BYTES_MAX):
        assert len(sandbox.receive().body) == CHUNK_BYTES_MAX
    sandbox.cancel(call)
    assert sandbox.receive().kind == END
    assert sandbox.output(1) == b""


@pytest.mark.parametrize(
    "result",
    [
        "{ next: () => 5, [Symbol.asyncIterator]() {} }",
        "{ next() { throw new RangeError('next') }, [Symbol.iterator]() {} }",
        "{ next: () => new Promise((_, no) => no()), [Symbol.iterator]() {} }",
        "{ next: () => ({ get done() { throw 1 } }), [Symbol.iterator]() {} }",
        "{ next: () => ({ get value() { throw 1 } }), [Symbol.iterator]() {} }",
        "{ next: () => ({ value: 1n }), return: 5, [Symbol.iterator]() {} }",
        "{ next: () => ({ value: 1n }), return() { throw 1 }, [Symbol.iterator]() {} }",
        "{ next: () => ({ value: { toJSON() { throw 1 } } }), [Symbol.iterator]() {} }",
        "{ next: () => ({ value: { get statusCode() { throw 1 } } }), [Symbol.iterator]() {} }",
        "{ get next() { throw new RangeError('getter') } }",
        "{ next() {}, get [Symbol.iterator]() { throw new RangeError('getter') } }",
    ],
)
def test_an_iterator_that_misbehaves_is_that_calls_error(boot: Boot, result: str) -> None:
    sandbox = ready(boot, f"export const handler = (event) => (event ? {result} : 'on');")
    answer = sandbox.call(1)
    assert (answer.kind, answer.call) == (ERROR, 1)
    assert sandbox.call(0).result == "on"


def test_a_cancel_returns_an_iterator_that_waits(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "import { EventEmitter, on } from 'node:events';\n"
        "export const handler = async (event) => {\n"
        "  console.log('begun');\n  return event ? on(new EventEmitter(), 'never') : 'on';\n};\n",
    )
    call = sandbox.start(1)
    while not sandbox.written[1]:
        sandbox._pump(60)
    sandbox.cancel(call)
    answer = sandbox.receive()
    assert (answer.kind, answer.head["type"]) == (ERROR, "Cancelled")
    assert sandbox.call(0).result == "on"


# --- awslambda ---


def test_what_is_written_to_the_stream_is_sent(boot: Boot) -> None:
    sandbox = streaming(boot, "stream.write('a'); stream.write(Buffer.from('b')); stream.end('c');")
    for _ in range(2):
        frames = sandbox.streamed(sandbox.start(1))
        assert whole(frames) == b"abc"
        assert frames[0].head == OCTETS


def test_the_handlers_promise_ends_the_stream(boot: Boot) -> None:
    sandbox = streaming(boot, "if (event) stream.write(event); return 'not heard';")
    assert whole(sandbox.streamed(sandbox.start("text"))) == b"text"
    frames = sandbox.streamed(sandbox.start(""))
    assert (len(frames), frames[0].head, whole(frames)) == (2, OCTETS, b"")


def test_the_content_type_can_be_set(boot: Boot) -> None:
    sandbox = streaming(boot, "stream.setContentType('text/html'); stream.end('a');")
    frames = sandbox.streamed(sandbox.start(1))
    assert frames[0].head == {"status": 200, "headers": [["content-type", "text/html"]]}


def test_a_head_with_status_headers_and_cookies_can_be_set(boot: Boot) -> None:
    head = "{ statusCode: 201, headers: { 'X-A': 1, 'Content-Type': 'text/plain' },"
    head += " cookies: ['a=1', 'b=2'] }"
    sandbox = streaming(boot, f"stream = {FROM}(stream, {head}); stream.write('a'); stream.end();")
    frames = sandbox.streamed(sandbox.start(1))
    assert frames[0].head["status"] == 201
    assert frames[0].head["headers"] == [
        ["x-a", "1"],
        ["content-type", "text/plain"],
        ["set-cookie", "a=1"],
        ["set-cookie", "b=2"],
    ]
    assert (len(frames), whole(frames)) == (2, b"a")


def test_a_head_leaves_before_the_first_write(boot: Boot) -> None:
    wait = "await once(context.signal, 'abort'); stream.end();"
    sandbox = streaming(boot, f"{FROM}(stream, {{ statusCode: 202 }}); {wait}")
    call = sandbox.start(1)
    first = sandbox.receive()
    assert (first.kind, first.head["status"], first.body) == (CHUNK, 202, b"")
    sandbox.cancel(call)
    end = sandbox.receive()
    assert (end.kind, end.head["type"]) == (END, "Cancelled")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("{ statusCode: 99 }", "statusCode"),
        ("{ headers: { 'a b': 1 } }", "a b"),
        ("{ cookies: 'a=1' }", "cookies"),
        ("{ headers: { a: 'x'.repeat(2e5) } }", "too large"),
        ("{ get statusCode() { throw new RangeError('getter'); } }", "getter"),
    ],
)
def test_a_head_that_cannot_be_sent_is_refused_where_it_is_set(
    boot: Boot, head: str, message: str
) -> None:
    tries = f"try {{ {FROM}(stream, {head}); }} catch (error) {{ if (event) throw error; }}"
    sandbox = streaming(boot, f"{tries} stream.end('a');")
    (answer,) = sandbox.streamed(sandbox.start(1))
    assert (answer.kind, message in answer.head["message"]) == (ERROR, True), answer
    expected = "function_error" if "getter" in head else "function_response_invalid"
    assert answer.head["code"] == expected
    assert whole(sandbox.streamed(sandbox.start(0))) == b"a"


@pytest.mark.parametrize(
    "fails",
    [
        "throw new RangeError('no');",
        "await null; throw new RangeError('no');",
        f"{FROM}(stream, {{ statusCode: 200 }}); throw new RangeError('no');",
        "stream.destroy(new RangeError('no'));",
        "await pipeline(async function* () { throw new RangeError('no'); }, stream);",
    ],
)
def test_a_failure_before_the_first_byte_is_an_error(boot: Boot, fails: str) -> None:
    sandbox = streaming(boot, f"if (event) {{ {fails} }} else stream.end('on');")
    (answer,) = sandbox.streamed(sandbox.start(1))
    assert (answer.kind, answer.head["code"]) == (ERROR, "function_error")
    assert (answer.head["type"], answer.head["message"]) == ("RangeError", "no")
    assert whole(sandbox.streamed(sandbox.start(0))) == b"on"


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        ("throw new RangeError('no');", "no"),
        ("stream.destroy(new RangeError('no'));", "no"),
        ("stream.destroy();", "too early"),
        ("stream.end(); throw new RangeError('no');", "no"),
        ("stream.write(5n);", "BigInt"),
        ("await pipeline(async function* () { throw new RangeError('no'); }, stream);", "no"),
    ],
)
def test_a_failure_after_the_first_byte_is_told_by_the_end(
    boot: Boot, fails: str, message: str
) -> None:
    sandbox = streaming(boot, f"stream.write('some'); {fails}")
    for _ in range(2):
        frames = sandbox.streamed(sandbox.start(1))
        assert [frame.kind for frame in frames] == [CHUNK, END]
        assert message in frames[1].head["message"]
        assert frames[1].head["code"].startswith("function_")


def test_a_write_after_the_end_harms_nobody(boot: Boot) -> None:
    sandbox = streaming(
        boot, "globalThis.before?.write('late'); globalThis.before = stream; stream.end('a');"
    )
    for _ in range(3):
        assert whole(sandbox.streamed(sandbox.start(1))) == b"a"


def test_a_stream_that_cannot_be_destroyed_is_not_heard_after_its_answer(boot: Boot) -> None:
    sandbox = streaming(
        boot,
        "if (!event) { await globalThis.late; stream.end('on'); return; }\n"
        "stream.destroy = () => {};\n"
        "globalThis.late = new Promise((done) => setTimeout(() => {\n"
        "  stream.write('late'); done();\n}, 5));\n"
        "throw new RangeError('no');",
    )
    assert sandbox.call(1).kind == ERROR
    assert whole(sandbox.streamed(sandbox.start(0))) == b"on"


def test_objects_are_written_as_json_as_on_aws(boot: Boot) -> None:
    sandbox = streaming(
        boot,
        "stream.write({ a: [1] }); stream.write(5); stream.write(new Uint8Array([33]).buffer);"
        " stream.end([true]);",
    )
    assert whole(sandbox.streamed(sandbox.start(1))) == b'{"a":[1]}5![true]'


def test_a_pipeline_is_as_slow_as_its_reader(boot: Boot) -> None:
    sandbox = streaming(
        boot,
        "if (event === 'pulled') { stream.end(String(globalThis.pulled)); return; }\n"
        "globalThis.pulled = 0;\nconst piece = Buffer.alloc(50_000, 'x');\n"
        "async function* endless() { for (;;) { globalThis.pulled += 50_000; yield piece; } }\n"
        "await pipeline(Readable.from(endless(), { objectMode: false }), stream);\n",
    )
    call = sandbox.start("go")
    for credit in (0, 123_456):
        sandbox.credit(call, credit)
        left = credit or CREDIT_BYTES
        while left > 0:
            answer = sandbox.receive()
            assert 0 < len(answer.body) <= CHUNK_BYTES_MAX
            left -= len(answer.body)
        assert left == 0
    sandbox.cancel(call)
    end = sandbox.receive()
    assert (end.kind, end.head["code"]) == (END, "function_error")
    pulled = int(whole(sandbox.streamed(sandbox.start("pulled"))))
    assert CREDIT_BYTES + 123_456 <= pulled <= CREDIT_BYTES + 123_456 + 300_000


def test_a_writer_that_waits_for_drain_gets_all_through(boot: Boot) -> None:
    sandbox = streaming(
        boot,
        "for (let i = 0; i < 100; i += 1)\n"
        "  if (!stream.write(String(i % 10).repeat(30_000))) await once(stream, 'drain');\n",
    )
    expected = b"".join(str(number % 10).encode() * 30_000 for number in range(100))
    assert whole(sandbox.streamed(sandbox.start(1))) == expected


def test_the_call_lasts_as_long_as_its_handler(boot: Boot) -> None:
    sandbox = streaming(
        boot,
        "stream.end('a'); await new Promise((done) => setTimeout(done, 30)); console.log('done');",
    )
    assert whole(sandbox.streamed(sandbox.start(1))) == b"a"
    assert sandbox.output(1) == b"done\n"


@pytest.mark.parametrize(
    "handler",
    [
        "(event, stream) => { setTimeout(() => stream.end('a'), 5); }",
        "(event, stream) => { stream.write('a'); }",
        "(event, stream) => stream.end('a')",
    ],
)
def test_a_streaming_handler_need_not_be_async(boot: Boot, handler: str) -> None:
    sandbox = ready(boot, f"export const handler = awslambda.streamifyResponse({handler});")
    for _ in range(2):
        assert whole(sandbox.streamed(sandbox.start(1))) == b"a"


def test_a_global_that_the_function_replaces_changes_nothing(boot: Boot) -> None:
    sandbox = ready(
        boot,
        f"{STREAMED} stream.end('a'); }});\n"
        "globalThis.awslambda = { ...awslambda, streamifyResponse: undefined };\n"
        "delete globalThis.AbortController; globalThis.setImmediate = () => {};\n",
    )
    assert whole(sandbox.streamed(sandbox.start(1))) == b"a"


# --- what ends a call ---


def test_a_signal_is_aborted_even_if_it_is_asked_for_late(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "export const handler = async (event, context) => {\n"
        "  if (event === 0) return context.signal.aborted;\n  console.log('begun');\n"
        "  await new Promise((done) => setTimeout(done, event));\n"
        "  return [context.signal.aborted, context.signal === context.signal];\n};\n",
    )
    assert sandbox.call(0).result is False
    call = sandbox.start(50)
    while not sandbox.written[1]:
        sandbox._pump(60)
    sandbox.cancel(call)
    assert sandbox.receive().result == [True, True]


def test_an_uncaught_error_is_the_streams_end_and_the_sandboxs_last(boot: Boot) -> None:
    sandbox = streaming(
        boot,
        "stream.write('some');\nsetTimeout(() => { throw new RangeError('lost'); }, 1);\n"
        "await once(context.signal, 'abort');",
    )
    frames = sandbox.streamed(sandbox.start(1))
    assert [frame.kind for frame in frames] == [CHUNK, END]
    assert (frames[1].head["message"], frames[1].head["last"]) == ("lost", True)
    assert sandbox.ends() == 1


def test_a_process_for_each_request_is_refused(boot: Boot) -> None:
    answer = boot("export const handler = () => 1;").init(isolation="request")
    assert (answer.kind, answer.head["type"]) == (INIT_ERROR, "IsolationUnsupported")


def test_a_writer_that_waits_for_a_drain_that_never_comes_is_given_up(boot: Boot) -> None:
    sandbox = streaming(
        boot,
        "for (;;) if (!stream.write(Buffer.alloc(65536)))"
        " await new Promise((done) => stream.once('drain', done));",
    )
    sandbox.send(sandbox.call_frame("event", b"{}"))
    assert sandbox.receive().kind == CHUNK
    sandbox.send(frame(CANCEL, sandbox.calls, {}))
    while (answer := sandbox.receive()).kind == CHUNK:
        pass
    assert answer.kind == END
