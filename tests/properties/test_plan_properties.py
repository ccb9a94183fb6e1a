"""The plan under any order of events, without a pool: the same events give the same decisions, and
whatever came before, nobody waits in vain, nothing is lent twice, and the memory adds up.
"""

from __future__ import annotations

from typing import cast

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import floats, integers, sampled_from

from core.limits import FREEZE_AFTER_S, SEAT_WAIT_FAIR_S
from core.model import Version
from executor.plan import Plan
from executor.sandbox import Sandbox
from executor.seats import Begin, CallOff, Freeze, Grant, Leave, Line, Rest, Seat, Ticket
from tests.fixtures.sandboxes import version_of

BUDGET_MB = 1000
VERSIONS = (
    version_of(memory_mb=100, keep_warm_s=5),
    version_of(memory_mb=300, keep_warm_s=600, min_warm=1),
    version_of(memory_mb=300, keep_warm_s=0, idle="run"),
    version_of(memory_mb=200, keep_warm_s=60, per_sandbox=3),
    version_of(memory_mb=700, keep_warm_s=60),
    version_of(memory_mb=1000, keep_warm_s=60),
    version_of(memory_mb=100, keep_warm_s=60, per_sandbox=2, min_warm=2),
)
at = integers(0, 1000)


class Book:
    """A plan whose decisions are carried out at once, as the pool would, and written down."""

    def __init__(self) -> None:
        self.plan = Plan(BUDGET_MB)
        self.now = 100.0
        self.lent: list[Seat] = []  # one entry for each call
        self.starts: list[Line] = []
        self.seats: list[Seat] = []
        self.leaving: list[Seat] = []
        self.waiting: dict[Ticket, Version] = {}
        self.log: list[str] = []

    def act(self) -> None:
        while self.plan.decisions:
            decision = self.plan.decisions.pop(0)
            match decision:
                case Grant(ticket, seat):
                    assert seat.rest is Rest.BUSY
                    assert self.waiting.pop(ticket) is seat.line.version
                    self.lent.append(seat)
                    self.note("grant", seat.line)
                case Begin(line):
                    self.starts.append(line)
                    self.note("begin", line)
                case CallOff(line):
                    self.note("call off", line)
                case Freeze(seat):
                    assert seat.rest is Rest.IDLE
                    assert seat.line.version.config.idle == "freeze"
                    assert self.now - seat.idle_since >= FREEZE_AFTER_S
                    self.note("freeze", seat.line)
                case Leave(seat, why):
                    self.leave(seat, why)

    def leave(self, seat: Seat, why: str) -> None:
        assert seat not in self.lent, "ended in the middle of a call"
        self.seats.remove(seat)
        self.leaving.append(seat)
        if why in ("evicted", "expired") and seat.why_spoiled is None:
            assert seat.line.seats >= seat.line.kept, "what is kept was taken"
        if why == "expired":
            assert self.now - seat.idle_since >= seat.line.version.config.keep_warm_s
        if why == "evicted" and seat.why_spoiled is None:
            others = [s for s in self.plan.resting.seats if s.line.spare]
            assert all(s.idle_since >= seat.idle_since for s in others), "not the least recent"
        self.note(f"leave {why} {seat.is_sound}", seat.line)

    def note(self, what: str, line: Line) -> None:
        self.log.append(f"{what} {VERSIONS.index(line.version)}")

    # --- events ---

    def call(self, which: int) -> None:
        version = VERSIONS[which]
        line = self.plan.lines.get(version.id)
        had_room = line is not None and bool(line.open)
        seat = self.plan.lend(version.id)
        if seat is not None:
            assert seat.line.version is version
            assert seat.why_spoiled is None
            assert seat.calls <= version.config.per_sandbox
            assert not had_room or seat.calls > 1, "an idle seat where a used one had room"
            seat.is_frozen = False  # as the pool thaws it
            self.lent.append(seat)
        else:
            ticket = Ticket(self.plan.why_cold(version))
            self.waiting[ticket] = version
            self.plan.ask(version, ticket, self.now)
        self.act()

    def tear_up(self, which: int) -> None:
        ticket = list(self.waiting)[which % len(self.waiting)]
        version = self.waiting.pop(ticket)
        assert self.plan.tear_up(version.id, ticket, self.now)
        self.act()

    def start_ends(self, which: int, how: str) -> None:
        line = self.starts.pop(which % len(self.starts))
        if how == "well":
            self.seats.append(self.plan.started(line, cast(Sandbox, object()), self.now))
        elif how == "off":
            self.plan.called_off(line, self.now)
        elif how == "hopeless":
            for ticket in self.plan.give_up(line, self.now):
                del self.waiting[ticket]
        elif (told := self.plan.start_failed(line, self.now)) is not None:
            del self.waiting[told]
        self.act()

    def answer(self, which: int) -> None:
        seat = self.lent.pop(which % len(self.lent))
        self.plan.give_back(seat, self.now)
        self.act()

    def spoil(self, which: int) -> None:
        seat = self.lent[which % len(self.lent)]
        self.plan.spoil(seat, "timed_out", is_sound=False)
        self.answer(which)

    def die(self, which: int) -> None:
        seat = self.seats[which % len(self.seats)]
        self.plan.died(seat, "crashed", self.now)
        self.act()
        for _ in range(self.lent.count(seat)):
            self.answer(self.lent.index(seat))

    def go(self, which: int) -> None:
        self.plan.gone(self.leaving.pop(which % len(self.leaving)), self.now)
        self.act()


