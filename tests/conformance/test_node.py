"""What is particular to Node functions."""

from __future__ import annotations

import pytest

from runtimes.registry import RUNTIMES
from tests.conformance.conftest import Boot
from tests.conformance.wire_client import ERROR, INIT_ERROR, READY, Sandbox

pytestmark = pytest.mark.parametrize("runtime", [RUNTIMES["node24"]], ids=["node24"], indirect=True)


def ready(boot: Boot, source: str, handler: str = "main.handler") -> Sandbox:
    """A sandbox with a function, which must load."""
    sandbox = boot(source)
    answer = sandbox.init(handler)
    assert answer.kind == READY, answer
    return sandbox


CJS = "exports.handler = async (event) => [event, typeof require];\n"
ESM = "export const handler = async (event) => [event, typeof require];\n"


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"main.cjs": CJS}, "function"),
        ({"main.mjs": ESM}, "undefined"),
        ({"main.js": CJS}, "function"),
        ({"main.js": CJS, "package.json": '{"type": "commonjs"}'}, "function"),
        ({"main.js": ESM, "package.json": '{"type": "module"}'}, "undefined"),
        ({"main.mjs": ESM, "main.js": "throw 1", "main.cjs": "throw 2"}, "undefined"),
        ({"main.js": CJS, "main.cjs": "throw 2"}, "function"),
        ({"main.js": "module.exports = { handler: async (e) => [e, typeof require] }"}, "function"),
        (
            {"main.js": "for (const n of ['handler']) module.exports[n] = async (e) => [e, 'x']"},
            "x",
        ),
    ],
)
def test_node_decides_what_kind_of_module_it_is(
    boot: Boot, files: dict[str, str | bytes], kind: str
) -> None:
    sandbox = boot(files)
    answer = sandbox.init()
    assert answer.kind == READY, answer
    assert sandbox.call(1).result == [1, kind]


def test_a_handler_may_be_a_property_deeper_down(boot: Boot) -> None:
    sandbox = ready(boot, "export const api = { get: { one: () => 'one' } };", "main.api.get.one")
    assert sandbox.call(1).result == "one"


def test_a_missing_common_js_export_names_those_there_are(boot: Boot) -> None:
    answer = boot({"main.js": "module.exports = { b() {}, a() {}, c: 1 };"}).init()
    assert (answer.kind, answer.head["found"]) == (INIT_ERROR, ["a", "b"])


@pytest.mark.parametrize(
    "body",
    [
        "(event, context, callback) => callback(null, [event])",
        "(event, context, callback) => { setTimeout(() => callback(null, [event]), 5); }",
        "(event, context, callback) => { context.callbackWaitsForEmptyEventLoop = false;"
        " setInterval(() => {}, 1e6); callback(null, [event]); }",
        "(event, context) => { context.succeed([event]); }",
        "(event, context) => { setTimeout(() => context.done(null, [event]), 5); }",
        "(event) => [event]",
        "(event) => ({ then: (done) => done([event]) })",
        "(event, context, callback) => { callback(null, [event]); callback(new Error('late')); }",
    ],
)
def test_every_style_of_answering_works(boot: Boot, body: str) -> None:
    sandbox = ready(boot, f"export const handler = {body};")
    assert sandbox.call(1).result == [1]
    assert sandbox.call(2).result == [2]


@pytest.mark.parametrize(
    "body",
    [
        "(event, context, callback) => callback(new TypeError('no'))",
        "(event, context, callback) => { setTimeout(() => callback(new TypeError('no')), 5); }",
        "(event, context) => { context.fail(new TypeError('no')); }",
        "(event, context) => { context.done(new TypeError('no')); }",
    ],
)
def test_every_style_of_failing_works(boot: Boot, body: str) -> None:
    sandbox = ready(boot, f"export const handler = {body};")
    for _ in range(2):
        answer = sandbox.call(1)
        assert (answer.kind, answer.head["type"]) == (ERROR, "TypeError")


def test_a_callback_waits_for_the_event_loop_to_be_empty(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "export const handler = (event, context, callback) => {\n"
        "  setTimeout(() => console.log('afterwards'), 30);\n  callback(null, event);\n};\n",
    )
    for number in range(3):
        assert sandbox.call(number).result == number
        assert sandbox.output() == b"afterwards\n"


def test_a_callback_that_never_comes_is_null_once_nothing_is_left(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "export const handler = (event, context, callback) => {\n"
        "  setTimeout(() => console.log('worked'), 5);\n};\n",
    )
    for _ in range(2):
        assert sandbox.call(1).result is None
        assert sandbox.output() == b"worked\n"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("setTimeout(() => { throw new RangeError('lost'); }, 1)", "RangeError"),
        ("Promise.reject(new RangeError('lost'))", "Runtime.UnhandledPromiseRejection"),
        ("process.nextTick(() => { throw new RangeError('lost'); })", "RangeError"),
    ],
)
def test_an_uncaught_error_is_the_calls_error_and_the_sandboxs_last(
    boot: Boot, body: str, kind: str
) -> None:
    sandbox = ready(
        boot, f"export const handler = () => new Promise(() => {{ {body}; setInterval(() => 1); }})"
    )
    answer = sandbox.call(1)
    assert (answer.kind, answer.head["code"], answer.head["type"]) == (
        ERROR,
        "function_error",
        kind,
    )
    assert (answer.head["message"], answer.head["last"]) == ("lost", True)
    assert sandbox.ends() == 1


