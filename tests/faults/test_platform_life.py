"""A platform's second life on the same data, in a terminal, ended by Ctrl-C."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.fixtures.api import (
    HOLDS,
    PATIENCE_S,
    deploy,
    held,
    in_its_check,
    invoke,
    refused,
    release,
    until,
)
from tests.fixtures.platform import HEARTH, Platform, make_platform, start, stop

pytestmark = [pytest.mark.platform, pytest.mark.podman, pytest.mark.timeout(400)]

NODE = "export const handler = async (event) => ({ node: event });\n"
CTRL_C = b"\x03"


class Terminal:
    """`hearth up` as somebody at a terminal runs it."""

    def __init__(self, process: subprocess.Popen[bytes], screen: int) -> None:
        self.process = process
        self._screen = screen
        self.shown = b""

    def wait_for(self, text: bytes) -> None:
        """Until it stands on the screen."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown.decode(errors="replace")
            if not self._read():
                raise AssertionError(self.shown.decode(errors="replace"))

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._screen, keys)

    def end(self) -> int:
        """Read on until it ends; its exit status."""
        while self._read():
            pass
        return self.process.wait(PATIENCE_S)

    def _read(self) -> bool:
        if not select.select([self._screen], [], [], PATIENCE_S)[0]:
            return False
        try:
            data = os.read(self._screen, 65536)
        except OSError:  # what a terminal says when its last process is gone
            return False
        self.shown += data
        return bool(data)


@contextmanager
def at_a_terminal(platform: Platform) -> Iterator[Terminal]:
    """Run `hearth up` in the foreground of a terminal of its own."""
    pid, screen = pty.fork()
    if pid == 0:
        os.execve(HEARTH, [str(HEARTH), "up"], dict(platform.env))
    try:
        yield Terminal(_Child(pid), screen)  # type: ignore[arg-type]
    finally:
        os.close(screen)


class _Child:
    """The part of Popen that a forked process needs."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def wait(self, timeout_s: float) -> int:
        pidfd = os.pidfd_open(self._pid)
        try:
            assert select.select([pidfd], [], [], timeout_s)[0], "it does not end"
        finally:
            os.close(pidfd)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


def test_a_second_life_serves_what_the_first_was_given_and_ctrl_c_drains_it(
    tmp_path: Path,
) -> None:
    made = make_platform(tmp_path / "data")
    start(made)
    with made.client() as client:
        deploy(client, "sleeper", HOLDS)
        deploy(client, "node", NODE, runtime="node")
        for number in (1, 2):
            deploy(client, "versions", f"def handler(e, c):\n    return {number}\n")
        client.put("/v1/functions/versions/aliases/prod", json={"version": 1})
        built = [client.get(f"/v1/functions/{n}").json() for n in ("sleeper", "node", "versions")]
    key = made.key
    stop(made)

    with at_a_terminal(made) as terminal:
        terminal.wait_for(b"--help shows the rest")
        assert made.key == key
        with made.client() as client:
            assert invoke(client, "node", [1]).json() == {"node": [1]}
            called = [invoke(client, name).json() for name in ("versions", "versions:prod")]
            assert called == [2, 1]
            again = [
                client.get(f"/v1/functions/{n}").json() for n in ("sleeper", "node", "versions")
            ]
            assert again == built
        builder_log = (made.settings.data_dir / "log" / "builder.log").read_text()
        assert builder_log.count("is active") == 4  # all in the first life
        with ThreadPoolExecutor(1) as threads, made.client() as client:
            sleeping = threads.submit(invoke, client, "sleeper", "hold")
            until(lambda: held(client, "sleeper"), "the call never began")
            terminal.type(CTRL_C)
            until(lambda: _refuses(made), "it goes on admitting")
            assert not sleeping.done()
            assert release(made.settings, [sleeping]) == ["let go"]
        assert terminal.end() == 0, terminal.shown.decode()
    assert made.leftovers() == []


def _refuses(platform: Platform) -> bool:
    """Whether new calls are refused, as a node that drains or listens no more."""
    try:
        with platform.client() as client:
            answer = invoke(client, "versions")
    except httpx.TransportError:
        return True
    if answer.status_code == 200:
        return False
    refused(answer, 503, "node_draining")
    return True


def test_a_killed_platform_starts_again_on_what_it_left(tmp_path: Path) -> None:
    made = make_platform(tmp_path / "data")
    start(made)
    with made.client() as client:
        deploy(client, "sleeper", HOLDS)
        with in_its_check(made, client, "half-built", HOLDS):
            pids = [*made.running.children.values(), made.running.pid]
            for pid in reversed(pids):  # the supervisor first, as when a machine loses power
                os.kill(pid, signal.SIGKILL)
    start(made)
    try:
        with made.client() as client:
            assert invoke(client, "sleeper").json() == "let go"
            until(lambda: _is_active(client, "half-built"), "its build is stuck")
            assert invoke(client, "half-built").json() == "let go"
            told = client.get("/v1/functions/half-built/versions/1/build-log").text
            assert "attempt 2" in told
    finally:
        stop(made)


def _is_active(client: httpx.Client, name: str) -> bool:
    return bool(client.get(f"/v1/functions/{name}").json()["status"] == "active")
