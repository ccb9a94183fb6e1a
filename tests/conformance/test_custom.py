"""What is particular to functions that bring their own program: start, surroundings, end."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from runtimes.registry import RUNTIMES
from tests.conformance import wire_client
from tests.conformance.conftest import Boot
from tests.conformance.puppet import PUPPET, post, puppet, shared_puppet, started
from tests.conformance.wire_client import (
    CALL,
    INIT_ERROR,
    Sandbox,
    frame,
)

__all__ = ["puppet", "shared_puppet"]

pytestmark = pytest.mark.parametrize("runtime", [RUNTIMES["custom"]], ids=["custom"], indirect=True)
IDLE_S = 1.0
# The header of an ELF program for aarch64, as `readelf -h` shows it, without anything behind it.
AARCH64 = (
    b"\x7fELF\x02\x01\x01" + bytes(9) + (2).to_bytes(2, "little") + (183).to_bytes(2, "little")
)


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
    """Most of it is still in the socket's buffers when the process is gone."""
    sandbox = started(boot)
    words = "x" * 2_000_000
    text = post("response", "BODY").replace(
        "Content-Length: 4", f"Content-Length: {len(words) + 2}"
    )
    code = f"s = connect()\nbody = '\"' + 'x' * {len(words)} + '\"'\n"
    code += f"s.sendall({text!r}.replace('{{id}}', ID).replace('BODY', body).encode())\nos._exit(0)"
    assert sandbox.call({"run": code}).result == words
    assert sandbox.ends() == 0


def test_orphans_are_buried(puppet: Sandbox) -> None:
    if wire_client.place_of(puppet.runtime) == "host":
        pytest.skip("without a container orphans go to the host's own first process")
    code = """
import time
if os.fork() == 0:
    os.fork()
    os._exit(0)
os.wait()
def state(process):
    try:
        return open(f"/proc/{process}/stat").read().rpartition(")")[2].split()[0]
    except OSError:
        return ""
states = lambda: [state(process) for process in os.listdir("/proc") if process.isdigit()]
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
