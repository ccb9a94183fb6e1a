"""What the command line knows of a platform on this machine: lock, state, probes, leftovers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cli.children import Probe, Question
from cli.leftovers import leftovers, node_tag
from cli.probe import ask, is_free
from cli.state import AlreadyRunning, Running, hold, holder, read_running, write_running

# --- the lock and the state ---


def test_one_process_at_a_time_holds_the_data_directory(tmp_path: Path) -> None:
    lock = tmp_path / "up.pid"
    assert holder(lock) is None
    with hold(lock):
        assert holder(lock) == os.getpid()
        with pytest.raises(AlreadyRunning) as raised, hold(lock):
            raise AssertionError("two at once")
        assert raised.value.pid == os.getpid()
    assert holder(lock) is None


def test_a_killed_holder_leaves_no_lock_behind(tmp_path: Path) -> None:
    lock = tmp_path / "up.pid"
    code = """
import pathlib, sys
from cli.state import hold
with hold(pathlib.Path(sys.argv[1])):
    print(1, flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    with process.stdout, process.stdin:
        process.stdout.readline()
        assert holder(lock) == process.pid
        process.kill()
        process.wait()
    assert holder(lock) is None


def test_the_state_file_reads_back_and_half_a_file_is_none(tmp_path: Path) -> None:
    running = Running(7, "http://x", "/run/h", 1.5, ready=True, children={"redis": 8})
    write_running(tmp_path, running)
    assert read_running(tmp_path) == running
    (tmp_path / "up.json").write_text('{"pid": ')
    assert read_running(tmp_path) is None
    (tmp_path / "up.json").write_text('{"other": 1}')
    assert read_running(tmp_path) is None


# --- probes ---


def answering(path: Path, answer: bytes) -> threading.Thread:
    """A Unix socket that answers one connection so."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        with server:
            peer, _ = server.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("question", "answer", "verdict"),
    [
        (Question.REDIS_PING, b"+PONG\r\n", None),
        (Question.REDIS_PING, b"-LOADING reading\r\n", "-LOADING reading"),
        (Question.PODMAN_PING, b"HTTP/1.0 200 OK\r\n\r\nOK", None),
        (Question.PODMAN_PING, b"HTTP/1.0 503 No\r\n\r\nredis: away", "redis: away"),
        (Question.PODMAN_PING, b"", "no answer yet"),
    ],
)
def test_a_probe_takes_only_the_right_answer(
    tmp_path: Path, question: Question, answer: bytes, verdict: str | None
) -> None:
    thread = answering(tmp_path / "s", answer)
    assert ask(Probe(question, str(tmp_path / "s"))) == verdict
    thread.join()


def test_a_probe_of_nothing_says_what_is_missing(tmp_path: Path) -> None:
    assert ask(Probe(Question.NOTHING)) is None
    assert ask(Probe(Question.REDIS_PING, str(tmp_path / "s"))) == "No such file or directory"


def test_a_port_that_somebody_else_answers_is_not_our_readiness(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        host, port = other.getsockname()
        probe = Probe(Question.READYZ, f"{host}:{port}", also=str(tmp_path / "gateway.sock"))
        assert ask(probe) == "not listening yet"
        assert not is_free(host, port)
    assert is_free(host, port)


# --- leftovers ---


def test_a_process_of_the_platform_is_found_by_its_run_directory(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    assert leftovers(tmp_path, run_dir) == []
    env = {**os.environ, "HEARTH_RUN_DIR": str(run_dir)}
    process = subprocess.Popen(["sleep", "1000"], env=env)
    try:
        found = leftovers(tmp_path, run_dir)
        assert found == [f"process {process.pid}: sleep 1000"]
    finally:
        process.kill()
        process.wait()


def test_a_socket_left_in_the_run_directory_is_found(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "left.sock"))
        assert leftovers(tmp_path, tmp_path) == [f"socket {tmp_path / 'left.sock'}"]


def test_the_tag_is_that_of_the_executor() -> None:
    from executor.cleanup import node_tag as tag_of_executor

    assert node_tag(Path("/run/hearth/x")) == tag_of_executor(Path("/run/hearth/x"))
