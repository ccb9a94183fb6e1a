"""The driver above the driver: to the pool a seat in a host is a sandbox like any other.

Each namespace has a host for each hosted runtime, made of a stem when its first seat is wanted. A
host that has had no seat for a while ends. What concerns whole sandboxes is left to the driver
below.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from core.errors import SandboxBroken
from core.limits import HOST_KEEP_S
from core.model import Version
from executor.driver import Driver
from executor.first_process import tell_gone
from executor.host import Host, leave
from executor.patience import to_the_end
from executor.sandbox import Sandbox, State
from executor.stems import Stems
from runtimes import registry
from runtimes.registry import Runtime

_Key = tuple[str, str]  # runtime, namespace


@dataclass(eq=False, slots=True)
class _Place:
    """A namespace's host, and who has a seat in it."""

    host: Host
    seats: dict[str, Sandbox] = field(default_factory=dict)  # by sandbox id
    empty: asyncio.TimerHandle | None = None  # ends a host without seats


@dataclass(eq=False, slots=True)
class _Seat:
    place: _Place
    code: str = ""  # once it is bound


class Hosting:
    """See `executor.driver.Driver`. A host may use `memory_mb` in all; what each of its seats may
    use is the host's to see to. `release_code` is told when a seat's code is let go."""

    def __init__(
        self,
        driver: Driver,
        *,
        memory_mb: int,
        payload_bytes_max: int,
        release_code: Callable[[str], None],
    ) -> None:
        self._driver = driver
        self._memory_mb = memory_mb
        self._payload_bytes_max = payload_bytes_max
        self._release_code = release_code
        self._places: dict[_Key, asyncio.Task[_Place]] = {}
        self._seats: dict[str, _Seat] = {}

    async def __aenter__(self) -> Self:
        await self._driver.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await to_the_end(asyncio.ensure_future(self._leave_all()))
        finally:
            await self._driver.__aexit__(kind, error, trace)

    async def _leave_all(self) -> None:
        makings = list(self._places.values())
        for making in makings:
            making.cancel()
        await asyncio.gather(*makings, return_exceptions=True)
        for key, making in list(self._places.items()):
            if (place := _made_of(making)) is not None:
                self._end(key, place)

    # --- seats -----------------------------------------------------------------------------------

    async def seat(self, version: Version, stems: Stems) -> Sandbox:
        """A seat for the version in its namespace's host, as a stem: `bind` it. Errors as
        `Stems.take`; the host is made of a stem of `stems` if there is none."""
        key = version.config.runtime, version.namespace
        making = self._places.get(key)
        if making is None:
            making = asyncio.create_task(self._make(key, version, stems))
            self._places[key] = making
            making.add_done_callback(lambda made: self._made(key, made))
        place = await asyncio.shield(making)
        try:
            seat = await place.host.open(self._payload_bytes_max)
            self._seats[seat.id] = _Seat(place)
            place.seats[seat.id] = seat
        finally:
            self._watch(place)
        return seat

    def _watch(self, place: _Place) -> None:
        """A host that nobody has a seat in ends after a while."""
        if place.seats:
            if place.empty is not None:
                place.empty.cancel()
                place.empty = None
        elif place.empty is None:
            loop = asyncio.get_running_loop()
            place.empty = loop.call_later(HOST_KEEP_S, self._end_empty, place)

    async def _make(self, key: _Key, version: Version, stems: Stems) -> _Place:
        stem = await stems.take(version)
        stems.settled(version)
        assert isinstance(stem, Host), stem
        place = _Place(stem)
        try:
            if stem.state is not State.STEM:
                raise stem.epitaph()
            self._driver.limit(stem, self._memory_mb)
        except BaseException:
            self._driver.close(stem)
            raise
        stem.on_died = lambda _: self._end(key, place)
        return place

    def _made(self, key: _Key, making: asyncio.Task[_Place]) -> None:
        if (making.cancelled() or making.exception()) and self._places.get(key) is making:
            del self._places[key]

    def _end(self, key: _Key, place: _Place) -> None:
        """Its host is dead, or is to be. Seats go first: their mounts are inside."""
        making = self._places.get(key)
        if making is not None and _made_of(making) is place:
            del self._places[key]
        for seat in list(place.seats.values()):
            self.close(seat)
        if place.empty is not None:
            place.empty.cancel()
        self._driver.close(place.host)

    # --- the driver's interface ------------------------------------------------------------------

    async def boot(self, runtime: Runtime, network: str) -> Sandbox:
        """See Driver."""
        return await self._driver.boot(runtime, network)

    async def bind(self, sandbox: Sandbox, version: Version, code: str) -> None:
        """See Driver. A seat's limits are told to its host by INIT."""
        if not registry.find(version.config.runtime).is_hosted:
            await self._driver.bind(sandbox, version, code)
            return
        seat = self._seats.get(sandbox.id)
        if seat is None:
            raise SandboxBroken("a sandbox ended before it was bound")
        self._driver.show(seat.place.host, code, sandbox.folder.name)
        seat.code = code

    def limit(self, sandbox: Sandbox, memory_mb: int) -> None:
        """See Driver."""
        self._driver.limit(sandbox, memory_mb)

    def show(self, host: Sandbox, code: str, name: str) -> None:
        """See Driver."""
        self._driver.show(host, code, name)

    def hide(self, host: Sandbox, code: str, name: str) -> None:
        """See Driver."""
        self._driver.hide(host, code, name)

    def freeze(self, sandbox: Sandbox) -> bool:
        """See Driver. A host runs on: one whose seats are idle does nothing."""
        return sandbox.id not in self._seats and self._driver.freeze(sandbox)

    def thaw(self, sandbox: Sandbox) -> None:
        """See Driver."""
        if sandbox.id not in self._seats:
            self._driver.thaw(sandbox)

    def interrupt(self, sandbox: Sandbox) -> None:
        """See Driver. An instance in a host has no signals."""
        if sandbox.id not in self._seats:
            self._driver.interrupt(sandbox)

    def retire(self, sandbox: Sandbox, grace_s: float) -> None:
        """See Driver. Between two calls nothing of a hosted function is there to be told."""
        if sandbox.id in self._seats:
            self.close(sandbox)
        else:
            self._driver.retire(sandbox, grace_s)

    def close(self, sandbox: Sandbox) -> None:
        """See Driver."""
        seat = self._seats.pop(sandbox.id, None)
        if seat is None:
            if not sandbox.runtime.is_hosted or isinstance(sandbox, Host):
                self._driver.close(sandbox)
            return
        sandbox.hang_up()
        place = seat.place
        if seat.code:
            self._driver.hide(place.host, seat.code, sandbox.folder.name)
            self._release_code(seat.code)
        leave(sandbox)
        del place.seats[sandbox.id]
        asyncio.get_running_loop().call_soon(tell_gone, sandbox)
        self._watch(place)

    def _end_empty(self, place: _Place) -> None:
        place.empty = None
        if not place.seats:
            place.host.hang_up()  # which tells `_end`

    async def ping(self) -> None:
        """See Driver."""
        await self._driver.ping()


def _made_of(making: asyncio.Task[_Place]) -> _Place | None:
    """What was made, if it was."""
    if not making.done() or making.cancelled() or making.exception() is not None:
        return None
    return making.result()
