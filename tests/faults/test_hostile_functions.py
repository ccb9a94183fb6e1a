"""Functions that break or use up what they can, in real containers: each costs one invocation a
typed answer, and nobody else anything.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from core.errors import (
    FunctionCrashed,
    FunctionInitFailed,
    FunctionOutOfMemory,
    FunctionTimeout,
)
from core.limits import LOG_INVOCATION_BYTES_MAX
from executor import sandbox
from executor.call import Outcome
from tests.fixtures.sandboxes import event
from tests.fixtures.scene import Scene

pytestmark = pytest.mark.podman


# --- code that does not load -------------------------------------------------------------------


UNLOADABLE = {
    "def handler(e, c) return 1": "SyntaxError",
    "import missing_module": "ModuleNotFoundError",
    "\0": "SyntaxError",
    "\ud800": "SyntaxError",
    "raise SystemExit(3)": "Runtime.ExitError",
    "import os; os.kill(os.getpid(), 9); os.abort()": "Runtime.ExitError",
    "class E(BaseException):\n  def __str__(self): raise E\nraise E": "E",
    "handler = 5": "HandlerNotFound",
}


async def test_code_that_cannot_load_is_told_why(scene: Scene) -> None:
    for source, kind in UNLOADABLE.items():
        version = scene.codes.version("")
        file = Path(version.layers[0]) / "main.py"
        file.write_bytes(source.encode("utf-8", "surrogatepass"))
        with pytest.raises(FunctionInitFailed) as caught:
            await scene.executor.invoke(version, event())
        assert caught.value.details["type"] == kind, source


async def test_code_that_loads_for_ever_is_given_up(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "INIT_TIMEOUT_S", 0.5)
    with pytest.raises(FunctionInitFailed) as caught:
        await scene.executor.invoke(scene.codes.version("while True: pass"), event())
    assert caught.value.details["type"] == "Runtime.Timeout"


# --- errors and answers ------------------------------------------------------------------------


RAISED, INVALID = "function_error", "function_response_invalid"
ERRORS = {
    "raise ValueError('no')": RAISED,
    "raise KeyboardInterrupt": RAISED,
    "sys.exit(0)": RAISED,
    "raise RecursionError('x' * 10_000_000)": RAISED,
    "def f(): f()\nf()": RAISED,
    "value = object()": INVALID,
    "value = {1, 2}": INVALID,
    "value = float('nan')": INVALID,
    "value = []; value.append(value)": INVALID,
    "value = 'x' * 7_000_000": INVALID,
}


async def test_its_own_errors_are_values_and_it_keeps_its_sandbox(scene: Scene) -> None:
    names = "names = dict(globals())\nexec(event, names)\nreturn names['value']"
    version = scene.hostile(names, memory_mb=256)
    uid = await scene.serves(version)
    for source, code in ERRORS.items():
        outcome = await scene.executor.invoke(version, event(json.dumps(source).encode()))
        assert outcome.failure is not None, source
        assert outcome.failure.code == code, source
        assert await scene.serves(version) == uid


# --- the end of its process --------------------------------------------------------------------


@pytest.mark.parametrize(
    "harm",
    [
        "os._exit(0)",
        "os.abort()",
        "ctypes.string_at(0)",
        "os.close(0); os.closerange(1, 1024); return 1",
        "signal.raise_signal(signal.SIGTERM); time.sleep(60)",
        "threading.Thread(target=os._exit, args=(1,)).start(); time.sleep(60)",
    ],
)
async def test_a_process_that_ends_itself_crashed_and_the_next_is_new(
    harm: str, scene: Scene
) -> None:
    version = scene.hostile(harm)
    uid = await scene.serves(version)
    await scene.fails(version, FunctionCrashed)
    assert await scene.serves(version) != uid


async def test_killing_all_reaches_nobody_outside(scene: Scene) -> None:
    """Process 1 of a namespace cannot be killed from inside; a child of it can try."""
    harm = """
subprocess.run([sys.executable, '-c', 'import os; os.kill(-1, 9)'])
for pid in range(1, 3): os.kill(pid, 0) if pid == 1 else None
if os.fork() == 0:
    os.kill(1, 9); os.kill(os.getppid(), 9); os._exit(0)
