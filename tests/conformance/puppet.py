"""A sandbox whose bootstrap does what a test says, right or wrong, and words to say it in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from runtimes.registry import Runtime
from tests.conformance import wire_client
from tests.conformance.conftest import FUNCTIONS, Boot
from tests.conformance.wire_client import READY, Sandbox

PUPPET = (FUNCTIONS / "puppet_bootstrap").read_text()
API = "/2018-06-01/runtime/"


@pytest.fixture(scope="session")
def shared_puppet(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One for all tests that leave it as it was."""
    root = tmp_path_factory.mktemp("puppet")
    with wire_client.make(runtime, {"bootstrap": PUPPET}, root) as sandbox:
        assert sandbox.init().kind == READY
        yield sandbox


@pytest.fixture
def puppet(shared_puppet: Sandbox) -> Sandbox:
    """The shared one, with what it wrote forgotten."""
    shared_puppet.output(1)
    shared_puppet.output(2)
    return shared_puppet


def started(boot: Boot, **changes: Any) -> Sandbox:
    """A puppet of one's own."""
    sandbox = boot({"bootstrap": PUPPET})
    answer = sandbox.init(**changes)
    assert answer.kind == READY, (answer, sandbox.written)
    return sandbox


def post(what: str, body: str = "1", *headers: str, path: str = "") -> str:
    """A request as text."""
    lines = [f"POST {API}{path or 'invocation/{id}/' + what} HTTP/1.1", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", body])
