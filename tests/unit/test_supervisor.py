"""The supervisor with real children: order, crashes, restarts, stopping, and its own death."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.child import LogFile, backoff_s, describe_status, tail_of

PATIENCE_S = 30.0  # how long a test waits for what must come; never how fast it must be

SLEEPER = """
import signal, sys, time
print('up', flush=True)
signal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), sys.exit(0)))
while True: time.sleep(60)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up', flush=True)
while True: time.sleep(60)
"""
# Answers a Redis ping only when the file named by its second argument is there.
SERVER = """
import os, socket, sys, time
while len(sys.argv) > 2 and not os.path.exists(sys.argv[2]): time.sleep(0.01)
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
while True:
    peer, _ = server.accept()
    peer.recv(64)
    peer.sendall(b'+PONG\\r\\n')
    peer.close()
"""
# As the guard: waits for the end of its standard input, then says so in a file.
READER = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while os.read(0, 64): pass
with open(sys.argv[1], 'a') as file: file.write('cleaned\\n')
"""
# As the gateway: holds the pipe that it finds in HEARTH_GUARD_FD.
HOLDER = """
import os, time
os.fstat(int(os.environ['HEARTH_GUARD_FD']))
print('holding', flush=True)
while True: time.sleep(60)
"""
CRASHER = "import sys; print('the reason why', flush=True); sys.exit(3)"


def child(name: str, code: str, *arguments: object, **more: Any) -> dict[str, Any]:
    """A child of the test's supervisor."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return {"name": name, "command": command, **more}


class Supervised:
    """A supervisor process and what it said."""

    def __init__(self, folder: Path, specs: list[dict[str, Any]]) -> None:
        self.folder = folder
        self.said: list[str] = []
        arguments = [sys.executable, "-m", "tests.unit.supervised", str(folder), json.dumps(specs)]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)

    def wait_for(self, text: str) -> str:
        """The next line that holds `text`; fails when it cannot come any more."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip("\n"))
            if text in line:
                return line
        raise AssertionError(f"{text!r} was never said: {self.said}")

    def rest(self) -> int:
        """Read to the end; the exit status."""
        assert self.process.stdout is not None
        self.said += self.process.stdout.read().splitlines()
        return self.process.wait(PATIENCE_S)

    def pids(self) -> dict[str, int]:
        """Who runs, by name; nobody before the first child."""
        file = self.folder / "pids.json"
        found: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
        return found

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def wait_until_up(self, name: str) -> None:
        """Its first word: its signal handlers stand."""
        until(lambda: "up" in self.log(name), f"{name} did not come up")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.rest()


