"""INIT: what is found and run, and how what is not found, or does not run, is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from runtimes.registry import Runtime
from tests.conformance.conftest import Boot
from tests.conformance.wire_client import HELLO, INIT_ERROR, READY, Frame

ANSWER = {
    "python": "def handler(event, context):\n    return {!r}\n",
    "node": "export const handler = async () => {!r};\n",
}


def answering(runtime: Runtime, value: str) -> str:
    """The source of a function that returns a text."""
    return ANSWER[runtime.short].format(value)


def refused(frame: Frame) -> dict[str, Any]:
    """The head of an INIT_ERROR."""
    assert frame.kind == INIT_ERROR, frame
    assert isinstance(frame.head["message"], str)
    assert all(isinstance(line, str) for line in frame.head["trace"])
    return frame.head


def test_a_stem_says_hello_before_it_has_code(boot: Boot, runtime: Runtime) -> None:
    sandbox = boot({})
    assert (sandbox.hello.kind, sandbox.hello.call) == (HELLO, 0)
    assert sandbox.hello.head["protocol"] == 2
    assert sandbox.hello.head["runtime"].startswith(runtime.short)


@pytest.mark.parametrize(
    ("file", "handler"),
    [
        ("main", "main.handler"),
        ("app", "app.handler"),
        ("src/app", "src/app.handler"),
        ("a/b/c_d", "a/b/c_d.handler"),
        ("shim", "shim.handler"),
        ("http", "http.handler"),
        ("wire", "wire.handler"),
        ("json", "json.handler"),
        ("index", "index.handler"),
    ],
)
def test_a_handler_is_found_where_it_says(
    boot: Boot, runtime: Runtime, file: str, handler: str
) -> None:
    sandbox = boot({f"{file}{runtime.suffixes[0]}": answering(runtime, file)})
    assert sandbox.init(handler).kind == READY
    assert sandbox.call({}).result == file


def test_a_missing_function_names_those_there_are(boot: Boot, runtime: Runtime) -> None:
    sandbox = boot(
        {
            "python": "import json\nfrom os import getcwd\n"
            "def greet(event, context): ...\ndef bye(event, context): ...\nhandler = 5\n",
            "node": "export const greet = () => 1;\nexport function bye() {}\n"
            "export const handler = 5;\n",
        }[runtime.short]
    )
    head = refused(sandbox.init("main.handler"))
    assert head["type"] == "HandlerNotFound"
    assert "handler" in head["message"]
    assert head["found"] == ["bye", "greet"]
    assert head["trace"] == []


@pytest.mark.parametrize("handler", ["main.handler", "pkg/main.handler", "main", "main.", ".x", ""])
def test_a_missing_module_names_those_there_are(boot: Boot, runtime: Runtime, handler: str) -> None:
    suffix = runtime.suffixes[0]
    code = answering(runtime, "x")
    sandbox = boot({f"zoo{suffix}": code, f"app{suffix}": code, "README.md": "", "data/x.txt": ""})
    head = refused(sandbox.init(handler))
    assert head["type"] == "HandlerNotFound"
    assert head["found"] == ["app", "zoo"]


def test_no_code_at_all_is_a_missing_module(boot: Boot) -> None:
    head = refused(boot({}).init())
    assert (head["type"], head["found"]) == ("HandlerNotFound", [])


def test_a_dependency_that_is_missing_is_not_a_missing_handler(
    boot: Boot, runtime: Runtime
) -> None:
    source = {"python": "import pillow_like\n", "node": "import 'pillow-like';\n"}
    sandbox = boot(source[runtime.short] + answering(runtime, "x"))
    head = refused(sandbox.init())
    assert head["type"] in {"ModuleNotFoundError", "Error"}
    assert "pillow" in head["message"]
    assert "found" not in head


def test_a_syntax_error_names_file_and_line(boot: Boot, runtime: Runtime) -> None:
    source = {"python": "x = 1\ndef handler(:\n", "node": "const x = 1;\nexport const = 5;\n"}
    head = refused(boot(source[runtime.short]).init())
    assert head["type"] == "SyntaxError"
    where = "\n".join(head["trace"])
    assert f"main{runtime.suffixes[0]}" in where
    assert ("line 2" if runtime.short == "python" else ":2") in where


def test_a_syntax_error_deeper_down_names_its_own_file(boot: Boot, runtime: Runtime) -> None:
    broken = {"python": "x = 1\ndef x(:\n", "node": "const x = 1;\nexport const = 5;\n"}
    imports = {"python": "import lib.deep\n", "node": "import './lib/deep.mjs';\n"}
    suffix = runtime.suffixes[0]
    main = imports[runtime.short] + answering(runtime, "x")
    head = refused(boot({f"main{suffix}": main, f"lib/deep{suffix}": broken[runtime.short]}).init())
    assert head["type"] == "SyntaxError"
    assert f"deep{suffix}" in "\n".join(head["trace"])


def test_an_exception_at_import_is_told_with_its_place(boot: Boot, runtime: Runtime) -> None:
    source = {
        "python": "def load():\n    raise ValueError('no configuration')\nload()\n",
        "node": "function load() {\n  throw new RangeError('no configuration');\n}\nload();\n",
    }
    sandbox = boot(source[runtime.short])
    head = refused(sandbox.init())
    assert head["type"] == {"python": "ValueError", "node": "RangeError"}[runtime.short]
    assert head["message"] == "no configuration"
    trace = "\n".join(head["trace"])
    assert "load" in trace
    assert "shim" not in trace
    assert "importlib" not in trace


def test_what_a_failing_import_wrote_comes_before_the_error(boot: Boot, runtime: Runtime) -> None:
    source = {
        "python": "import sys\nsys.stdout.write('starting')\n1 / 0\n",
        "node": "process.stdout.write('starting');\nthrow new Error('no');\n",
    }
    sandbox = boot(source[runtime.short])
    refused(sandbox.init())
    assert sandbox.output() == b"starting"


def test_the_environment_is_there_at_import(boot: Boot, runtime: Runtime) -> None:
    source = {
        "python": "import os\nat_import = os.environ['DB'], os.path.exists('main.py')\n"
        "def handler(event, context):\n    return at_import\n",
        "node": "import { existsSync } from 'node:fs';\n"
        "const atImport = [process.env.DB, existsSync('main.mjs')];\n"
        "export const handler = () => atImport;\n",
    }
    sandbox = boot(source[runtime.short])
    assert sandbox.init(env={"DB": "x=y"}).kind == READY
    assert sandbox.call({}).result == ["x=y", True]


def test_the_platforms_variables_win(boot: Boot, runtime: Runtime) -> None:
    source = {
        "python": "import os\n"
        "def handler(event, context):\n    return os.environ['AWS_LAMBDA_FUNCTION_NAME']\n",
        "node": "export const handler = () => process.env.AWS_LAMBDA_FUNCTION_NAME;\n",
    }
    sandbox = boot(source[runtime.short])
    assert sandbox.init(env={"AWS_LAMBDA_FUNCTION_NAME": "other"}).kind == READY
    assert sandbox.call({}).result == "hello"


def test_dependencies_are_found(boot: Boot, runtime: Runtime) -> None:
    files: Mapping[str, str] = {
        "python": {
            "main.py": "import greeting\ndef handler(event, context):\n    return greeting.text\n",
            ".hearth/site-packages/greeting/__init__.py": "text = 'from a dependency'\n",
        },
        "node": {
            "main.mjs": "import { text } from 'greeting';\nexport const handler = () => text;\n",
            "node_modules/greeting/package.json": '{"name": "greeting", "main": "at.js"}',
            "node_modules/greeting/at.js": "exports.text = 'from a dependency';\n",
        },
    }[runtime.short]
    sandbox = boot(files)
    assert sandbox.init().kind == READY
    assert sandbox.call({}).result == "from a dependency"


def test_code_beside_the_module_is_found(boot: Boot, runtime: Runtime) -> None:
    files: Mapping[str, str] = {
        "python": {
            "src/__init__.py": "",
            "src/app.py": "from . import near\nimport lib.far\n"
            "def handler(event, context):\n    return [near.name, lib.far.name]\n",
            "src/near.py": "name = 'near'\n",
            "lib/far.py": "name = 'far'\n",
        },
        "node": {
            "src/app.mjs": "import { name } from './near.mjs';\n"
            "import * as far from '../lib/far.mjs';\n"
            "export const handler = () => [name, far.name];\n",
            "src/near.mjs": "export const name = 'near';\n",
            "lib/far.mjs": "export const name = 'far';\n",
        },
    }[runtime.short]
    sandbox = boot(files)
    assert sandbox.init("src/app.handler").kind == READY
    assert sandbox.call({}).result == ["near", "far"]


def test_an_async_start_that_fails_is_an_init_error(boot: Boot, runtime: Runtime) -> None:
    source = {
        "python": "import asyncio\nasync def connect():\n    raise OSError('away')\n"
        "asyncio.run(connect())\n",
        "node": "await Promise.reject(new Error('away'));\nexport const handler = () => 1;\n",
    }
    head = refused(boot(source[runtime.short]).init())
    assert head["message"] == "away"
