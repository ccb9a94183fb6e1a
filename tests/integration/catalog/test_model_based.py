"""Any sequence of deploys, aliases, rollbacks and deletions, beside a simple model of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from catalog.catalog import Catalog
from catalog.snapshot import take
from core.errors import (
    AliasNotFound,
    Conflict,
    HearthError,
    VersionInUse,
    VersionNotActive,
    VersionNotFound,
)
from core.model import LATEST, Alias, VersionStatus
from tests.integration.catalog.make import config

PICKS = st.integers(0, 11)  # of what there is, so that few steps meet only a refusal
ALIASES = st.sampled_from([LATEST, "prod"])
SHARES = st.dictionaries(PICKS, st.sampled_from([0.1, 0.25, 0.5]), max_size=2)


@dataclass
class Pointer:
    """An alias in the model: every place it has pointed at, the present one last."""

    places: list[tuple[int, dict[int, float]]]
    furthest: int


@dataclass
class Model:
    """One function, as simply as it can be said."""

    last: int = 0
    versions: dict[int, VersionStatus] = field(default_factory=dict)
    aliases: dict[str, Pointer] = field(default_factory=dict)

    def point(self, name: str, version: int, weights: dict[int, float]) -> None:
        """Move the alias."""
        pointer = self.aliases.setdefault(name, Pointer([], 0))
        if not pointer.places or pointer.places[-1] != (version, weights):
            pointer.places.append((version, weights))
        pointer.furthest = max(pointer.furthest, version)

    def used(self, number: int) -> bool:
        """Whether an alias points there now."""
        return any(
            number == alias.places[-1][0] or number in alias.places[-1][1]
            for alias in self.aliases.values()
        )

    def refusal(self, *numbers: int) -> type[HearthError] | None:
        """Why an alias cannot point at these."""
        for number in sorted(numbers):
            if number not in self.versions:
                return VersionNotFound
            if self.versions[number] is not VersionStatus.ACTIVE:
                return VersionNotActive
        return None

    def step_back(self, name: str) -> bool:
        """Roll the alias back. False when there is nowhere to go."""
        places = self.aliases[name].places
        for i in range(len(places) - 2, -1, -1):
            version, weights = places[i]
            if version in self.versions:
                kept = {n: share for n, share in weights.items() if n in self.versions}
                places[i:] = [(version, kept)]
                return True
        return False


class CatalogMachine(RuleBasedStateMachine):
    """Does each thing to the catalog and to the model, and compares after every step."""

    fresh: Callable[[], Any]  # gives a context manager of an empty catalog

    def __init__(self) -> None:
        super().__init__()
        self._context = type(self).fresh()
        self.catalog: Catalog = self._context.__enter__()
        self.id = self.catalog.ensure_function("default", "f", must_be_new=True).id
        self.model = Model()
        self.seen = self.catalog.snapshot()

    def teardown(self) -> None:
        self._context.__exit__(None, None, None)

    def some_number(self, pick: int) -> int:
        """A version's, or one that none has."""
        numbers = [*sorted(self.model.versions), self.model.last + 1]
        return numbers[pick % len(numbers)]

    def some_version(self, pick: int) -> int:
        """A version's number; there is one."""
        numbers = sorted(self.model.versions)
        return numbers[pick % len(numbers)]

    def expect(self, refused: type[HearthError] | None, call: Callable[[], object]) -> None:
        """The call is refused for exactly that reason, or not at all."""
        try:
            call()
        except HearthError as error:
            assert type(error) is refused, error
        else:
            assert refused is None

    @rule(count=st.integers(1, 3))
    def deploy(self, count: int) -> None:
        for _ in range(count):
            version = self.catalog.add_version(
                self.id, config(), archive_digest="d", archive_bytes=1
            )
            self.model.last += 1
            assert version.number == self.model.last
            self.model.versions[version.number] = VersionStatus.BUILDING

    @precondition(lambda self: VersionStatus.BUILDING in self.model.versions.values())
    @rule(pick=PICKS)
    def finish_a_build(self, pick: int) -> None:
        """Any of them, so that often an older one ends after a newer one."""
        building = [n for n, s in self.model.versions.items() if s is VersionStatus.BUILDING]
        self.activate(building[pick % len(building)])

    @precondition(lambda self: self.model.versions)
    @rule(pick=PICKS)
    def finish_a_build_that_may_have_ended(self, pick: int) -> None:
        self.activate(self.some_version(pick))

    def activate(self, number: int) -> None:
        """And point `latest` there, if it has been no further."""
        status = self.model.versions[number]
        version_id = self.catalog.version(self.id, number).id
        refused = VersionNotActive if status is VersionStatus.FAILED else None
        self.expect(refused, lambda: self.catalog.activate(version_id, ("d",)))
        if status is VersionStatus.BUILDING:
            self.model.versions[number] = VersionStatus.ACTIVE
            if number > self.model.aliases.get(LATEST, Pointer([], 0)).furthest:
                self.model.point(LATEST, number, {})

    @precondition(lambda self: self.model.last > 3 and self.model.versions)
    @rule(pick=PICKS)
    def fail(self, pick: int) -> None:
        number = self.some_version(pick)
        status = self.model.versions[number]
        version_id = self.catalog.version(self.id, number).id
        refused = Conflict if status is VersionStatus.ACTIVE else None
        self.expect(refused, lambda: self.catalog.fail(version_id, "x"))
        if status is VersionStatus.BUILDING:
            self.model.versions[number] = VersionStatus.FAILED

    @precondition(lambda self: self.model.last > 3)
    @rule(pick=PICKS)
    def delete_version(self, pick: int) -> None:
        number = self.some_number(pick)
        refused: type[HearthError] | None = None
        if number not in self.model.versions:
            refused = VersionNotFound
        elif self.model.used(number):
            refused = VersionInUse
        self.expect(refused, lambda: self.catalog.delete_version(self.id, number))
        if refused is None:
            del self.model.versions[number]

    @precondition(lambda self: self.model.versions)
    @rule(name=ALIASES, pick=PICKS, shares=SHARES)
    def put_alias(self, name: str, pick: int, shares: dict[int, float]) -> None:
        number = self.some_number(pick)
        weights = {self.some_number(other): share for other, share in shares.items()}
        weights.pop(number, None)
        refused = self.model.refusal(number, *weights)
        self.expect(refused, lambda: self.catalog.put_alias(self.id, Alias(name, number, weights)))
        if refused is None:
            self.model.point(name, number, weights)

    @precondition(lambda self: self.model.aliases)
    @rule(name=ALIASES)
    def delete_alias(self, name: str) -> None:
        there = name in self.model.aliases
        refused = AliasNotFound if not there else Conflict if name == LATEST else None
        self.expect(refused, lambda: self.catalog.delete_alias(self.id, name))
        if refused is None:
            del self.model.aliases[name]

    @precondition(lambda self: self.model.aliases)
    @rule(name=ALIASES)
    def rollback(self, name: str) -> None:
        refused: type[HearthError] | None = None
        if name not in self.model.aliases:
            refused = AliasNotFound
        elif not self.model.step_back(name):
            refused = Conflict
        self.expect(refused, lambda: self.catalog.rollback(self.id, name))

    @precondition(lambda self: LATEST in self.model.aliases)
    @rule()
    def roll_latest_back(self) -> None:
        self.rollback(LATEST)

    @precondition(lambda self: self.model.last > 9)
    @rule()
    def start_anew(self) -> None:
        self.catalog.delete_function("default", "f")
        self.id = self.catalog.ensure_function("default", "f", must_be_new=True).id
        self.model = Model()

    @invariant()
    def the_catalog_says_what_the_model_says(self) -> None:
        versions = {v.number: v.status for v in self.catalog.versions(self.id, limit=1000)}
        assert versions == self.model.versions
        assert self.catalog.aliases(self.id) == [
            Alias(name, *pointer.places[-1]) for name, pointer in sorted(self.model.aliases.items())
        ]

    @invariant()
    def the_snapshot_agrees_and_changes_with_its_generation(self) -> None:
        taken = self.catalog.snapshot()
        with self.catalog.database.read() as tx:
            assert take(tx, {}) == taken  # sharing with earlier ones changes nothing
        active = {n for n, s in self.model.versions.items() if s is VersionStatus.ACTIVE}
        assert {version.number for version in taken.versions} == active
        reached = {
            number
            for alias in taken.aliases.get(self.id, ())
            for number in (alias.version, *alias.weights)
        }
        assert reached <= active
        assert taken.generation >= self.seen.generation
        assert (taken.generation == self.seen.generation) == (taken == self.seen)
        self.seen = taken


def test_any_sequence_leaves_what_a_simple_model_expects(sqlite_template: Path) -> None:
    memory = Path("/dev/shm")  # the disk has nothing to say here, and an fsync for each step would

    @contextmanager
    def fresh() -> Iterator[Catalog]:
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
            shutil.copy(sqlite_template, f"{folder}/catalog.db")
            with closing(Catalog(f"sqlite:///{folder}/catalog.db")) as catalog:
                yield catalog

    class Machine(CatalogMachine):
        pass

    Machine.fresh = staticmethod(fresh)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],  # to shrink a failure takes minutes: add Phase.shrink then
            suppress_health_check=list(HealthCheck),
        ),
    )