def test_an_uncaught_error_between_calls_ends_the_sandbox_with_words(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "export const handler = async () => {\n"
        "  setTimeout(() => { throw new RangeError('lost'); }, 1);\n};\n",
    )
    sandbox.call(1)
    assert sandbox.ends() == 1
    assert b"RangeError: lost" in sandbox.output(2)


def test_an_uncaught_error_during_init_is_an_init_error(boot: Boot) -> None:
    answer = boot(
        "setTimeout(() => { throw new RangeError('lost'); }, 1);\n"
        "await new Promise((done) => setTimeout(done, 50));\nexport const handler = () => 1;\n"
    ).init()
    assert (answer.kind, answer.head["type"]) == (INIT_ERROR, "RangeError")


def test_values_json_lacks_become_what_stringify_makes_of_them(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "export const handler = () => ({ n: NaN, u: undefined, d: new Date(0), m: new Map() });",
    )
    assert sandbox.call(1).result == {"n": None, "d": "1970-01-01T00:00:00.000Z", "m": {}}


def test_an_undefined_header_is_left_out_and_a_buffer_refused_with_advice(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "export const handler = (event) => ({ statusCode: 200, headers: { a: undefined, b: '1' },"
        " body: event.rawPath === '/raw' ? Buffer.from('x') : 'x' });",
    )
    assert sandbox.http("/").head["headers"][0] == ["b", "1"]
    answer = sandbox.http("/raw")
    assert answer.kind == ERROR
    assert "isBase64Encoded" in answer.head["message"]


def test_calls_may_overlap_in_one_sandbox(boot: Boot) -> None:
    sandbox = boot(
        "let release;\nconst gate = new Promise((done) => { release = done; });\n"
        "export const handler = async (event, context) => {\n"
        "  if (event === 'open') release();\n  await gate;\n"
        "  return [event, context.awsRequestId];\n"
        "};\n"
    )
    assert sandbox.init(per_sandbox=2).kind == READY
    sandbox.send(sandbox.call_frame("event", b'"wait"'))
    sandbox.send(sandbox.call_frame("event", b'"open"'))
    answers = {answer.call: answer.result for answer in (sandbox.receive(), sandbox.receive())}
    assert {number: result[0] for number, result in answers.items()} == {1: "wait", 2: "open"}
    assert answers[1][1].endswith("1")


def test_errors_tell_their_cause(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "export const handler = () => { throw new Error('outer', { cause: new Error('inner') }) };",
    )
    trace = "\n".join(sandbox.call(1).head["trace"])
    assert trace.index("outer") < trace.index("Caused by: Error: inner")


def test_streams_imported_by_name_are_the_same(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "import { stdout } from 'node:process';\nimport { Console } from 'node:console';\n"
        "export const handler = () => { stdout.write('a');"
        " new Console(process.stdout).log('b'); console.table([1]); };",
    )
    sandbox.call(1)
    assert sandbox.output().startswith(b"ab\n")


def test_a_subprocess_that_makes_the_pipe_non_blocking_does_not_cut_output(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "import { spawn } from 'node:child_process';\nimport { once } from 'node:events';\n"
        "export const handler = async () => {\n"
        '  const code = \'process.stdout.write("child\\\\n");'
        ' process.stderr.write("ready"); setInterval(() => {}, 1e6)\';\n'
        "  const stdio = ['ignore', 'inherit', 'pipe'];\n"
        "  const child = spawn(process.execPath, ['-e', code], { stdio });\n"
        "  await once(child.stderr, 'data');\n  console.log('x'.repeat(1e6));\n"
        "  child.kill();\n  await once(child, 'exit');\n};\n",
    )
    assert sandbox.call(1).result is None
    assert sandbox.output() == b"child\n" + b"x" * 1_000_000 + b"\n"


def test_an_answer_survives_hostile_globals(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "export const handler = async (event) => {\n"
        "  process.exit = process.reallyExit = console.log = undefined;\n"
        "  process.removeAllListeners('beforeExit');\n  return event;\n};\n",
    )
    assert [sandbox.call(n).result for n in (1, 2)] == [1, 2]
    sandbox.wire.close()
    assert sandbox.exit_status() == 0


def test_garbage_does_not_fill_a_small_functions_memory(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "export const handler = () => {\n  let [kept, peak] = [[], 0];\n"
        "  for (let i = 0; i < 3e5; i += 1) {\n"
        "    kept.push({ i, s: 'x'.repeat(100) + i, a: new Array(50).fill(i) });\n"
        "    if (kept.length > 2e4) kept = [];\n"
        "    if (i % 1000 === 0) peak = Math.max(peak, process.memoryUsage.rss());\n"
        "  }\n  return peak / 1e6;\n};\n",
    )
    assert sandbox.call(1).result < 160  # Node itself takes 50; unbounded 178 to 302


def test_a_stem_has_loaded_what_functions_import(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "const loaded = new Set(process.moduleLoadList);\n"
        "export const handler = (names) => names.filter((name) => !loaded.has(name));\n",
    )
    names = ["https", "http", "zlib", "crypto", "fs/promises", "internal/deps/undici/undici"]
    assert sandbox.call([f"NativeModule {name}" for name in names]).result == []


def test_what_a_stem_practises_leaves_no_trace(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "const env = { ...process.env };\nexport const handler = () =>"
        " [Object.keys(globalThis).includes('awslambda'), process.env.AWS_LAMBDA_FUNCTION_NAME,"
        " env.HEARTH_FD, env.INHERITED];\n",
    )
    assert sandbox.call(1).result == [True, "hello", None, None]