return sorted(int(p) for p in os.listdir('/proc') if p.isdigit())[0]
"""
    version = scene.hostile(harm)
    assert await scene.answer(version) == 1
    await scene.serves(version)


async def test_running_out_of_memory_is_told_with_the_limit(scene: Scene) -> None:
    version = scene.hostile("x = []\nwhile True: x.append(bytearray(1 << 20))", memory_mb=64)
    uid = await scene.serves(version)
    with pytest.raises(FunctionOutOfMemory) as caught:
        await scene.executor.invoke(version, event(b"1"))
    assert caught.value.details["memory_mb"] == 64
    assert await scene.serves(version) != uid


async def test_a_function_that_never_returns_is_stopped(scene: Scene) -> None:
    version = scene.hostile("while True: pass", timeout_s=1.0)
    await scene.fails(version, FunctionTimeout)
    await scene.serves(version)


async def test_signals_do_not_save_a_function_from_its_timeout(scene: Scene) -> None:
    harm = (
        "for n in set(range(1, 32)) - {9, 19}: signal.signal(n, signal.SIG_IGN)\n"
        "while True: time.sleep(1)"
    )
    await scene.fails(scene.hostile(harm, timeout_s=1.0), FunctionTimeout)


# --- too much of everything --------------------------------------------------------------------


async def test_forking_for_ever_stops_at_its_limit_and_ends_with_the_sandbox(scene: Scene) -> None:
    harm = """
made = 0
while True:
    try:
        if os.fork() == 0: time.sleep(3600)
        made += 1
    except OSError:
        return made
"""
    version = scene.hostile(harm, memory_mb=1024)
    made = await scene.answer(version)
    assert 100 < made < 256
    scene.executor.retire(version.id)
    await scene.serves(version)


async def test_a_fork_bomb_is_stopped_at_its_timeout(scene: Scene) -> None:
    harm = "while True:\n  try: os.fork()\n  except OSError: pass"
    version = scene.hostile(harm, memory_mb=1024, timeout_s=2.0, cpus=0.5)
    with pytest.raises((FunctionTimeout, FunctionCrashed)):
        await scene.executor.invoke(version, event(b"1"))
    await scene.serves(version)


async def test_threads_without_end_stop_at_their_limit(scene: Scene) -> None:
    harm = """
made = 0
while True:
    try:
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
        made += 1
    except RuntimeError:
        return made
"""
    assert 100 < await scene.answer(scene.hostile(harm, memory_mb=1024)) < 256


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
async def test_filling_a_folder_hits_its_size(folder: str, scene: Scene) -> None:
    harm = f"""
written = 0
with open({folder!r} + '/x', 'wb', buffering=0) as file:
    try:
        while True: written += file.write(bytes(1 << 20))
    except OSError as error:
        return [error.errno, written >> 20]
"""
    version = scene.hostile(harm, memory_mb=256)
    errno, written_mb = await scene.answer(version)
    assert errno == 28
    assert written_mb <= 64
    await scene.serves(version)


async def test_descriptors_stop_at_their_limit(scene: Scene) -> None:
    harm = """
held = []
try:
    while True: held.append(os.open('/dev/null', 0))
except OSError as error:
    return [error.errno, len(held)]
"""
    errno, held = await scene.answer(scene.hostile(harm))
    assert errno == 24
    assert held < 1024


async def test_a_hundred_megabytes_of_print_cost_only_its_own_log(scene: Scene) -> None:
    version = scene.hostile("for _ in range(100): print('x' * 1_000_000)\nreturn 'done'")
    call = event(b"1")
    outcome = await scene.executor.invoke(version, call)
    assert outcome.body == b'"done"'
    kept = sum(map(len, scene.lines.of(call)))
    assert 0 < kept <= LOG_INVOCATION_BYTES_MAX + 65536
    assert "bytes of log dropped" in scene.lines.of(call, "platform")[0]
    await scene.serves(version)


async def test_the_loop_goes_on_while_a_function_floods_its_log(scene: Scene) -> None:
    harm = "end = time.time() + 2\nwhile time.time() < end: os.write(1, b'\\n' * 65536)\nreturn 1"
    flooding = asyncio.create_task(scene.executor.invoke(scene.hostile(harm), event(b"1")))
    longest = 0.0
    loop = asyncio.get_running_loop()
    while not flooding.done():
        before = loop.time()
        await asyncio.sleep(0)
        longest = max(longest, loop.time() - before)
    assert (await flooding).body == b"1"
    assert longest < 1.0, "one sandbox held up the loop"


async def test_binary_output_is_kept_readable(scene: Scene) -> None:
    version = scene.hostile("os.write(1, bytes(range(256))); os.write(2, b'\\xff\\n'); return 1")
    call = event(b"1")
    await scene.executor.invoke(version, call)
    text = "\n".join(scene.lines.of(call))
    assert "\\xff" in text
    assert "\\x00" in text
    assert scene.lines.of(call, "stderr") == ["\\xff"]


async def test_closing_its_outputs_costs_only_its_log(scene: Scene) -> None:
    version = scene.hostile("os.close(1); os.close(2); print('lost'); return 1")
    outcome: Outcome = await scene.executor.invoke(version, event(b"1"))
    assert outcome.body == b"1" or outcome.failure is not None
    await scene.serves(version)
