"""What the compiler of modules refuses, each with one line that says why."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from runtimes.wasm.hearth_wasm import compiling, naming
from runtimes.wasm.hearth_wasm.compiling import Refused, compile_module
from runtimes.wasm.hearth_wasm.engine import NAME
from tests.conformance.modules import COMMAND, HANDLER, wat

ECHO = wat(COMMAND.format(""))
LONELY = '(module (func (export "h") (param i32 i32) (result i64) i64.const 0))'
FOREIGN = '(import "env" "now" (func))'
TYPED = '(import "wasi_snapshot_preview1" "fd_write" (func (param i64)))'


@pytest.mark.parametrize(
    ("wasm", "handler", "says"),
    [
        (b"", "_start", "the file is empty"),
        (b"#!/bin/sh", "_start", "not WebAssembly"),
        (b"(module)", "_start", "not WebAssembly"),
        (b"\x7fELF" + bytes(60), "_start", "not WebAssembly"),
        (b"\0asm", "_start", "version"),
        (b"\0asm\x02\0\0\0", "_start", "version 02000000"),
        (b"\0asm\x0d\0\x01\0", "_start", "it is a component"),
        (ECHO[:-3], "_start", "unexpected end"),
        (ECHO + b"\x0b\xff", "_start", "not a valid WebAssembly module"),
        (wat("(module)"), "_start", "it is no WASI command"),
        (wat(f'(module {FOREIGN} (func (export "_start")))'), "_start", "env.now"),
        (wat(f'(module {TYPED} (func (export "_start")))'), "_start", "fd_write"),
        (wat('(module (func (export "_start") (param i32)))'), "_start", "(i32) -> ()"),
        (wat('(module (memory (export "_start") 1))'), "_start", "exports no function _start"),
        (wat(HANDLER), "absent", "has no handler 'absent'"),
        (wat(HANDLER), "number", "(i32) -> (i32)"),
        (
            wat('(module (func (export "h") (param i32 i32) (result i64) i64.const 0))'),
            "h",
            "alloc",
        ),
    ],
)
def test_what_cannot_be_a_function_is_refused_with_the_reason(
    wasm: bytes, handler: str, says: str
) -> None:
    with pytest.raises(Refused) as refused:
        compile_module(wasm, handler)
    assert says in str(refused.value)


def test_a_refusal_is_one_line_and_a_status_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "main.wasm").write_bytes(ECHO[:-3])
    arguments = [str(tmp_path / "main.wasm"), str(tmp_path / "to"), "_start"]
    assert compiling.main(arguments) == compiling.REFUSED
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert not (tmp_path / "to").exists()


def test_an_artifact_names_its_engine(tmp_path: Path) -> None:
    (tmp_path / "main.wasm").write_bytes(ECHO)
    assert compiling.main([str(tmp_path / "main.wasm"), str(tmp_path / "to"), "_start"]) == 0
    assert json.loads((tmp_path / "to" / naming.FACTS).read_text()) == {"engine": NAME}
    assert (tmp_path / "to" / naming.MODULE).stat().st_size > 1000


def test_a_module_with_any_byte_changed_compiles_or_is_refused() -> None:
    chance = random.Random(7)
    refused = 0
    for _ in range(200):
        spoiled = bytearray(ECHO)
        spoiled[chance.randrange(len(spoiled))] = chance.randrange(256)
        try:
            compile_module(bytes(spoiled), "_start")
        except Refused:
            refused += 1
    assert refused > 100


def test_engines_differ_by_version_machine_and_processor(tmp_path: Path) -> None:
    cpu = tmp_path / "cpuinfo"
    names = set()
    for version in ("50.0.1", "51.0.0"):
        for flags in ("sse avx", "sse"):
            cpu.write_text(f"processor: 0\nflags\t\t: {flags}\n")
            names.add(naming.engine_name(version, cpu))
    assert len(names) == 4
    cpu.write_text("flags : avx sse\n")
    assert naming.engine_name("50.0.1", cpu) in names  # in whatever order the kernel says them
