"""These tests run on the loop that the gateway runs on, most of them for every driver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from tests.fixtures.nodes import Bench
from tests.fixtures.podman_service import PodmanService
from tests.fixtures.sandboxes import Codes, Lines


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """One loop: each test runs once."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(params=["process", pytest.param("podman", marks=pytest.mark.podman)])
def bench(request: pytest.FixtureRequest, codes: Codes, lines: Lines) -> Bench:
    """Each driver in turn."""
    service: PodmanService | None = None
    if request.param == "podman":
        service = request.getfixturevalue("podman")
    return Bench(codes, lines, service)
