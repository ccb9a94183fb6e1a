"""The clients of a soak: each has one connection, asks one thing after the other, and looks hard
at what it is told. Some leave in the middle."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from tests.soak.books import HUNG_UP, Answer, Books, Request, Wrong, judge
from tests.soak.functions import KINDS, Kind

ANSWER_S = 120.0  # no call may take so long, however slow the machine
THINKS_S = 0.02  # the mean pause between two calls of a client
LEAVES_OF_100 = 4
DAWDLES_OF_100 = 10  # streams that are read slowly
SMALL_BUFFER_BYTES = 16 * 1024
_RESET = struct.pack("ii", 1, 0)


@dataclass(eq=False, slots=True)
class Scene:
    """What all clients share."""

    host: str
    port: int
    key: str
    books: Books = field(default_factory=Books)
    active: dict[str, int] = field(default_factory=dict)  # function → newest version known active
    is_loud: bool = True  # clients stop once it is false


class Client:
    """One of several dozens. What it asks depends on its name alone."""

    def __init__(
        self,
        scene: Scene,
        name: str,
        kinds: Sequence[Kind] = KINDS,
        leaves_of_100: int = LEAVES_OF_100,
    ) -> None:
        self._scene = scene
        self._name = name
        self._kinds = kinds
        self._weights = [kind.weight for kind in kinds]
        self._leaves_of_100 = leaves_of_100
        self._random = Random(name)
        self._count = 0
        self._wire: _Wire | None = None

    async def run(self) -> None:
        """Ask until the scene falls silent."""
        try:
            while self._scene.is_loud:
                await self._turn()
                await asyncio.sleep(self._random.expovariate(1 / THINKS_S))
        finally:
            self._drop()

    async def _turn(self) -> None:
        random, scene = self._random, self._scene
        kind = random.choices(self._kinds, self._weights)[0]
        self._count += 1
        asked = kind.ask(random, f"{self._name}-{self._count}")
        request = Request(kind, asked, scene.active[kind.name])
        leaves = random.randrange(100) < self._leaves_of_100
        try:
            if self._wire is None:
                self._wire = await _Wire.open(scene.host, scene.port)
        except OSError as problem:
            scene.books.wrong.append(f"no connection for {request.id}: {problem}")
            return
        scene.books.sent[kind.name] += 1
        try:
            async with asyncio.timeout(ANSWER_S):
                await (self._leave(request) if leaves else self._hear(request))
        except Wrong as problem:
            self._blame(request, str(problem))
        except TimeoutError:
            self._blame(request, f"no answer within {ANSWER_S:g} s")
        except (OSError, EOFError, ValueError, KeyError) as problem:
            self._blame(request, f"{type(problem).__name__}: {problem}")

    async def _hear(self, request: Request) -> None:
        wire, random = self._wire, self._random
        assert wire is not None
        started = time.monotonic()
        wire.send(request, self._scene.key)
        pause: Callable[[], Awaitable[None]] | None = None
        if request.kind.is_streaming and random.randrange(100) < DAWDLES_OF_100:
            pause = lambda: asyncio.sleep(random.uniform(0, 0.02))  # noqa: E731
        status, headers, body, is_whole = await wire.read(pause)
        waited_s = time.monotonic() - started
        answer = Answer(status, headers, body, is_whole, waited_s)
        try:
            kind = judge(request, answer)
        except Wrong as problem:
            raise Wrong(
                f"{problem}: {status} after {waited_s:.3f} s {headers} {body[:300]!r}"
            ) from None
        self._scene.books.end(request, kind)
        if not is_whole:
            self._drop()

    async def _leave(self, request: Request) -> None:
        wire, random = self._wire, self._random
        assert wire is not None
        wire.send(request, self._scene.key)
        if random.randrange(2) and request.kind.is_streaming:
            await wire.read_some()
        else:
            await asyncio.sleep(random.choice((0, 0.001, 0.01, 0.1)))
        wire.close(resets=bool(random.randrange(2)))
        self._wire = None
        self._scene.books.end(request, HUNG_UP)

    def _blame(self, request: Request, problem: str) -> None:
        self._scene.books.blame(request, problem)
        self._drop()

    def _drop(self) -> None:
        if self._wire is not None:
            self._wire.close(resets=False)
            self._wire = None


class _Wire:
    """One connection: as much of HTTP as Hearth's answers need."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, host: str, port: int) -> _Wire:
        return cls(*await asyncio.open_connection(host, port, limit=SMALL_BUFFER_BYTES))

    def send(self, request: Request, key: str) -> None:
        body = json.dumps(request.asked).encode()
        path = _path(request.kind, request.asked["ms"])
        head = (
            f"POST {path} HTTP/1.1\r\nhost: soak\r\nauthorization: Bearer {key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"x-request-id: {request.id}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)

    async def read(
        self, pause: Callable[[], Awaitable[None]] | None
    ) -> tuple[int, dict[str, str], bytes, bool]:
        """Status, headers, body, and whether that is all."""
        top = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = top.decode("latin-1").strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        status = int(first.split()[1])
        if "transfer-encoding" not in headers:
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
            return status, headers, body, True
        body, is_whole = await self._read_chunks(pause)
        return status, headers, body, is_whole

    async def _read_chunks(self, pause: Callable[[], Awaitable[None]] | None) -> tuple[bytes, bool]:
        found: list[bytes] = []
        while line := await self._reader.readline():
            if pause is not None:
                await pause()
            size = int(line, 16)
            piece = await self._reader.readexactly(size + 2)
            if not size:
                return b"".join(found), True
            found.append(piece[:-2])
        return b"".join(found), False

    async def read_some(self) -> None:
        """The first of what comes."""
        await self._reader.read(1000)

    def close(self, *, resets: bool) -> None:
        """Hang up, by a reset or in an orderly way."""
        if resets:
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._writer.transport.abort()
        else:
            self._writer.close()


def _path(kind: Kind, ms: int) -> str:
    """Streams, and some of the others, by the way of web pages."""
    if kind.is_streaming or (ms and "per_sandbox" not in kind.config):
        return f"/function/{kind.name}/any"
    return f"/v1/functions/{kind.name}/invocations"
