"""What holds a function of any runtime: its end, its limits, its walls. Through a real executor, in
real containers: a shim alone has none of them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from core.errors import FunctionCrashed, FunctionOutOfMemory, FunctionTimeout, HearthError
from core.limits import MIB, SANDBOX_TMP_MB
from core.model import Version
from executor.executor import Executor
from tests.conformance.table import CUSTOM, NODE, PYTHON
from tests.fixtures.nodes import Bench
from tests.fixtures.podman_service import PodmanService
from tests.fixtures.sandboxes import Codes, Lines, event, version_of

pytestmark = [pytest.mark.podman]

IN_PYTHON = """
import os, socket, time
calls = 0
def handler(event, context):
    global calls
    calls += 1
    return globals()[event](context)
def count(context):
    return calls
def crash(context):
    os._exit(3)
def eat(context):
    kept = []
    while True:
        kept.append(b"x" * (8 << 20))
def spin(context):
    while True:
        pass
def nap(context):
    time.sleep(0.3)
    return [time.time() - 0.3, time.time()]
def fill(context):
    written = 0
    with open("/tmp/fill", "wb", buffering=0) as file:
        try:
            while True:
                written += file.write(bytes(1 << 20))
        except OSError:
            pass
    os.unlink("/tmp/fill")
    return written
def change(context):
    try:
        open("/var/task/new", "w")
    except OSError as error:
        return error.strerror
def reach(context):
    try:
        socket.create_connection(("192.0.2.1", 80), 5)
    except OSError as error:
        return error.strerror
"""
IN_NODE = """
import fs from "node:fs";
import net from "node:net";
let calls = 0;
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const cases = {
  count: () => calls,
  crash: () => process.abort(),
  eat: () => { const kept = []; for (;;) kept.push(Buffer.alloc(8 << 20, 1)); },
  spin: () => { for (;;); },
  nap: async () => {
    const began = Date.now() / 1000;
    await sleep(300);
    return [began, Date.now() / 1000];
  },
  fill: () => {
    let written = 0;
    const file = fs.openSync("/tmp/fill", "w");
    try { for (;;) written += fs.writeSync(file, Buffer.alloc(1 << 20)); } catch {}
    fs.closeSync(file);
    fs.unlinkSync("/tmp/fill");
    return written;
  },
  change: () => {
    try { fs.writeFileSync("/var/task/new", ""); } catch (error) {
      return error.code === "EROFS" ? "Read-only file system" : error.code;
    }
  },
  reach: () => new Promise((done) => {
    const socket = net.connect(80, "192.0.2.1");
    socket.on("connect", () => done(undefined));
    socket.on("error", (error) =>
      done(error.code === "ENETUNREACH" ? "Network is unreachable" : error.code));
  }),
};
export const handler = (event) => { calls += 1; return cases[event](); };
"""
# A bootstrap that speaks the Runtime API by itself, and does what the Python function does.
IN_BOOTSTRAP = f"""#!/usr/bin/python3 -B
{IN_PYTHON}
import http.client, json
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
while True:
    api.request("GET", "/2018-06-01/runtime/invocation/next")
    asked = api.getresponse()
    answer = json.dumps(handler(json.loads(asked.read()), None))
    number = asked.headers["Lambda-Runtime-Aws-Request-Id"]
    api.request("POST", f"/2018-06-01/runtime/invocation/{{number}}/response", answer)
    api.getresponse().read()
"""
SUBJECTS: Mapping[str, tuple[str, str]] = {
    PYTHON: ("main.py", IN_PYTHON),
    NODE: ("main.mjs", IN_NODE),
    CUSTOM: ("bootstrap", IN_BOOTSTRAP),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """A function of one runtime on a node of its own."""

    executor: Executor
    version: Version

    async def does(self, what: str) -> Any:
        """The value that a call answers with."""
        outcome = await self.executor.invoke(self.version, event(json.dumps(what).encode()))
        assert outcome.failure is None, outcome.failure
        return json.loads(outcome.body)

    async def fails(self, what: str, error: type[HearthError]) -> HearthError:
        """The error that a call ends with; the next one is served all the same."""
        with pytest.raises(error) as caught:
            await self.does(what)
        assert type(caught.value) is error
        assert await self.does("count") == 1, "a sandbox was used again"
        return caught.value


@pytest.fixture(params=SUBJECTS)
async def subject(
    request: pytest.FixtureRequest, codes: Codes, lines: Lines, podman: PodmanService
) -> AsyncIterator[Subject]:
    """On each runtime."""
    name, source = SUBJECTS[request.param]
    folder = codes.write(source, name)
    (folder / name).chmod(0o755)
    version = version_of(folder, runtime=request.param, memory_mb=128)
    async with Bench(codes, lines, podman).node() as executor:
        yield Subject(executor, version)


async def test_what_a_call_leaves_the_next_one_finds(subject: Subject) -> None:
    assert [await subject.does("count") for _ in range(3)] == [1, 2, 3]


async def test_a_crash_is_told_and_the_next_call_is_served(subject: Subject) -> None:
    await subject.fails("crash", FunctionCrashed)


async def test_want_of_memory_is_told_with_the_limit(subject: Subject) -> None:
    error = await subject.fails("eat", FunctionOutOfMemory)
    assert "128 MB" in error.message


async def test_a_call_that_never_ends_is_ended(subject: Subject) -> None:
    config = dataclasses.replace(subject.version.config, timeout_s=0.5)
    impatient = dataclasses.replace(subject.version, id="v_impatient", config=config)
    error = await Subject(subject.executor, impatient).fails("spin", FunctionTimeout)
    assert "0.5 s" in error.message


async def test_calls_overlap_each_in_a_sandbox_of_its_own(subject: Subject) -> None:
    await asyncio.gather(*(subject.does("nap") for _ in range(3)))
    # Boots are seconds apart on a slow machine: warm, they overlap whatever it is like.
    spans = await asyncio.gather(*(subject.does("nap") for _ in range(3)))
    began, ended = [span[0] for span in spans], [span[1] for span in spans]
    assert max(began) < min(ended)


async def test_the_walls_are_where_they_should_be(subject: Subject) -> None:
    assert await subject.does("fill") == SANDBOX_TMP_MB * MIB
    assert await subject.does("change") == "Read-only file system"
    assert await subject.does("reach") == "Network is unreachable"
