"""One wasm host for all these tests: that it outlives each of them is a part of what they prove."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conformance import hosted_client, modules, wire_client
from tests.conformance.hosted_client import WASM, Host, Seat
from tests.conformance.wire_client import frame

Opening = Callable[..., Seat]


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Started once."""
    if not wire_client.place_of(WASM):
        pytest.skip(f"wasm: no image {WASM.image}, and no interpreter on this host")
    with hosted_client.make(tmp_path_factory.mktemp("wasm")) as started:
        yield started


@pytest.fixture(scope="session")
def first(host: Host) -> Iterator[Seat]:
    """cases.c, whose files the other seats share."""
    with host.open(modules.cases()) as seat:
        yield seat.ready(env={"GREETING": "héllo", "EMPTY": ""})


@pytest.fixture
def cases(first: Seat) -> Seat:
    """The shared seat, with what earlier tests made it write forgotten."""
    first.output(2)
    return first


@pytest.fixture
def another(host: Host, first: Seat) -> Iterator[Opening]:
    """Further seats of cases.c, which end with the test."""
    opened: list[Seat] = []

    def open_one(**changes: Any) -> Seat:
        opened.append(host.open(first))
        return opened[-1].ready(**changes)

    yield open_one
    for seat in opened:
        seat.__exit__(None, None, None)


def deadline_call(seat: Seat, event: object, milliseconds: int) -> None:
    """Begin a call that has so long."""
    seat.calls += 1
    head = {"id": "i", "kind": "event", "deadline_ms": int(time.time() * 1000) + milliseconds}
    seat.send(frame(wire_client.CALL, seat.calls, head, json.dumps(event).encode()))
