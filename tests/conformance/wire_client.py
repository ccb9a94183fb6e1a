"""The test's side of the wire: starts one shim, in its image or on this host, and drives it.

It has a codec of its own on purpose: a mistake in the executor's must not hide one in a shim.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import termios
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cli.host import ensure_containers_conf
from core.settings import Settings
from runtimes.registry import HERE, Runtime
from tests.conformance.code import open_to_readers, write

INIT, CALL, CANCEL, CREDIT = 1, 2, 3, 4
HELLO, READY, INIT_ERROR, RESULT, ERROR, CHUNK, END = 16, 17, 18, 19, 20, 21, 22
HEADER = struct.Struct(">IBII")
PATIENCE_S = 60.0  # how long a shim may be silent before a test fails; never a matter of speed
PAYLOAD_BYTES_MAX = 6 * 1024 * 1024
CREDIT_BYTES = 256 * 1024  # what a call begins with
CHUNK_BYTES_MAX = 64 * 1024
IMAGE_SHIMS = "/opt/hearth"
LAUNCHER = HERE / "launcher.py"


class WireEnded(Exception):
    """The shim closed the connection."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame from the shim."""

    kind: int
    call: int
    head: dict[str, Any]
    body: bytes

    @property
    def result(self) -> Any:
        """The value in the body of a RESULT."""
        assert self.kind == RESULT, self
        return json.loads(self.body)


def frame(kind: int, call: int, head: Mapping[str, Any], body: bytes = b"") -> bytes:
    """A frame as bytes."""
    text = json.dumps(head).encode() if head else b""
    return HEADER.pack(9 + len(text) + len(body), kind, call, len(text)) + text + body


@functools.cache
def environ() -> dict[str, str]:
    """The environment that Podman needs on this host."""
    if "CONTAINERS_CONF" in os.environ or not shutil.which("podman"):
        return dict(os.environ)
    conf = ensure_containers_conf(Settings.from_env().data_dir)
    return {**os.environ, "CONTAINERS_CONF": str(conf)}


@functools.cache
def place_of(runtime: Runtime) -> str:
    """Where shims of a runtime can be started: "image", "host", or "" for nowhere.

    HEARTH_CONFORMANCE=host or =image takes the choice away."""
    wanted = os.environ.get("HEARTH_CONFORMANCE", "")
    if wanted != "host" and shutil.which("podman"):
        command = ["podman", "image", "exists", runtime.image]
        done = subprocess.run(command, env=environ(), check=False)
        if done.returncode == 0:
            return "image"
    interpreters = {part for part in runtime.command if "/" not in part and part[0] != "-"}
    there = all(shutil.which(name) for name in interpreters)
    return "host" if there and wanted != "image" else ""


