"""The catalog in memory: what the hot path resolves names and keys against.

Replaced as a whole, never changed in place. Fresh after this node's own writes, on notices from
others, and by looking at the catalog's generation once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

from catalog.catalog import Catalog
from catalog.snapshot import Snapshot
from core.errors import (
    AliasNotFound,
    FunctionDisabled,
    FunctionNotFound,
    HearthError,
    VersionNotFound,
)
from core.model import LATEST, Alias, Function, Version, VersionStatus
from gateway.auth import Caller

POLL_S = 1.0

log = logging.getLogger("hearth.view")


class NotInView(Exception):
    """The function exists, the version is not active: the catalog knows why."""

    def __init__(self, function: Function, number: int | None) -> None:
        super().__init__(function.name)
        self.function = function
        self.number = number


@dataclass(frozen=True, slots=True)
class Target:
    """A version that can be invoked, with what its answers say about it."""

    version: Version
    lines: str  # headers

    @classmethod
    def of(cls, version: Version) -> Target:
        number, runtime = version.number, version.config.runtime
        return cls(version, f"x-hearth-version: {number}\r\nx-hearth-runtime: {runtime}\r\n")


@dataclass(frozen=True, slots=True)
class _Split:
    """An alias whose calls go to several versions, by cumulated share."""

    shares: tuple[float, ...]
    targets: tuple[Target, ...]
    rest: Target

    def pick(self) -> Target:
        drawn = random.random()  # noqa: S311  (a share of traffic, not a secret)
        for share, target in zip(self.shares, self.targets, strict=True):
            if drawn < share:
                return target
        return self.rest


@dataclass(frozen=True, slots=True)
class Entry:
    """One function: its active versions by number as text, and its aliases."""

    function: Function
    targets: Mapping[str, Target]
    aliases: Mapping[str, Target | _Split]


@dataclass(frozen=True, slots=True)
class _State:
    generation: int
    functions: Mapping[tuple[str, str], Entry]
    callers: Mapping[str, Caller]
    version_ids: frozenset[str]
    in_use: Mapping[str, Version]  # by id: those that an alias names


_NOTHING = _State(-1, {}, {}, frozenset(), {})


class View:
    """What `catalog.snapshot` said last, indexed."""

    def __init__(
        self,
        catalog: Catalog,
        on_gone: Callable[[str], None],
        on_use: Callable[[Collection[Version]], None] = lambda versions: None,
    ) -> None:
        """`on_gone` is told the id of each version that is not in use any more: it cannot be
        invoked, never will, or no alias names it now. `on_use` is told all that are, when they
        change."""
        self._catalog = catalog
        self._on_gone = on_gone
        self._on_use = on_use
        self._state = _NOTHING
        self._expected: set[str] = set()
        self._lock = asyncio.Lock()
        self._asked = 0
        self._answered = 0
        self._away = False
        self._woken = asyncio.Event()

    @property
    def callers(self) -> Mapping[str, Caller]:
        """By the digest of the key."""
        return self._state.callers

    @property
    def generation(self) -> int:
        """Of the catalog, when this view was taken."""
        return self._state.generation

    def target(self, namespace: str, name: str, qualifier: str | None) -> Target:
        """The version that `name[:qualifier]` means now. FunctionNotFound, AliasNotFound,
        FunctionDisabled; NotInView when only the catalog can tell what is wrong."""
        entry = self._state.functions.get((namespace, name))
        if entry is None:
            raise FunctionNotFound(f"no function {name!r} in namespace {namespace!r}")
        found = entry.aliases.get(qualifier or LATEST)
        if found is None:
            found = self._by_number(entry, qualifier)
        target = found.pick() if isinstance(found, _Split) else found
        if not target.version.config.enabled:
            raise FunctionDisabled(f"function {name!r} is disabled")
        return target

    def _by_number(self, entry: Entry, qualifier: str | None) -> Target:
        if qualifier is None or qualifier == LATEST:
            raise NotInView(entry.function, None)
        if not qualifier.isdigit():
            raise AliasNotFound(f"function {entry.function.name!r} has no alias {qualifier!r}")
        found = entry.targets.get(qualifier)
        if found is None:
            raise NotInView(entry.function, int(qualifier))
        return found

    def expect(self, version_id: str) -> None:
        """The version is being built and may hold a seat already. It comes into view when it is
        active; if it ends otherwise, `on_gone` is told."""
        self._expected.add(version_id)

    async def refresh(self) -> None:
        """See every change made before this call. Callers at the same time share one look.
        PartAway when the database does not answer; the view then stays as it was."""
        self._asked += 1
        mine = self._asked
        async with self._lock:
            if self._answered >= mine:
                return
            covers = self._asked
            self._replace(index(await asyncio.to_thread(self._catalog.snapshot)))
            self._answered = covers

    def wake(self) -> None:
        """Somebody says that the catalog has changed: look soon."""
        self._woken.set()

    async def poll(self) -> None:
        """Look when woken, and once a second as the net under lost notices, for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._woken.wait()
            self._woken.clear()
            await self.look()

    async def look(self) -> None:
        """Refresh if the catalog has changed. An unreachable database is logged, once."""
        try:
            generation = await asyncio.to_thread(self._catalog.generation)
            if generation != self._state.generation:
                await self.refresh()
            if self._expected:
                await self._look_for_expected()
        except HearthError as error:
            if not self._away:
                log.warning("the view of the catalog stays as it is: %s", error.message)
            self._away = True
        else:
            self._away = False

    async def _look_for_expected(self) -> None:
        for version_id in self._expected - self._state.version_ids:
            if await asyncio.to_thread(self._has_ended, version_id):
                self._expected.discard(version_id)
                self._on_gone(version_id)
        self._expected -= self._state.version_ids

    def _has_ended(self, version_id: str) -> bool:
        try:
            return self._catalog.version_by_id(version_id).status is VersionStatus.FAILED
        except VersionNotFound:
            return True

    def _replace(self, state: _State) -> None:
        before, self._state = self._state, state
        superseded = before.in_use.keys() - state.in_use.keys()
        for version_id in (before.version_ids - state.version_ids) | superseded:
            self._on_gone(version_id)
        if before.in_use.keys() != state.in_use.keys():
            self._on_use(state.in_use.values())


