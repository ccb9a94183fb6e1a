"""The database away, full, busy or damaged: a typed error, nothing half done, and it heals."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import event, text

from catalog.catalog import Catalog
from core.errors import DiskFull, FunctionNotFound, HearthError, PartAway, PlatformFault
from core.limits import MIB
from core.model import Function
from tests.fixtures.postgres import PostgresServer
from tests.integration.catalog.make import active, building

BIG = {"A": "x" * 60_000}


def away(call: Callable[[], object]) -> PartAway:
    """The error that `call` ends with."""
    with pytest.raises(PartAway) as caught:
        call()
    assert caught.value.details["part"] == "database"
    return caught.value


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of its own with no more room than that."""
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=777", "tmpfs", str(folder)]
    if subprocess.run(mounting, capture_output=True, check=False).returncode != 0:
        pytest.skip("may not mount a tmpfs here (needs root with CAP_SYS_ADMIN)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def no_room(disk: Path) -> Iterator[None]:
    """Not a byte."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 4096)
    yield
    ballast.unlink()


def fill(catalog: Catalog, function: Function) -> int:
    """Deploy until there is no more room; how many fitted."""
    for fitted in range(10_000):
        try:
            building(catalog, function, env=BIG)
        except DiskFull:
            return fitted
    raise AssertionError("the disk never filled")


def test_a_crashed_postgresql_is_a_part_away_until_it_is_back(
    own_postgres_server: PostgresServer,
) -> None:
    with closing(Catalog(own_postgres_server.url("postgres"))) as catalog:
        catalog.migrate()
        function = catalog.ensure_function("default", "hello", must_be_new=True)
        own_postgres_server.crash()
        for _ in range(2):
            away(catalog.ping)
            away(catalog.snapshot)
            away(lambda: catalog.function("default", "hello"))
            away(lambda: building(catalog, function))
            away(catalog.migrate)
        own_postgres_server.start()
        assert building(catalog, function).number == 1
        catalog.ping()


def test_a_restarted_postgresql_costs_nobody_an_error(
    own_postgres_server: PostgresServer,
) -> None:
    with closing(Catalog(own_postgres_server.url("postgres"))) as catalog:
        catalog.migrate()
        own_postgres_server.stop()
        own_postgres_server.start()
        catalog.ensure_function("default", "hello", must_be_new=True)


def test_a_session_cut_in_the_middle_of_a_write_leaves_nothing(
    postgres_server: PostgresServer, postgres_template: str
) -> None:
    with (
        postgres_server.database(like=postgres_template) as name,
        closing(Catalog(postgres_server.url(name))) as catalog,
    ):
        with pytest.raises(PartAway), catalog.database.write() as tx:
            tx.execute(text("UPDATE catalog_state SET generation = 77"))
            pid = tx.scalar(text("SELECT pg_backend_pid()"))
            postgres_server.execute(f"SELECT pg_terminate_backend({pid}, 10000)")
            tx.execute(text("SELECT 1"))
        assert catalog.generation() == 0


def test_a_postgresql_that_was_never_there_is_a_part_away_and_its_password_stays_secret(
    tmp_path: Path,
) -> None:
    url = f"postgresql://hearth:s3cret@/x?host={tmp_path}"
    with closing(Catalog(url)) as catalog:
        for call in (catalog.ping, catalog.migrate):
            assert "s3cret" not in str(away(call))


def test_what_is_stored_stays_out_of_error_messages(own_catalog: Catalog) -> None:
    catalog = own_catalog
    hello = catalog.ensure_function("default", "hello", must_be_new=True)
    with catalog.database.write() as tx:
        tx.execute(text("ALTER TABLE versions RENAME TO gone"))
    with pytest.raises(PlatformFault) as caught:
        building(catalog, hello, env={"PASSWORD": "s3cret"})
    error: BaseException | None = caught.value
    while error is not None:
        assert "s3cret" not in str(error)
        error = error.__cause__


def test_a_write_that_is_refused_changes_nothing(own_catalog: Catalog) -> None:
    catalog = own_catalog
    hello = catalog.ensure_function("default", "hello", must_be_new=True)
    with catalog.database.write() as tx:
        tx.execute(text("DROP TABLE builds"))
    with pytest.raises(PlatformFault):
        building(catalog, hello)
    assert catalog.latest_version_number(hello.id) is None


def test_a_full_disk_is_told_and_heals_when_there_is_room(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk", 4 * MIB) as disk,
        closing(Catalog(f"sqlite:///{disk}/catalog.db")) as catalog,
    ):
        catalog.migrate()
        function = catalog.ensure_function("default", "hello", must_be_new=True)
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * MIB)
        fitted = fill(catalog, function)
        assert 0 < fitted < 100
        for _ in range(3):
            with pytest.raises(DiskFull):
                building(catalog, function, env=BIG)
        assert len(catalog.versions(function.id, limit=10_000)) == fitted
        ballast.unlink()
        assert building(catalog, function, env=BIG).number == fitted + 1


def test_a_disk_full_from_the_start_is_told(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk", MIB) as disk,
        closing(Catalog(f"sqlite:///{disk}/catalog.db")) as catalog,
    ):
        with no_room(disk), pytest.raises(DiskFull):
            catalog.migrate()
        catalog.migrate()
        catalog.close()
        with no_room(disk), pytest.raises(DiskFull):  # none for the WAL's index: not even to read
            catalog.ping()
        catalog.ping()


def test_an_sqlite_file_that_may_not_grow_is_told(tmp_path: Path) -> None:
    with closing(Catalog(f"sqlite:///{tmp_path}/catalog.db")) as catalog:
        catalog.migrate()
        event.listen(
            catalog.database.engine,
            "connect",
            lambda raw, _record: raw.execute("PRAGMA max_page_count = 200"),
        )
        catalog.close()
        function = catalog.ensure_function("default", "hello", must_be_new=True)
        fitted = fill(catalog, function)
        assert len(catalog.versions(function.id, limit=1000)) == fitted
        catalog.delete_version(function.id, 1)
        assert building(catalog, function, env=BIG).number == fitted + 1


def test_a_full_tablespace_of_postgresql_is_told(
    postgres_server: PostgresServer, postgres_template: str
) -> None:
    with small_disk(postgres_server.folder / "small", 24 * MIB) as disk:
        postgres_server.own(disk)
        postgres_server.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
        try:
            with (
                postgres_server.database(
                    like=postgres_template, options="TABLESPACE small"
                ) as name,
                closing(Catalog(postgres_server.url(name))) as catalog,
            ):
                function = catalog.ensure_function("default", "hello", must_be_new=True)
                free = shutil.disk_usage(disk).free
                (disk / "ballast").write_bytes(b"x" * (free - MIB // 2))
                fitted = fill(catalog, function)
                assert len(catalog.versions(function.id, limit=10_000)) == fitted
                (disk / "ballast").unlink()
                assert building(catalog, function, env=BIG).number == fitted + 1
        finally:
            postgres_server.execute("DROP TABLESPACE IF EXISTS small")


def test_another_process_that_holds_the_write_lock_is_waited_for_and_then_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catalog.database._SQLITE_PRAGMAS", ("PRAGMA busy_timeout = 50",))
    url = f"sqlite:///{tmp_path}/catalog.db"
    with closing(Catalog(url)) as holder, closing(Catalog(url)) as other:
        holder.migrate()
        with holder.database.write():
            away(lambda: other.ensure_function("default", "hello", must_be_new=True))
            assert other.functions(None, limit=9) == []  # reading goes on
        other.ensure_function("default", "hello", must_be_new=True)


def test_a_thread_that_holds_the_turn_is_waited_for_and_then_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Catalog(f"sqlite:///{tmp_path}/catalog.db")) as catalog:
        catalog.migrate()
        monkeypatch.setattr("catalog.database.CATALOG_LOCK_WAIT_S", 0.05)
        with catalog.database.write():
            away(lambda: catalog.ensure_function("default", "hello", must_be_new=True))
        catalog.ensure_function("default", "hello", must_be_new=True)


def test_more_readers_than_connections_are_told(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = catalog.database.engine.pool
    monkeypatch.setattr(pool, "_timeout", 0.05)
    held = [catalog.database.engine.connect() for _ in range(8)]
    away(catalog.ping)
    for connection in held:
        connection.close()
    catalog.ping()


def test_a_damaged_file_is_told_apart_from_an_absent_database(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    path.write_bytes(b"this is no database, whatever its name says. " * 100)
    with (
        closing(Catalog(f"sqlite:///{path}")) as catalog,
        pytest.raises(PlatformFault, match="damaged") as caught,
    ):
        catalog.migrate()
    assert not isinstance(caught.value, PartAway)
    assert path.read_bytes().startswith(b"this is no database")


def test_a_commit_is_on_the_disk_when_the_process_is_killed(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from catalog.catalog import Catalog
catalog = Catalog(sys.argv[1])
catalog.migrate()
catalog.ensure_function("default", "kept", must_be_new=True)
with catalog.database.write() as tx:
    from catalog import functions
    functions.ensure(tx, "default", "lost", must_be_new=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    url = f"sqlite:///{tmp_path}/catalog.db"
    ran = subprocess.run([sys.executable, "-c", script, url], check=False)
    assert ran.returncode == -signal.SIGKILL
    with closing(Catalog(url)) as catalog:
        catalog.migrate()
        assert [function.name for function in catalog.functions(None, limit=9)] == ["kept"]
        assert catalog.generation() == 1


def test_a_catalog_inherited_through_a_fork_serves_both_sides(url: str) -> None:
    script = """
import os, sys
from catalog.catalog import Catalog
catalog = Catalog(sys.argv[1])
catalog.ensure_function("default", "before", must_be_new=True)
child = os.fork()
name = "parent" if child else "child"
for i in range(20):
    catalog.ensure_function("default", f"{name}-{i}", must_be_new=True)
if child:
    assert os.waitpid(child, 0)[1] == 0
    assert len(catalog.functions(None, limit=99)) == 41
    assert catalog.generation() == 41
    catalog.close()
else:
    os._exit(0)
"""
    command = [sys.executable, "-W", "error", "-c", script, url]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_an_error_in_the_middle_of_a_write_takes_it_back(catalog: Catalog, hello: Function) -> None:
    with pytest.raises(FunctionNotFound), catalog.database.write() as tx:
        tx.execute(text("DELETE FROM functions"))
        raise FunctionNotFound("on second thoughts")
    assert catalog.function("default", "hello") == hello


def test_a_closed_catalog_opens_again(catalog: Catalog, hello: Function) -> None:
    catalog.close()
    assert active(catalog, hello).number == 1


def test_nothing_is_left_open(url: str) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    for _ in range(3):
        with closing(Catalog(url)) as catalog:
            catalog.migrate()
            with pytest.raises(HearthError):
                catalog.function("default", "none")
    assert descriptors() == before
