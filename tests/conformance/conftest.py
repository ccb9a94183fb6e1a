"""Every conformance test runs on every runtime that this machine can start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from runtimes.registry import RUNTIMES, Runtime
from tests.conformance import wire_client
from tests.conformance.wire_client import Sandbox

FUNCTIONS = Path(__file__).parent / "functions"

# A started shim from its code: one source, written to main<suffix>, or files by name.
Boot = Callable[[str | Mapping[str, str | bytes]], Sandbox]


@pytest.fixture(scope="session", params=RUNTIMES.values(), ids=lambda runtime: runtime.name)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """Each runtime in turn; skipped, saying so, where neither image nor interpreter is there."""
    found: Runtime = request.param
    if not wire_client.place_of(found):
        pytest.skip(f"{found.name}: no image {found.image}, and no interpreter on this host")
    return found


@pytest.fixture
def boot(runtime: Runtime, tmp_path: Path) -> Iterator[Boot]:
    """Start shims that end with the test."""
    with ExitStack() as sandboxes:

        def start(code: str | Mapping[str, str | bytes]) -> Sandbox:
            sources = {f"main{runtime.suffixes[0]}": code} if isinstance(code, str) else code
            return sandboxes.enter_context(wire_client.make(runtime, sources, tmp_path))

        yield start


@pytest.fixture(scope="session")
def shared(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """functions/cases.*, initialised once for all tests that leave a sandbox as it was."""
    source = (FUNCTIONS / f"cases{runtime.suffixes[0]}").read_text()
    sources = {f"main{runtime.suffixes[0]}": source}
    with wire_client.make(runtime, sources, tmp_path_factory.mktemp("shared")) as sandbox:
        ready = sandbox.init(env={"GREETING": "héllo", "EMPTY": ""})
        assert ready.kind == wire_client.READY, ready
        yield sandbox


@pytest.fixture
def cases(shared: Sandbox) -> Sandbox:
    """The shared sandbox, with what earlier tests made it write forgotten."""
    shared.output(1)
    shared.output(2)
    return shared
