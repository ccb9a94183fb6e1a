"""The Runtime API as clients that nobody here wrote find it: AWS's own for Python, curl, and a
static program that knows nothing but sockets."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core.settings import Settings
from runtimes.registry import RUNTIMES
from tests.conformance import wire_client
from tests.conformance.conftest import FUNCTIONS, Boot
from tests.conformance.wire_client import END, ERROR, PAYLOAD_BYTES_MAX, READY, Sandbox

pytestmark = pytest.mark.parametrize("runtime", [RUNTIMES["custom"]], ids=["custom"], indirect=True)

CLIENT = "awslambdaric==4.2.2"
# As its documentation says to start it: the package's own module, given the handler's name.
RIC_BOOTSTRAP = """#!/bin/sh
export PYTHONPATH=$LAMBDA_TASK_ROOT
exec /usr/bin/python3 -m awslambdaric "$_HANDLER"
"""
# https://docs.aws.amazon.com/lambda/latest/dg/runtimes-walkthrough.html, with the answer as JSON.
CURL_BOOTSTRAP = """#!/bin/bash
set -euo pipefail
API="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime"
while true; do
  HEADERS="$(mktemp)"
  curl -sS -L -o /tmp/event -D "$HEADERS" "$API/invocation/next"
  ID=$(grep -Fi Lambda-Runtime-Aws-Request-Id "$HEADERS" | tr -d '[:space:]' | cut -d: -f2)
  rm "$HEADERS"
  if grep -q '"fail"' /tmp/event; then
    curl -sS -o /dev/null -d '{"errorType": "App.Failed", "errorMessage": "asked to"}' \\
      -H 'Lambda-Runtime-Function-Error-Type: App.Failed' "$API/invocation/$ID/error"
  elif grep -q '"stream"' /tmp/event; then
    (for n in 1 2 3; do echo "data: $n"; done) | curl -sS -o /dev/null -X POST -T - \\
      -H 'Content-Type: text/event-stream' \\
      -H 'Lambda-Runtime-Function-Response-Mode: streaming' "$API/invocation/$ID/response"
  else
    echo "got $ID"
    curl -sS -o /dev/null --data-binary @/tmp/event "$API/invocation/$ID/response"
  fi
done
"""


def installed(requirement: str) -> Path:
    """A folder with a package for the image's Python, installed by pip once for this machine."""
    folder = Settings.from_env().data_dir / "test-packages" / requirement
    if not folder.exists():
        fresh = folder.with_name(folder.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(fresh)]
        command += ["--python-version", "3.13", "--only-binary", ":all:", requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{requirement} cannot be had from the package index: {done.stderr}")
        fresh.rename(folder)
    return folder


def compiled(source: Path, to: Path) -> None:
    """A static program. `pip install ziglang` brings a compiler to a machine that has none."""
    if shutil.which("cc"):
        command = ["cc"]
    elif importlib.util.find_spec("ziglang"):  # slow the first time: it compiles its own libc
        command = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-musl"]
    else:
        pytest.skip("there is no C compiler: install gcc, or `pip install ziglang`")
    subprocess.run([*command, "-static", "-O1", "-o", str(to), str(source)], check=True)


def check_echo(sandbox: Sandbox) -> None:
    """What every client must do: text of all kinds, the empty event, the largest one."""
    values: list[Any] = [{"text": "héllo 🦊 漢字"}, [], None, {"a": [1, {"b": 2.5}]}]
    for value in values:
        assert sandbox.call(value).result == value
    largest = "x" * (PAYLOAD_BYTES_MAX - 2)
    assert sandbox.call(largest).result == largest
    assert sandbox.call({"after": 1}).result == {"after": 1}


def check_http(sandbox: Sandbox) -> None:
    """A request is an event of AWS's payload format 2.0."""
    answer = sandbox.http("/a/b", b"hi", query="x=1", headers=[("content-type", "text/plain")])
    event = answer.result
    assert (answer.head["status"], event["rawPath"], event["body"]) == (200, "/a/b", "hi")
    assert event["queryStringParameters"] == {"x": "1"}


def test_awss_own_client_runs_an_unmodified_handler(boot: Boot) -> None:
    sandbox = boot({"bootstrap": RIC_BOOTSTRAP, "main.py": (FUNCTIONS / "cases.py").read_text()})
    shutil.copytree(installed(CLIENT), sandbox.task, dirs_exist_ok=True)
    assert sandbox.init().kind == READY, sandbox.written
    value = {"text": "héllo 🦊", "list": [1, 2.5, None]}
    assert sandbox.call({"do": "echo", "value": value}).result == value
    facts = sandbox.call({"do": "environment"}).result
    assert facts["env"]["_HANDLER"] == "main.handler"
    answer = sandbox.call({"do": "fail", "message": "no such ördér"})
    assert (answer.kind, answer.head["code"]) == (ERROR, "function_error")
    assert (answer.head["type"], answer.head["message"]) == ("ValueError", "no such ördér")
    assert "main.py" in "\n".join(answer.head["trace"])
    sandbox.output(1)
    sandbox.call({"do": "write", "out": "printed\n"})
    assert sandbox.output(1) == b"printed\n"
    answer = sandbox.call({"do": "echo", "value": "x" * 1_000_000})
    assert answer.result == "x" * 1_000_000
    event = sandbox.http("/event/1", b"{}", headers=[("content-type", "application/json")]).result
    assert (event["rawPath"], event["body"]) == ("/event/1", "{}")
    assert sandbox.call({"do": "count"}).result == [1, 7]


def test_awss_own_client_says_what_it_cannot_load(boot: Boot) -> None:
    sandbox = boot({"bootstrap": RIC_BOOTSTRAP, "main.py": "import nothing_like_it\n"})
    shutil.copytree(installed(CLIENT), sandbox.task, dirs_exist_ok=True)
    answer = sandbox.init()
    assert answer.kind == wire_client.INIT_ERROR
    assert answer.head["type"] == "Runtime.ImportModuleError"
    assert "nothing_like_it" in answer.head["message"]


def test_a_shell_script_with_curl_is_a_runtime(boot: Boot) -> None:
    sandbox = boot({"bootstrap": CURL_BOOTSTRAP})
    assert sandbox.init().kind == READY, sandbox.written
    check_echo(sandbox)
    check_http(sandbox)
    assert b"got 00000000-0000" in sandbox.output(1)
    answer = sandbox.call({"do": "fail"})
    assert (answer.head["type"], answer.head["message"]) == ("App.Failed", "asked to")
    frames = sandbox.streamed(sandbox.start({"do": "stream"}))
    assert frames[0].head["headers"] == [["content-type", "text/event-stream"]]
    assert b"".join(frame.body for frame in frames) == b"data: 1\ndata: 2\ndata: 3\n"
    assert (frames[-1].kind, frames[-1].head) == (END, {})
    assert sandbox.output(2) == b""


def test_a_static_program_is_a_runtime(boot: Boot) -> None:
    sandbox = boot({"bootstrap": "#!"})
    compiled(FUNCTIONS / "static" / "bootstrap.c", sandbox.task / "bootstrap")
    (sandbox.task / "bootstrap").chmod(0o755)
    assert sandbox.init().kind == READY, sandbox.written
    values: list[Any] = [{"text": "héllo 🦊"}, [], "x" * 500_000]
    for value in values:
        assert sandbox.call(value).result == value
    check_http(sandbox)
    frames = sandbox.streamed(sandbox.start({"stream": 100}))
    text = "".join(f"line {n}\n" for n in range(100))
    assert b"".join(frame.body for frame in frames) == text.encode()
    assert sandbox.call(json.loads("[1]")).result == [1]