@dataclass(eq=False, slots=True)
class Sandbox:
    """One shim at the other end of a wire. A context manager; nothing of it is left behind."""

    runtime: Runtime
    task: Path
    folder: Path
    process: subprocess.Popen[bytes] = field(init=False)
    wire: socket.socket = field(init=False)
    outputs: dict[int, int] = field(default_factory=dict)  # read ends, by 1 and 2
    written: dict[int, bytearray] = field(init=False)  # what came out of them
    received: bytearray = field(default_factory=bytearray)
    calls: int = 0
    hello: Frame = field(init=False)
    name: str = field(default_factory=lambda: f"conformance-{uuid.uuid4().hex[:12]}")

    def __enter__(self) -> Self:
        self.folder.chmod(0o755)
        path = self.folder / "shim.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            path.chmod(0o666)
            listener.listen(1)
            self.process = self._start(path)
            self.wire = self._accept(listener)
        path.unlink()
        try:
            self._hand_over_outputs()
            self.hello = self.receive()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.wire.close()
        self._end()
        for descriptor in self.outputs.values():
            os.close(descriptor)

    def _end(self) -> None:
        """No process is left, nor one that the function started."""
        if place_of(self.runtime) == "image":
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=5)  # it exits by itself when the wire ends, and --rm
                return
            command = ["podman", "rm", "--force", "--ignore", "--time", "0", self.name]
            subprocess.run(command, env=environ(), check=True, capture_output=True)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _start(self, path: Path) -> subprocess.Popen[bytes]:
        in_image = place_of(self.runtime) == "image"
        command = self._in_image() if in_image else self._on_host()
        env = environ()
        if not in_image:
            env = env | {
                "HEARTH_SOCKET": str(path),
                "HEARTH_TASK": str(self.task),
                "INHERITED": "yes",
            }
        # Where it stands conmon leaves a file when a container runs out of memory.
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "start_new_session": True}
        return subprocess.Popen(command, env=env, cwd=self.folder, **options)

    def _shims(self) -> Path:
        """The shim as it stands in this tree, laid out as in its image."""
        shims = self.folder.parent / "shims"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(self.runtime.folder, shims, ignore=ignored)
        for shared in self.runtime.shares:
            shutil.copytree(shared, shims / shared.name, ignore=ignored)
        shutil.copy(LAUNCHER, shims)
        return shims

    def _on_host(self) -> list[str]:
        shims = str(self._shims())
        return [part.replace(IMAGE_SHIMS, shims) for part in self.runtime.command]

    def _in_image(self) -> list[str]:
        """The image's interpreter with the shim."""
        shims = self._shims()
        for path in [shims, self.task, *shims.rglob("*"), *self.task.rglob("*")]:
            open_to_readers(path)
        options = {"name": self.name, "network": "none", "user": "200001:200001"}
        options |= {"cap-drop": "all", "security-opt": "no-new-privileges", "log-driver": "none"}
        options |= {"pids-limit": "64", "memory": "2g", "env": "INHERITED=yes"}
        mounts = {self.folder: "/run/hearth", self.task: "/var/task", shims: IMAGE_SHIMS}
        return [
            *("podman", "run", "--rm", "--read-only", "--tmpfs", "/tmp:size=64m,mode=1777"),
            *(f"--{name}={value}" for name, value in options.items()),
            *(f"--volume={source}:{target}:ro" for source, target in mounts.items()),
            self.runtime.image,
            *self.runtime.command,
        ]

    def _accept(self, listener: socket.socket) -> socket.socket:
        deadline = time.monotonic() + PATIENCE_S
        while not select.select([listener], [], [], 0.05)[0]:
            if (status := self.process.poll()) is not None or time.monotonic() > deadline:
                self._end()
                raise AssertionError(f"the shim did not connect; its exit status is {status}")
        return listener.accept()[0]

    def _hand_over_outputs(self) -> None:
        out, err = os.pipe(), os.pipe()
        socket.send_fds(self.wire, [b"H"], [out[1], err[1]])
        os.close(out[1])
        os.close(err[1])
        self.outputs = {1: out[0], 2: err[0]}
        self.written = {1: bytearray(), 2: bytearray()}
        for descriptor in self.outputs.values():
            os.set_blocking(descriptor, False)

    @property
    def task_inside(self) -> str:
        """Where the function finds its own code."""
        return "/var/task" if place_of(self.runtime) == "image" else str(self.task)

    def receive(self) -> Frame:
        """The next frame. What the function writes meanwhile is read all the time."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := self._take()) is None:
            remaining = deadline - time.monotonic()
            assert remaining > 0, f"the shim was silent; it wrote {self.written}"
            self._pump(remaining)
        self._drain()  # as the executor does when a frame arrives
        return found

    def _take(self) -> Frame | None:
        if len(self.received) < HEADER.size:
            return None
        length, kind, call, head_bytes = HEADER.unpack_from(self.received)
        if len(self.received) < 4 + length:
            return None
        middle = HEADER.size + head_bytes
        head = json.loads(self.received[HEADER.size : middle] or b"{}")
        body = bytes(self.received[middle : 4 + length])
        del self.received[: 4 + length]
        return Frame(kind, call, head, body)

    def _pump(self, timeout_s: float) -> None:
        sources = [self.wire.fileno(), *self.outputs.values()]
        readable, _, _ = select.select(sources, [], [], timeout_s)
        self._drain()
        if self.wire.fileno() in readable:
            try:
                data = self.wire.recv(1 << 20)
            except ConnectionResetError:
                data = b""
            if not data:
                raise WireEnded(f"the shim wrote {self.written}")
            self.received += data

    def _drain(self) -> None:
        for number, descriptor in list(self.outputs.items()):
            with contextlib.suppress(BlockingIOError):
                while data := os.read(descriptor, 1 << 20):
                    self.written[number] += data
                os.close(self.outputs.pop(number))  # its last writer is gone

    def send(self, data: bytes) -> None:
        """Bytes to the shim; meanwhile nothing is read, so a test must not overfill both ways."""
        self.wire.sendall(data)

    def send_torn(self, data: bytes) -> None:
        """Byte by byte, each only after the shim has read the one before."""
        for byte in data:
            self.wire.sendall(bytes([byte]))
            while any(fcntl.ioctl(self.wire, termios.TIOCOUTQ, bytes(4))):
                time.sleep(0)

    # --- the protocol's verbs ---

    def init_frame(self, handler: str = "main.handler", **changes: Any) -> bytes:
        """An INIT whose fields a test may change."""
        head = {
            "handler": handler,
            "env": {},
            "function": "hello",
            "namespace": "default",
            "version": "7",
            "memory_mb": 128,
            "timeout_s": 30,
            "payload_bytes_max": PAYLOAD_BYTES_MAX,
            "per_sandbox": 1,
            "isolation": "sandbox",
        }
        return frame(INIT, 0, head | changes)

    def init(self, handler: str = "main.handler", **changes: Any) -> Frame:
        """INIT and what it is answered with."""
        self.send(self.init_frame(handler, **changes))
        return self.receive()

    def call_frame(self, kind: str, body: bytes, http: Mapping[str, Any] | None = None) -> bytes:
        """A CALL with the next number and half a minute to go."""
        self.calls += 1
        head: dict[str, Any] = {"id": str(uuid.UUID(int=self.calls)), "kind": kind}
        head["deadline_ms"] = int(time.time() * 1000) + 30_000
        if http is not None:
            head["http"] = http
        return frame(CALL, self.calls, head, body)

    def call_raw(self, body: bytes) -> Frame:
        """An event as bytes, and the answer to it."""
        self.send(self.call_frame("event", body))
        return self._answer()

    def call(self, event: Any) -> Frame:
        """An event, and the answer to it."""
        return self.call_raw(json.dumps(event).encode())

    def start(self, event: Any) -> int:
        """Begin a call and leave its answer for later; its number."""
        self.send(self.call_frame("event", json.dumps(event).encode()))
        return self.calls

    def cancel(self, call: int) -> None:
        """Nobody waits for the call any more."""
        self.send(frame(CANCEL, call, {}))

    def credit(self, call: int, size: int) -> None:
        """So many more bytes of CHUNK bodies may be sent."""
        self.send(frame(CREDIT, call, {}, size.to_bytes(4, "big")))

    def streamed(self, call: int) -> list[Frame]:
        """The CHUNKs of a call and its END (or its other answer), credit given as they come."""
        frames = [self.receive()]
        while frames[-1].kind == CHUNK:
            if frames[-1].body:
                self.credit(call, len(frames[-1].body))
            frames.append(self.receive())
        assert {answer.call for answer in frames} == {call}, frames
        return frames

    def http(
        self,
        path: str = "/",
        body: bytes = b"",
        *,
        method: str = "POST",
        query: str = "",
        headers: Sequence[tuple[str, str]] = (),
    ) -> Frame:
        """A request, and the answer to it."""
        http = {"method": method, "path": path, "query": query, "headers": list(headers)}
        http |= {"source_ip": "192.0.2.7", "protocol": "HTTP/1.1", "host": "api.example.com:8080"}
        self.send(self.call_frame("http", body, http))
        return self._answer()

    def _answer(self) -> Frame:
        answer = self.receive()
        assert answer.call == self.calls, answer
        return answer

    def output(self, number: int = 1) -> bytes:
        """What the function wrote to descriptor 1 or 2 since this was last asked."""
        written = bytes(self.written[number])
        self.written[number].clear()
        return written

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Send the shim a signal while it waits for a call."""
        if place_of(self.runtime) == "image":
            command = ["podman", "kill", "--signal", str(int(number)), self.name]
            subprocess.run(command, env=environ(), check=True, capture_output=True)
            return
        status = Path(f"/proc/{self.process.pid}/stat")
        while status.read_text().rpartition(")")[2].split()[0] != "S":
            time.sleep(0)
        self.process.send_signal(number)

    def ends(self) -> int:
        """Wait until the wire and the process end; the exit status."""
        try:
            while True:
                self._pump(PATIENCE_S)
        except WireEnded:
            return self.exit_status()

    def exit_status(self) -> int:
        """Wait until the process ends; its exit status as a shell would say it."""
        status = self.process.wait(timeout=PATIENCE_S)
        self._drain()
        return 128 - status if status < 0 else status


def make(runtime: Runtime, sources: Mapping[str, str | bytes], root: Path) -> Sandbox:
    """A sandbox, not yet entered, whose code is `sources`: file names and what they hold."""
    home = Path(tempfile.mkdtemp(dir=root))
    for name in ("task", "socket"):
        (home / name).mkdir()
    write(sources, home / "task")
    return Sandbox(runtime, home / "task", home / "socket")
