"""Every conformance test runs on every runtime that this machine can start."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from runtimes.registry import RUNTIMES, Runtime
from tests.conformance import not_for, wire_client
from tests.conformance.code import write
from tests.conformance.wire_client import Sandbox

FUNCTIONS = Path(__file__).parent / "functions"

# A started shim from its code: one source, written to main<suffix>, or files by name.
Boot = Callable[[str | Mapping[str, str | bytes]], Sandbox]


# A runtime that runs no source by itself says which language's sources it is tested with. What is
# compiled to speak the Runtime API (dart3) is `custom` to a sandbox.
LANGUAGES = {"custom": "python3.13"}
COMPILED = {"dart3"}
# Hosts have a suite of their own: the folder wasm.
SHIMS = [x for x in RUNTIMES.values() if x.name not in COMPILED and not x.is_hosted]
# What its code then holds besides.
BESIDE = {"custom": {"bootstrap": (FUNCTIONS / "cases_bootstrap").read_text()}}


@pytest.fixture(
    scope="session",
    params=SHIMS,
    ids=lambda runtime: runtime.name,
)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """Each runtime in turn; skipped, saying so, where neither image nor interpreter is there."""
    found: Runtime = request.param
    if not wire_client.place_of(found):
        pytest.skip(f"{found.name}: no image {found.image}, and no interpreter on this host")
    if language := LANGUAGES.get(found.name):
        spoken = RUNTIMES[language]
        return dataclasses.replace(found, short=spoken.short, suffixes=spoken.suffixes)
    return found


@pytest.fixture(autouse=True)
def applies(request: pytest.FixtureRequest) -> None:
    """Skips what a runtime cannot be asked, saying why."""
    parameters = getattr(getattr(request.node, "callspec", None), "params", {})
    asked = parameters.get("runtime")
    if isinstance(asked, Runtime) and (why := not_for.reason(asked.name, request.node.name)):
        pytest.skip(why)


def files_of(runtime: Runtime, code: str | Mapping[str, str | bytes]) -> dict[str, str | bytes]:
    """What a sandbox's code holds, from one source or from files by name."""
    sources = {f"main{runtime.suffixes[0]}": code} if isinstance(code, str) else dict(code)
    return {**BESIDE.get(runtime.name, {}), **sources}


class Stock:
    """Shims that wait for their code: one is booted while the test before runs, and what a test
    leaves ends while the next one runs. Containers take longer than most of these tests."""

    def __init__(self, runtime: Runtime, root: Path) -> None:
        self._runtime = runtime
        self._root = root
        self._threads = ThreadPoolExecutor(2)
        self._next = self._threads.submit(self._boot)
        self._ends: list[Future[None]] = []

    def _boot(self) -> Sandbox:
        return wire_client.make(self._runtime, {}, self._root).__enter__()

    def take(self, sources: Mapping[str, str | bytes]) -> Sandbox:
        """The one that waits, with code."""
        sandbox = self._next.result()
        self._next = self._threads.submit(self._boot)
        write(sources, sandbox.task)
        return sandbox

    def end(self, sandbox: Sandbox) -> None:
        """The test is done with it."""
        self._ends.append(self._threads.submit(sandbox.__exit__, None, None, None))

    def close(self) -> None:
        """Returns when nothing is left; raises what went wrong as something ended."""
        self.end(self._next.result())
        self._threads.shutdown()
        for end in self._ends:
            end.result()


@pytest.fixture(scope="session")
def stock(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stock]:
    """One for each runtime."""
    made = Stock(runtime, tmp_path_factory.mktemp("stock"))
    yield made
    made.close()


@pytest.fixture
def boot(runtime: Runtime, stock: Stock) -> Iterator[Boot]:
    """Shims that end with the test."""
    with ExitStack() as sandboxes:

        def start(code: str | Mapping[str, str | bytes]) -> Sandbox:
            sandbox = stock.take(files_of(runtime, code))
            sandboxes.callback(stock.end, sandbox)
            return sandbox

        yield start


@pytest.fixture(scope="session")
def shared(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """functions/cases.*, initialised once for all tests that leave a sandbox as it was."""
    source = (FUNCTIONS / f"cases{runtime.suffixes[0]}").read_text()
    sources = files_of(runtime, source)
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
