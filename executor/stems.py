"""A stock of booted sandboxes without code, so that a cold start is a bind and not a boot.

Each kind of stem (runtime and network mode) has a shelf. Whoever wants a stem that is not there
stands in the shelf's queue, functions in turn, and the last stem in stock is not for a function
that has other cold starts under way: a noisy one leaves something for the others. Boots that
somebody waits for come before those for the stock, and the stock is refilled when no cold start is
under way, or after a while in any case.
The level of a shelf follows the largest burst of cold starts of late, and the number of versions in
use that may need one, within the memory for stems.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable

from core.errors import HearthError, SandboxBroken
from core.limits import (
    BOOTS_AT_ONCE_MAX,
    REFILL_PATIENCE_S,
    REFILLS_AT_ONCE_MAX,
    STEM_LOOK_S,
    STEM_MB,
    STEMS_MAX,
)
from core.model import Version
from executor.demand import Demand
from executor.driver import Driver
from executor.sandbox import Sandbox, State
from runtimes import registry
from runtimes.registry import Runtime

log = logging.getLogger("hearth.executor")

_BACK_OFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)


class CalledOff(Exception):
    """The start that waited for this stem is not needed any more."""


class _Shelf:
    """The stock and the queue of one kind."""

    def __init__(self, runtime: Runtime, network: str) -> None:
        self.runtime = runtime
        self.network = network
        self.stock: list[Sandbox] = []
        self.queue: dict[str, deque[_Wish]] = {}  # by function, whose turn it is first
        self.booting = 0
        self.turn = 0  # of its last boot that somebody waited for
        self.in_use = 0  # versions of this kind
        self.demand = Demand()
        self.failures = 0
        self.pause: asyncio.TimerHandle | None = None  # after boots for the stock that failed

    @property
    def waiting(self) -> int:
        """How many want a stem."""
        return sum(map(len, self.queue.values()))

    @property
    def stocked(self) -> int:
        """How many are there, or will be."""
        return len(self.stock) + self.booting

    def pop_wish(self) -> _Wish | None:
        """The next in turn: one of the function that was served longest ago."""
        while self.queue:
            function_id = next(iter(self.queue))
            wishes = self.queue.pop(function_id)
            wish = wishes.popleft()
            if wishes:
                self.queue[function_id] = wishes  # at the end
            if not wish.stem.done():  # else it was cancelled in this very tick
                return wish
        return None

    def drop(self, wish: _Wish) -> bool:
        """Take a wish out of the queue; whether it was there."""
        wishes = self.queue.get(wish.function_id)
        if wishes is None or wish not in wishes:
            return False
        wishes.remove(wish)
        if not wishes:
            del self.queue[wish.function_id]
        return True


class _Wish:
    """One start that waits for a stem."""

    __slots__ = ("function_id", "stem", "version_id")

    def __init__(self, version: Version) -> None:
        self.function_id = version.function_id
        self.version_id = version.id
        self.stem: asyncio.Future[Sandbox] = asyncio.get_running_loop().create_future()


class Stems:
    """The shelves. `level` stems of each kind are there at least, 0 keeps no stock at all, and
    `level_max` at most; all kinds together have `memory_mb`.

    Whoever took a stem says `settled` once its cold start is over."""

    def __init__(
        self, driver: Driver, level: int, memory_mb: int, level_max: int = STEMS_MAX
    ) -> None:
        self._driver = driver
        self._level = level
        self._level_max = max(level, level_max)
        self._stock_max = memory_mb // STEM_MB
        self._shelves: dict[tuple[str, str], _Shelf] = {}
        self._boots: set[asyncio.Task[None]] = set()
        self._binding: Counter[str] = Counter()  # cold starts under way, by function
        self._turns = 0
        self.on_room: Callable[[], None] = lambda: None  # there is more of it
        self._refill: asyncio.TimerHandle | None = None
        self._has_stood_back = False
        self._looking: asyncio.TimerHandle | None = None
        self._is_open = False

    def start(self, runtimes: Iterable[Runtime]) -> None:
        """Begin to fill. Needs a running loop."""
        self._is_open = True
        for runtime in runtimes:
            if runtime.is_stocked:
                self.know(runtime, "none")
        self._look()

    def _look(self) -> None:
        """Levels fall with time."""
        for shelf in self._shelves.values():
            while len(shelf.stock) > self._level_of(shelf):
                self._driver.close(shelf.stock.pop(0))  # `on_died` finds it gone
        self._fill()
        self._looking = asyncio.get_running_loop().call_later(STEM_LOOK_S, self._look)

    @property
    def room(self) -> int:
        """How many cold starts there may be so that each has a stem, or gets the next one."""
        waiting = sum(shelf.waiting for shelf in self._shelves.values())
        stock = sum(len(shelf.stock) for shelf in self._shelves.values())
        return BOOTS_AT_ONCE_MAX + stock + sum(self._binding.values()) - waiting

    def know(self, runtime: Runtime, network: str) -> None:
        """There are functions of this kind: keep stems for them."""
        if (runtime.name, network) not in self._shelves:
            self._shelves[runtime.name, network] = _Shelf(runtime, network)
            self._fill()

    def expect(self, versions: Iterable[Version]) -> None:
        """All versions in use: each may need a stem, and many of them at the same moment."""
        kinds: Counter[tuple[str, str]] = Counter(
            (v.config.runtime, v.config.network) for v in versions
        )
        for name, network in kinds:
            self.know(registry.find(name), network)
        for kind, shelf in self._shelves.items():
            shelf.in_use = kinds[kind]
        self._fill()

    async def stop(self) -> None:
        """Boot nothing more. The driver closes what is in stock."""
        self._is_open = False
        handles = [self._looking, self._refill, *(shelf.pause for shelf in self._shelves.values())]
        for handle in handles:
            if handle is not None:
                handle.cancel()
        boots = list(self._boots)
        for boot in boots:
            boot.cancel()
        await asyncio.gather(*boots, return_exceptions=True)

    def count(self) -> dict[str, int]:
        """Stems in stock by kind: `python3.13`, `python3.13+egress`."""
        return {_name(shelf): len(shelf.stock) for shelf in self._shelves.values() if shelf.stock}

    def levels(self) -> dict[str, int]:
        """How many there should be, by kind."""
        return {_name(shelf): self._level_of(shelf) for shelf in self._shelves.values()}

    # --- taking ----------------------------------------------------------------------------------

    async def take(self, version: Version) -> Sandbox:
        """A stem for the version: from stock, or the next one that is booted. As Driver.boot;
        CalledOff when it is not needed any more."""
        runtime = registry.find(version.config.runtime)
        self.know(runtime, version.config.network)
        shelf = self._shelves[runtime.name, version.config.network]
        shelf.demand.note(time.monotonic())
        is_first = not self._binding[version.function_id]
        self._binding[version.function_id] += 1
        try:
            if len(shelf.stock) > 1 or (shelf.stock and is_first):
                stem = shelf.stock.pop()
                stem.on_died = lambda sandbox: None
                shelf.failures = 0
                self._fill()
                return stem
            return await self._wait(shelf, _Wish(version))
        except BaseException:
            self.settled(version)
            raise

    def settled(self, version: Version) -> None:
        """A cold start that took a stem is over, well or not."""
        self._binding[version.function_id] -= 1
        if not self._binding[version.function_id]:
            del self._binding[version.function_id]
        if not self._binding:
            self._fill()

    def call_off(self, version: Version) -> bool:
        """The newest start of the version that still waits for a stem gives up; False when none
        does."""
        shelf = self._shelves.get((version.config.runtime, version.config.network))
        wishes = shelf.queue.get(version.function_id, ()) if shelf else ()
        for wish in reversed(wishes):
            if wish.version_id == version.id and shelf is not None and not wish.stem.done():
                shelf.drop(wish)
                wish.stem.set_exception(CalledOff())
                return True
        return False

    async def _wait(self, shelf: _Shelf, wish: _Wish) -> Sandbox:
        shelf.queue.setdefault(wish.function_id, deque()).append(wish)
        self._fill()
        try:
            return await wish.stem
        except asyncio.CancelledError:
            if not shelf.drop(wish) and _is_there(wish.stem):
                self._hand_on(shelf, wish.stem.result())  # handed over in this very tick
            raise

    # --- boots -----------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Begin every boot that is due now."""
        if not self._is_open:
            return
        shelves = self._shelves.values()
        while len(self._boots) < BOOTS_AT_ONCE_MAX:
            short = [shelf for shelf in shelves if shelf.waiting > shelf.booting]
            if not short:
                break
            shelf = min(short, key=lambda shelf: shelf.turn)  # the kinds in turn, too
            self._turns += 1
            shelf.turn = self._turns
            self._begin(shelf)
        if any(shelf.waiting for shelf in shelves) or not self._may_refill():
            return
        while len(self._boots) < REFILLS_AT_ONCE_MAX and self._stocked() < self._stock_max:
            low = [shelf for shelf in shelves if self._is_low(shelf)]
            if not low:
                break
            self._begin(min(low, key=lambda shelf: shelf.stocked))

    def _may_refill(self) -> bool:
        """Whether no cold start is under way, or refilling has stood back long enough."""
        if not self._binding:
            self._stop_standing_back()
            return True
        if self._refill is None:
            loop = asyncio.get_running_loop()
            self._refill = loop.call_later(REFILL_PATIENCE_S, self._stood_back)
        return self._has_stood_back

    def _stood_back(self) -> None:
        # Not by comparing times: a loop's clock may be coarser, and the timer come before its time.
        self._has_stood_back = True
        self._fill()

    def _stop_standing_back(self) -> None:
        self._has_stood_back = False
        if self._refill is not None:
            self._refill.cancel()
            self._refill = None

    def _stocked(self) -> int:
        return sum(shelf.stocked for shelf in self._shelves.values())

    def _is_low(self, shelf: _Shelf) -> bool:
        return shelf.pause is None and shelf.stocked < self._level_of(shelf)

    def _level_of(self, shelf: _Shelf) -> int:
        if not self._level:
            return 0
        if shelf.runtime.is_hosted:  # one serves a whole namespace
            return min(self._level, self._level_max)
        wanted = max(self._level, shelf.in_use, shelf.demand.largest(time.monotonic()))
        return min(wanted, self._level_max)

    def _begin(self, shelf: _Shelf) -> None:
        shelf.booting += 1
        boot = asyncio.create_task(self._boot(shelf))
        self._boots.add(boot)
        boot.add_done_callback(self._booted)

    def _booted(self, boot: asyncio.Task[None]) -> None:
        self._boots.discard(boot)
        self._fill()

    async def _boot(self, shelf: _Shelf) -> None:
        try:
            stem = await self._driver.boot(shelf.runtime, shelf.network)
        except HearthError as error:
            self._failed(shelf, error)
        except Exception as error:  # one that nobody foresaw must not end the filling
            log.exception("a %s stem could not be booted", _name(shelf))
            text = f"a sandbox could not be made: {type(error).__name__}: {error}"
            self._failed(shelf, SandboxBroken(text))
        else:
            if not self._hand_on(shelf, stem):
                self._failed(shelf, SandboxBroken("a sandbox ended as soon as it had booted"))
        finally:
            shelf.booting -= 1

    def _hand_on(self, shelf: _Shelf, stem: Sandbox) -> bool:
        """To whoever is next, else into stock; False when it has ended already."""
        if stem.state is not State.STEM:
            self._driver.close(stem)
            return False
        wish = shelf.pop_wish()
        if wish is not None:
            wish.stem.set_result(stem)
            self.on_room()
            return True
        stem.on_died = lambda stem: self._on_died(shelf, stem)
        shelf.stock.append(stem)
        self.on_room()
        return True

    def _failed(self, shelf: _Shelf, error: HearthError) -> None:
        """Who waits longest hears of it; when nobody does, the stock is tried again later."""
        wish = shelf.pop_wish()
        if wish is not None:
            wish.stem.set_exception(error)
            return
        delay_s = self._pause(shelf)
        log.warning(
            "no %s stem could be booted, again in %g s: %s", _name(shelf), delay_s, error.message
        )

    def _pause(self, shelf: _Shelf) -> float:
        """Boot nothing for this stock for a while, longer each time; for how long."""
        delay_s = _BACK_OFF_S[min(shelf.failures, len(_BACK_OFF_S) - 1)]
        shelf.failures += 1
        if shelf.pause is None and self._is_open:
            shelf.pause = asyncio.get_running_loop().call_later(delay_s, self._go_on, shelf)
        return delay_s

    def _go_on(self, shelf: _Shelf) -> None:
        shelf.pause = None
        self._fill()

    def _on_died(self, shelf: _Shelf, stem: Sandbox) -> None:
        if stem not in shelf.stock:
            return
        shelf.stock.remove(stem)
        self._driver.close(stem)
        if not shelf.waiting:
            self._pause(shelf)  # or one that never lives long would be booted without end
        self._fill()


def _is_there(stem: asyncio.Future[Sandbox]) -> bool:
    return stem.done() and not stem.cancelled() and stem.exception() is None


def _name(shelf: _Shelf) -> str:
    name = shelf.runtime.name
    return name if shelf.network == "none" else f"{name}+{shelf.network}"
