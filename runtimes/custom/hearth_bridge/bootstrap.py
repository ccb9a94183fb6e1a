"""The function's own program: its environment, its start, and words for how it ended."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

NAME = "bootstrap"
KEPT_ENV = ("PATH", "LANG", "LC_ALL", "SSL_CERT_FILE")
RUNTIME_DIR = "/var/runtime"  # as on AWS; empty
FOUND_MAX = 100
FIRST_LINE_BYTES_MAX = 256
# Of ELF's e_machine, what people build for: https://refspecs.linuxfoundation.org
MACHINES = {
    3: "i386",
    8: "mips",
    20: "powerpc",
    21: "ppc64",
    22: "s390x",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv",
    258: "loongarch",
}


class NotStarted(Exception):
    """There is no program that this machine can run. `found` names what there is instead."""

    def __init__(self, message: str, found: list[str] | None = None) -> None:
        super().__init__(message)
        self.found = found


def environment(config: Mapping[str, Any], task: str, api: str) -> dict[str, str]:
    """What the program finds in its environment: the platform's word goes before the function's,
    the function's before a default."""
    name, version = config["function"], str(config["version"])
    stream = time.strftime("%Y/%m/%d/", time.gmtime()) + f"[{version}]{os.urandom(16).hex()}"
    kept = {name: os.environ[name] for name in KEPT_ENV if name in os.environ}
    return {
        **kept,
        "LD_LIBRARY_PATH": f"{task}:{task}/lib",
        **config["env"],
        "AWS_LAMBDA_RUNTIME_API": api,
        "_HANDLER": config["handler"],
        "LAMBDA_TASK_ROOT": task,
        "LAMBDA_RUNTIME_DIR": RUNTIME_DIR,
        "AWS_LAMBDA_FUNCTION_NAME": name,
        "AWS_LAMBDA_FUNCTION_VERSION": version,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(config["memory_mb"]),
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": stream,
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "HEARTH_NAMESPACE": config["namespace"],
        "TMPDIR": "/tmp",
        "HOME": "/tmp",
    }


def start(task: str, variables: Mapping[str, str]) -> int:
    """Run the program in its folder; its process id. NotStarted says why it cannot be."""
    path = os.path.join(task, NAME)
    try:
        os.chdir(task)
        # SIGPIPE is ignored by Python alone: a shell's pipes count on it.
        return os.posix_spawn(path, [path], dict(variables), setsigdef=[signal.SIGPIPE])
    except OSError as error:
        raise why_not(path, task, error) from None


def why_not(path: str, task: str, error: OSError) -> NotStarted:
    """What kept the program from being started, in words that say what to do."""
    if not os.path.lexists(path):
        return NotStarted(f"there is no {NAME} in the root of the code", names_in(task))
    if error.errno == errno.EACCES:
        if not os.path.isfile(path):
            return NotStarted(f"{NAME} is not a file")
        if not os.access(path, os.X_OK):
            return NotStarted(f"{NAME} is not executable: chmod +x {NAME} before it is packed")
    first = beginning_of(path)
    if error.errno == errno.ENOENT and first.startswith(b"#!"):
        line = first.partition(b"\n")[0].decode(errors="replace").strip()
        return NotStarted(f"{NAME} begins with {line}, a program that is not in this image")
    if error.errno == errno.ENOENT:
        return NotStarted(f"{NAME} wants a dynamic loader that is not here: link it statically")
    if error.errno == errno.ENOEXEC:
        return NotStarted(f"{NAME} {what_it_is(first)}")
    return NotStarted(f"{NAME} cannot be started: {error.strerror}")


def what_it_is(first: bytes) -> str:
    """Of a file that the kernel does not run: why."""
    if first[:4] != b"\x7fELF" or len(first) < 20:
        return "is no program: it begins with neither #! nor the header of an ELF file"
    order = "big" if first[5] == 2 else "little"
    number = int.from_bytes(first[18:20], "big" if order == "big" else "little")
    machine = MACHINES.get(number, f"machine {number}")
    mine = os.uname().machine
    if machine == mine:
        return f"is a damaged program for {machine}"
    return f"is a program for {machine}; this machine is {mine}"


def beginning_of(path: str) -> bytes:
    """The file's first bytes, nothing where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(FIRST_LINE_BYTES_MAX)
    except OSError:
        return b""


def names_in(task: str) -> list[str]:
    """What the root of the code holds."""
    try:
        return sorted(os.listdir(task))[:FOUND_MAX]
    except OSError:
        return []


def end_of(status: int) -> str:
    """A wait status in words."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return f"was killed by {signal.Signals(number).name}"
        except ValueError:
            return f"was killed by signal {number}"
    return f"exited with status {os.WEXITSTATUS(status)}"


def exit_status(status: int) -> int:
    """The same as a shell would say it."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