def index(snapshot: Snapshot) -> _State:
    """The snapshot as the hot path wants it. Pure."""
    targets: dict[str, dict[str, Target]] = {}
    for version in snapshot.versions:
        theirs = targets.setdefault(version.function_id, {})
        theirs[str(version.number)] = Target.of(version)
    functions = {}
    for function in snapshot.functions:
        active = targets.get(function.id, {})
        pointers = {
            alias.name: pointer
            for alias in snapshot.aliases.get(function.id, ())
            if (pointer := _pointer(alias, active)) is not None
        }
        functions[function.namespace, function.name] = Entry(function, active, pointers)
    return _State(
        generation=snapshot.generation,
        functions=functions,
        callers={key.digest: Caller.of(key) for key in snapshot.keys},
        version_ids=frozenset(version.id for version in snapshot.versions),
        in_use={v.id: v for entry in functions.values() for v in _named(entry)},
    )


def _named(entry: Entry) -> Iterator[Version]:
    """The versions that aliases of a function lead to, disabled ones left out."""
    for pointer in entry.aliases.values():
        targets = (*pointer.targets, pointer.rest) if isinstance(pointer, _Split) else (pointer,)
        yield from (t.version for t in targets if t.version.config.enabled)


def _pointer(alias: Alias, active: Mapping[str, Target]) -> Target | _Split | None:
    rest = active.get(str(alias.version))
    split = [(share, active[str(n)]) for n, share in alias.weights.items() if str(n) in active]
    if rest is None or not split:
        return rest
    shares, others = zip(*split, strict=True)
    return _Split(tuple(accumulate(shares)), others, rest)
