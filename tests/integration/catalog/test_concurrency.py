"""Many at once, from threads and from processes: everybody is served and nothing is mixed up."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

from catalog.catalog import Catalog
from core.errors import HearthError, VersionInUse, VersionNotFound
from core.model import Alias, Function, VersionStatus
from tests.integration.catalog.make import NEVER, active, building

THREADS = 12  # more than the connections a catalog keeps
REPOSITORY = Path(__file__).parents[3]


def at_once(jobs: Iterable[Callable[[], object]]) -> list[Any]:
    """Run them in threads that begin together; refusals are results."""
    jobs = list(jobs)
    barrier = Barrier(len(jobs))

    def run(job: Callable[[], object]) -> object:
        barrier.wait()
        try:
            return job()
        except HearthError as refused:
            return refused

    with ThreadPoolExecutor(len(jobs)) as threads:
        return list(threads.map(run, jobs))


def deploy_from_processes(url: str, function_id: str, *, processes: int, count: int) -> list[int]:
    """Every number that was given to one of them."""
    command = [sys.executable, "-W", "error", "-m", "tests.integration.catalog.deployer"]
    running = [
        subprocess.Popen(
            [*command, url, function_id, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        for _ in range(processes)
    ]
    numbers: list[int] = []
    for process in running:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first == "ready\n", process.communicate()[1]
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in running:
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        numbers += [int(line) for line in out.split()]
    return numbers


def test_deploys_from_threads_get_distinct_numbers(catalog: Catalog, hello: Function) -> None:
    deployed = at_once([lambda: [active(catalog, hello).number for _ in range(5)]] * THREADS)
    numbers = [number for result in deployed if isinstance(result, list) for number in result]
    assert sorted(numbers) == list(range(1, 5 * THREADS + 1))
    assert catalog.alias(hello.id, "latest").version == 5 * THREADS


def test_deploys_from_processes_get_distinct_numbers(
    url: str, catalog: Catalog, hello: Function
) -> None:
    numbers = deploy_from_processes(url, hello.id, processes=4, count=20)
    assert sorted(numbers) == list(range(1, 81))
    assert catalog.alias(hello.id, "latest").version == 80


def test_processes_that_start_together_on_an_empty_database_all_find_it_ready(
    empty_url: str,
) -> None:
    # With nothing to deploy, migrating is all they do.
    assert deploy_from_processes(empty_url, "fn_none", processes=4, count=0) == []
    with closing(Catalog(empty_url)) as catalog:
        assert catalog.generation() == 0


def test_builds_that_finish_in_any_order_leave_latest_at_the_newest(
    catalog: Catalog, hello: Function
) -> None:
    for _ in range(5):
        versions = [building(catalog, hello) for _ in range(THREADS)]
        at_once([partial(catalog.activate, version.id, ()) for version in versions])
        assert catalog.alias(hello.id, "latest").version == versions[-1].number


def test_a_version_becomes_active_or_failed_and_never_both(
    catalog: Catalog, hello: Function
) -> None:
    for _ in range(10):
        version = building(catalog, hello)
        outcomes = at_once(
            [partial(catalog.activate, version.id, ()), partial(catalog.fail, version.id, "x")]
        )
        refused = [outcome for outcome in outcomes if isinstance(outcome, HearthError)]
        assert len(refused) == 1
        final = catalog.version_by_id(version.id).status
        assert final is (
            VersionStatus.FAILED if outcomes[0] is refused[0] else VersionStatus.ACTIVE
        )


def test_one_of_many_builders_gets_the_build(catalog: Catalog, hello: Function) -> None:
    for _ in range(5):
        version = building(catalog, hello)
        claims = at_once(
            [
                partial(catalog.claim_build, version.id, f"builder-{n}", stale_before=NEVER)
                for n in range(THREADS)
            ]
        )
        assert sum(claim is not None for claim in claims) == 1
        assert catalog.build(version.id).attempts == 1


def test_one_of_many_makes_the_function(catalog: Catalog) -> None:
    new = at_once([lambda: catalog.ensure_function("default", "f", must_be_new=True)] * THREADS)
    assert sum(isinstance(result, Function) for result in new) == 1
    same = at_once([lambda: catalog.ensure_function("default", "g", must_be_new=False)] * THREADS)
    assert len({result.id for result in same if isinstance(result, Function)}) == 1
    assert all(isinstance(result, Function) for result in same)


def test_no_alias_ends_up_pointing_at_a_deleted_version(catalog: Catalog, hello: Function) -> None:
    active(catalog, hello)
    for _ in range(10):
        doomed = active(catalog, hello)
        active(catalog, hello)
        put, deleted = at_once(
            [
                partial(catalog.put_alias, hello.id, Alias("p", doomed.number)),
                partial(catalog.delete_version, hello.id, doomed.number),
            ]
        )
        assert isinstance(put, VersionNotFound) != isinstance(deleted, VersionInUse)
        catalog.put_alias(hello.id, Alias("p", 1))


def test_every_write_is_seen_by_the_generation_that_counts_it(catalog: Catalog) -> None:
    """A snapshot of generation n holds all n changes: none becomes visible behind its back."""
    names = [f"f{n}" for n in range(THREADS * 5)]

    def write(part: int) -> None:
        for name in names[part::THREADS]:
            catalog.ensure_function("default", name, must_be_new=True)

    def read() -> None:
        for _ in range(40):
            taken = catalog.snapshot()
            assert len(taken.functions) == taken.generation

    at_once([*(partial(write, part) for part in range(THREADS)), read, read])
    assert len(catalog.snapshot().functions) == catalog.generation() == len(names)
