"""WebAssembly for the tests: small modules as text, and cases.c through the compiler in the
package `ziglang`, whose own cache makes the second build a matter of a second.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from pathlib import Path

import wasmtime

from runtimes.wasm.hearth_wasm.compiling import compile_module
from runtimes.wasm.hearth_wasm.engine import NAME
from tests.conformance.hosted_client import artifact

CASES = Path(__file__).parent / "functions" / "cases.c"

# An exported handler: answers with the event as it came, once it has begun.
HANDLER = """(module
  (memory (export "memory") 1)
  (global $next (mut i32) (i32.const 1024))
  (func (export "_initialize") (global.set $next (i32.const 4096)))
  (func (export "alloc") (param i32) (result i32)
    (if (i32.lt_u (global.get $next) (i32.const 4096)) (then unreachable))
    (drop (memory.grow (i32.add (i32.div_u (local.get 0) (i32.const 65536)) (i32.const 1))))
    (global.get $next))
  (func (export "echo") (param i32 i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32))
            (i64.extend_i32_u (local.get 1))))
  (func (export "astray") (param i32 i32) (result i64) (i64.const 0x7fffffff00000010))
  (func (export "number") (param i32) (result i32) (local.get 0)))"""

# Traps unless all of its 2 MB are zero but the four bytes it came with; then leaves none zero.
DIRTY = """(module
  (memory (export "memory") 32)
  (data (i32.const 70000) "\\01\\02\\03\\04")
  (global $seen (mut i32) (i32.const 0))
  (func (export "_start") (local $at i32)
    (if (global.get $seen) (then unreachable))
    (global.set $seen (i32.const 1))
    (if (i32.ne (i32.load (i32.const 70000)) (i32.const 0x04030201)) (then unreachable))
    (i32.store (i32.const 70000) (i32.const 0))
    (loop $next
      (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then unreachable))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br_if $next (i32.lt_u (local.get $at) (i32.const 2097152))))
    (memory.fill (i32.const 0) (i32.const 255) (i32.const 2097152))))"""

COMMAND = '(module (memory (export "memory") 1) (func (export "_start") {}))'


def wat(text: str) -> bytes:
    """A module from its text."""
    return bytes(wasmtime.wat2wasm(text))


def build_c(source: Path, to: Path) -> bytes:
    """A module from C."""
    # The compiler would give each program a stack of 16 MB, more than a small function may have.
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-Os", "-s"]
    command.append("-Wl,-z,stack-size=262144")
    done = subprocess.run([*command, "-o", str(to), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return to.read_bytes()


@functools.cache
def cases() -> dict[str, bytes]:
    """cases.c, compiled for this machine."""
    with tempfile.TemporaryDirectory() as folder:
        return compiled(build_c(CASES, Path(folder) / "cases.wasm"))


def compiled(wasm: bytes | str, handler: str = "_start") -> dict[str, bytes]:
    """What a seat's directory holds for a module."""
    code = compile_module(wat(wasm) if isinstance(wasm, str) else wasm, handler)
    return artifact(code, NAME)