class PlanMachine(RuleBasedStateMachine):
    """Every event happens to two books; they must stay the same."""

    def __init__(self) -> None:
        super().__init__()
        self.books = (Book(), Book())
        self.book = self.books[0]

    def both(self, event: str, *arguments: object) -> None:
        for book in self.books:
            getattr(book, event)(*arguments)

    @rule(which=integers(0, len(VERSIONS) - 1))
    def somebody_calls(self, which: int) -> None:
        self.both("call", which)

    @precondition(lambda self: self.book.waiting)
    @rule(which=at)
    def somebody_leaves(self, which: int) -> None:
        self.both("tear_up", which)

    @precondition(lambda self: self.book.starts)
    @rule(which=at, how=sampled_from(["well", "well", "well", "badly", "off", "hopeless"]))
    def a_start_ends(self, which: int, how: str) -> None:
        self.both("start_ends", which, how)

    @precondition(lambda self: self.book.lent)
    @rule(which=at)
    def a_call_is_answered(self, which: int) -> None:
        self.both("answer", which)

    @precondition(lambda self: self.book.lent)
    @rule(which=at)
    def a_call_times_out(self, which: int) -> None:
        self.both("spoil", which)

    @precondition(lambda self: self.book.seats)
    @rule(which=at)
    def a_sandbox_dies(self, which: int) -> None:
        self.both("die", which)

    @precondition(lambda self: self.book.leaving)
    @rule(which=at)
    def what_left_has_gone(self, which: int) -> None:
        self.both("go", which)

    @rule(which=integers(0, len(VERSIONS) - 1))
    def a_version_retires(self, which: int) -> None:
        for book in self.books:
            book.plan.retire(VERSIONS[which].id, book.now)
            book.act()

    @rule(some=integers(0, 2 ** len(VERSIONS) - 1))
    def other_versions_are_in_use(self, some: int) -> None:
        versions = [v for n, v in enumerate(VERSIONS) if some >> n & 1]
        for book in self.books:
            book.plan.keep(versions, book.now)
            book.act()

    @rule(starts=integers(0, 4))
    def stems_come_and_go(self, starts: int) -> None:
        for book in self.books:
            book.plan.starts_max = starts
            book.plan.more_may_start(book.now)
            book.act()

    @rule(seconds=floats(0, 20))
    def time_passes(self, seconds: float) -> None:
        for book in self.books:
            book.now += seconds
            book.plan.freeze(book.now)
            book.act()
            book.plan.tick(book.now)
            book.act()

    @invariant()
    def the_same_events_give_the_same_decisions(self) -> None:
        assert self.books[0].log == self.books[1].log

    @invariant()
    def the_memory_adds_up_and_fits(self) -> None:
        plan, book = self.book.plan, self.book
        leaving = sum(seat.memory_mb for seat in book.leaving)
        living = sum(seat.memory_mb for seat in book.seats)
        starting = sum(line.memory_mb for line in book.starts)
        assert plan.leaving_mb == leaving
        assert plan.promised_mb == leaving + living + starting <= BUDGET_MB
        assert plan.resting.memory_mb == sum(seat.memory_mb for seat in plan.resting.seats)

    @invariant()
    def nobody_waits_beside_a_free_seat(self) -> None:
        for line in self.book.plan.all_lines():
            if line.tickets:
                assert not line.idle
                assert not line.open

    @invariant()
    def nobody_waits_while_a_seat_could_be_made(self) -> None:
        plan = self.book.plan
        assert set(plan.starving) == {line for line in plan.all_lines() if line.wanted > 0}
        free = plan.budget_mb - plan.promised_mb
        coming, reserved = free + plan.leaving_mb, 0
        starts = plan.starts_max - plan.starting
        assert plan.starting == len(self.book.starts)
        for line in plan.starving:
            if starts <= 0:
                break
            if line.memory_mb + reserved <= coming:
                assert line.memory_mb > free, "it fits now"
                reserved += line.memory_mb
                starts -= 1
            else:
                most = coming + plan.resting.spare_mb(plan.kept)
                assert line.memory_mb + reserved > most, "idle seats would do"

    @invariant()
    def every_seat_is_where_it_belongs(self) -> None:
        plan, book = self.book.plan, self.book
        for line in plan.all_lines():
            mine = [seat for seat in book.seats if seat.line is line]
            busy = [seat for seat in mine if seat.rest is Rest.BUSY]
            assert line.seats == len(mine)
            assert line.busy == len(busy)
            assert set(line.idle) == set(mine) - set(busy)
            assert line.starting == book.starts.count(line)
            assert all(seat.calls == book.lent.count(seat) > 0 for seat in busy)
            room = {s for s in busy if s.why_spoiled is None and s.calls < line.slots}
            assert set(line.open) == (room if not line.is_retired else set(line.open))
            assert not line.is_empty
        asleep = {s for s in plan.resting.seats if s.is_frozen}
        running = {s for s in plan.resting.seats if s.line.version.config.idle == "run"}
        assert set(plan.resting.awake) == set(plan.resting.seats) - asleep - running

    @invariant()
    def the_least_recently_used_come_first(self) -> None:
        times = [seat.idle_since for seat in self.book.plan.resting.seats]
        assert times == sorted(times)

    def teardown(self) -> None:
        book = self.book
        unserved = book.plan.end(book.now)
        book.act()
        assert set(unserved) == set(book.waiting)
        while book.starts:
            book.start_ends(0, "well")
        while book.lent:
            book.answer(0)
        while book.leaving:
            book.go(0)
        assert book.seats == []
        assert book.plan.promised_mb == 0
        assert list(book.plan.all_lines()) == []


def test_a_busy_function_yields_to_whoever_starves() -> None:
    book = Book()
    book.call(5)
    book.start_ends(0, "well")
    book.call(4)
    book.now += SEAT_WAIT_FAIR_S
    book.call(5)
    book.answer(0)
    assert book.log == ["begin 5", "grant 5", "leave evicted True 5"]
    book.go(0)
    assert book.log[-1] == "begin 4"


def test_a_shared_seat_yields_after_its_last_call_and_takes_no_more() -> None:
    book = Book()
    for _ in range(5):
        book.call(3)  # per_sandbox 3: two seats, one full, one with room
    book.start_ends(0, "well")
    book.start_ends(0, "well")
    book.call(5)
    book.now += SEAT_WAIT_FAIR_S
    while book.lent:
        book.answer(0)
    assert [line for line in book.log if line.startswith("leave")] == ["leave evicted True 3"] * 2


TestPlanMachine = PlanMachine.TestCase
TestPlanMachine.settings = settings(
    max_examples=120, stateful_step_count=50, deadline=None, report_multiple_bugs=False
)