Start = Callable[..., Supervised]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts supervisors, and ends what a failed test leaves of them."""
    running: list[Supervised] = []

    def run(*specs: dict[str, Any]) -> Supervised:
        supervised = Supervised(tmp_path, list(specs))
        running.append(supervised)
        return supervised

    yield run
    for supervised in running:
        if supervised.process.poll() is None:
            supervised.stop()
        assert supervised.process.stdout is not None
        supervised.process.stdout.close()


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a fact of another process."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs (one that only waits to be reaped does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pid: int, what: str) -> None:
    """Wait for the end of a process."""
    until(lambda: not alive(pid), what)


def test_children_start_in_order_and_stop_in_reverse(start: Start) -> None:
    supervised = start(child("one", SLEEPER), child("two", SLEEPER), child("three", SLEEPER))
    supervised.wait_for("READY")
    for name in ("one", "two", "three"):
        supervised.wait_until_up(name)
    assert supervised.stop() == 0
    told = [line.split("'")[1].split()[0] for line in supervised.said if "'" in line]
    assert told == ["one", "two", "three", "three", "two", "one"]
    assert "bye" in supervised.log("two")


def test_the_next_child_waits_until_the_one_before_answers(start: Start, tmp_path: Path) -> None:
    socket, permit = tmp_path / "s.sock", tmp_path / "permit"
    server = child("server", SERVER, socket, permit, socket=str(socket))
    supervised = start(server, child("client", SLEEPER))
    until(supervised.pids, "the server was not started")
    assert "client" not in supervised.pids()
    permit.touch()
    supervised.wait_for("READY")
    assert "client" in supervised.pids()


def test_a_child_that_dies_is_started_again_and_this_is_said(start: Start) -> None:
    supervised = start(child("one", SLEEPER), child("two", SLEEPER))
    supervised.wait_for("READY")
    before = supervised.pids()
    os.kill(before["one"], signal.SIGKILL)
    line = supervised.wait_for("bad")
    assert "killed by SIGKILL; starting it again in 0.5 s" in line
    supervised.wait_for("one started again")
    after = supervised.pids()
    assert after["one"] != before["one"]
    assert after["two"] == before["two"]


def test_the_wait_before_a_restart_grows_with_each_failure(start: Start, tmp_path: Path) -> None:
    flag = tmp_path / "crash"
    code = f"import os, time\nif os.path.exists({str(flag)!r}): raise SystemExit(3)\n{SLEEPER}"
    supervised = start(child("one", code))
    supervised.wait_for("READY")
    flag.touch()
    os.kill(supervised.pids()["one"], signal.SIGKILL)
    assert "again in 0.5 s" in supervised.wait_for("bad")
    assert "exit status 3; starting it again in 1 s" in supervised.wait_for("bad")
    assert "again in 2 s" in supervised.wait_for("bad")
    flag.unlink()
    supervised.wait_for("one started again")
    assert supervised.stop() == 0


def test_the_back_off_doubles_up_to_its_bound() -> None:
    assert [backoff_s(n) for n in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff_s(10_000) == 30


def test_a_child_that_cannot_start_says_why_with_the_end_of_its_log(start: Start) -> None:
    supervised = start(child("one", SLEEPER), child("two", CRASHER, socket="/nonexistent"))
    assert supervised.rest() == 1
    last = supervised.said[-1]
    assert "two: exit status 3; the end of" in last
    assert "the reason why" in last
    assert "note 'one stopped'" in supervised.said


def test_a_command_that_does_not_exist_is_named(start: Start) -> None:
    supervised = start({"name": "one", "command": ["/nonexistent/program"]})
    assert supervised.rest() == 1
    assert "one cannot be started" in supervised.said[-1]


def test_a_child_that_never_answers_is_given_up_with_what_the_probe_saw(start: Start) -> None:
    spec = child("one", SLEEPER, socket="/nonexistent", ready_timeout_s=0.2)
    supervised = start(spec)
    assert supervised.rest() == 1
    assert "not ready after 0 s: No such file or directory" in supervised.said[-1]


def test_a_child_that_ignores_sigterm_is_killed_after_its_time(start: Start) -> None:
    supervised = start(child("one", STUBBORN, stop_timeout_s=0.2))
    supervised.wait_for("READY")
    supervised.wait_until_up("one")
    pid = supervised.pids()["one"]
    assert supervised.stop() == 0
    assert "bad 'one did not stop in time and was killed'" in supervised.said
    assert not alive(pid)


def test_a_second_signal_waits_for_nobody(start: Start) -> None:
    supervised = start(child("one", STUBBORN, stop_timeout_s=600.0))
    supervised.wait_for("READY")
    supervised.wait_until_up("one")
    supervised.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)  # two pending signals of one kind are one: the outcome does not hang on this
    supervised.process.send_signal(signal.SIGINT)
    assert supervised.rest() == 0
    assert "was killed" in supervised.said[-1]


def test_a_stop_during_the_start_stops_what_was_started(start: Start, tmp_path: Path) -> None:
    waiting = child("two", SERVER, tmp_path / "s", tmp_path / "never", socket=str(tmp_path / "s"))
    supervised = start(child("one", SLEEPER), waiting)
    until(lambda: "two" in supervised.pids(), "it never came so far")
    pids = supervised.pids()
    assert supervised.stop() == 0
    assert "READY" not in supervised.said
    assert not any(alive(pid) for pid in pids.values())


def test_children_die_when_the_supervisor_is_killed(start: Start) -> None:
    supervised = start(child("one", SLEEPER), child("two", SLEEPER))
    supervised.wait_for("READY")
    for name in ("one", "two"):
        supervised.wait_until_up(name)
    pids = supervised.pids()
    supervised.process.kill()
    supervised.process.wait()
    for name, pid in pids.items():
        wait_until_gone(pid, f"{name} outlived its supervisor")


def test_children_have_a_session_of_their_own(start: Start) -> None:
    supervised = start(child("one", SLEEPER))
    supervised.wait_for("READY")
    pid = supervised.pids()["one"]
    assert os.getsid(pid) == pid


def guarded(tmp_path: Path) -> list[dict[str, Any]]:
    """A guard and a gateway."""
    return [
        child("guard", READER, tmp_path / "cleaned", lifeline="reads"),
        child("gateway", HOLDER, lifeline="holds"),
    ]


def test_the_guard_ends_by_itself_when_the_gateway_stops(start: Start, tmp_path: Path) -> None:
    supervised = start(*guarded(tmp_path))
    supervised.wait_for("READY")
    assert supervised.stop() == 0
    assert (tmp_path / "cleaned").read_text() == "cleaned\n"
    assert "note 'guard stopped'" in supervised.said


def test_a_dead_gateway_is_cleaned_up_after_before_it_starts_again(
    start: Start, tmp_path: Path
) -> None:
    supervised = start(*guarded(tmp_path))
    supervised.wait_for("READY")
    before = supervised.pids()
    os.kill(before["gateway"], signal.SIGKILL)
    supervised.wait_for("gateway started again")
    assert (tmp_path / "cleaned").read_text() == "cleaned\n"
    after = supervised.pids()
    assert after["guard"] != before["guard"]
    assert supervised.stop() == 0
    assert (tmp_path / "cleaned").read_text() == "cleaned\n" * 2


def test_the_gateway_alone_holds_the_lifeline(start: Start, tmp_path: Path) -> None:
    supervised = start(*guarded(tmp_path))
    supervised.wait_for("READY")
    supervised.process.send_signal(signal.SIGSTOP)  # it must not be needed for the cleaning up
    try:
        os.kill(supervised.pids()["gateway"], signal.SIGKILL)
        until(lambda: (tmp_path / "cleaned").exists(), "the guard did not see the gateway's end")
    finally:
        supervised.process.send_signal(signal.SIGCONT)


def test_a_dead_guard_comes_back_to_the_same_gateway(start: Start, tmp_path: Path) -> None:
    supervised = start(*guarded(tmp_path))
    supervised.wait_for("READY")
    before = supervised.pids()
    os.kill(before["guard"], signal.SIGKILL)
    supervised.wait_for("guard started again")
    assert supervised.pids()["gateway"] == before["gateway"]
    os.kill(before["gateway"], signal.SIGKILL)
    supervised.wait_for("gateway started again")
    assert (tmp_path / "cleaned").read_text() == "cleaned\n"


def test_gateway_and_guard_that_die_together_both_come_back(start: Start, tmp_path: Path) -> None:
    supervised = start(*guarded(tmp_path))
    supervised.wait_for("READY")
    before = supervised.pids()
    os.kill(before["guard"], signal.SIGKILL)
    os.kill(before["gateway"], signal.SIGKILL)
    supervised.wait_for("gateway started again")
    after = supervised.pids()
    assert after.keys() == {"guard", "gateway"}
    assert not after.items() & before.items()
    assert supervised.stop() == 0
    assert (tmp_path / "cleaned").read_text() == "cleaned\n"


def test_the_guard_cleans_up_when_the_supervisor_is_killed(start: Start, tmp_path: Path) -> None:
    supervised = start(*guarded(tmp_path))
    supervised.wait_for("READY")
    supervised.process.kill()
    supervised.process.wait()
    until(lambda: (tmp_path / "cleaned").exists(), "nobody cleaned up")


def test_the_guard_is_not_hurried_by_a_second_signal(start: Start, tmp_path: Path) -> None:
    slow = READER.replace("with open", "import time; time.sleep(1)\nwith open")
    guard = child("guard", slow, tmp_path / "cleaned", lifeline="reads")
    supervised = start(guard, child("gateway", HOLDER, lifeline="holds"))
    supervised.wait_for("READY")
    supervised.process.send_signal(signal.SIGTERM)
    supervised.process.send_signal(signal.SIGINT)
    assert supervised.rest() == 0
    assert (tmp_path / "cleaned").read_text() == "cleaned\n"


def test_a_flood_of_output_stays_within_the_bounds_of_the_log(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "one.log", bytes_max=1000)
    for number in range(1000):
        log.write(b"line %d\n" % number)
    log.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["one.log", "one.log.1"]
    assert all((tmp_path / name).stat().st_size <= 1000 for name in files)
    assert tail_of(tmp_path / "one.log", 1) == "line 999"
    assert (tmp_path / "one.log").stat().st_mode & 0o777 == 0o600


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"line {n}\n" for n in range(10_000)))
    assert tail_of(path, 2) == "line 9998\nline 9999"
    assert tail_of(tmp_path / "none") == ""


def test_a_status_is_described_in_words() -> None:
    assert describe_status(1) == "exit status 1"
    assert describe_status(-9) == "killed by SIGKILL"
    assert describe_status(-63) == "killed by signal 63"
