"""Migrations: from nothing to now, all or nothing, and never backwards by accident."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from catalog.catalog import Catalog
from catalog.database import Database
from catalog.migrate import HEAD, SCRIPTS, revision, run_scripts
from catalog.tables import metadata
from core.errors import PartAway, PlatformFault
from core.settings import SettingsInvalid
from tests.fixtures.postgres import PostgresServer
from tests.integration.catalog.make import active

BROKEN = '''"""A migration that fails half-way."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table("half", sa.Column("id", sa.Integer))
    op.execute("INSERT INTO half VALUES (1)")
    op.execute("DELETE FROM functions")
    op.execute("SELECT * FROM no_such_table")
'''

REBUILDS = '''"""A migration that SQLite can only do by building the table anew."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    recreate = "always" if op.get_bind().dialect.name == "sqlite" else "never"
    with op.batch_alter_table("functions", recreate=recreate) as table:
        table.add_column(sa.Column("note", sa.Text, nullable=True))
'''


def scripts_with(folder: Path, source: str) -> Path:
    """The real scripts and one more."""
    scripts = Path(shutil.copytree(SCRIPTS, folder / "100% more migrations"))
    (scripts / "versions" / "0002_next.py").write_text(source)
    return scripts


def test_the_constant_names_the_newest_script() -> None:
    assert ScriptDirectory(str(SCRIPTS)).get_heads() == [HEAD]


def test_the_scripts_make_exactly_the_tables_of_this_release(catalog: Catalog) -> None:
    with catalog.database.read() as tx:
        context = MigrationContext.configure(tx, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_names_compare_by_bytes_on_postgresql(
    postgres_server: PostgresServer, postgres_template: str
) -> None:
    query = text(
        "SELECT table_name || '.' || column_name FROM information_schema.columns "
        "WHERE collation_name = 'C' AND table_schema = 'public'"
    )
    database = Database(postgres_server.url(postgres_template))
    with closing(database), database.read() as tx:
        by_bytes = set(tx.execute(query).scalars())
    assert by_bytes == {"functions.namespace", "functions.name", "aliases.name", "keys.namespace"}


def test_migrating_again_changes_nothing(empty_url: str) -> None:
    with closing(Catalog(empty_url)) as catalog:
        catalog.migrate()
        function = catalog.ensure_function("default", "hello", must_be_new=True)
        catalog.migrate()
        assert catalog.function("default", "hello") == function
    with closing(Catalog(empty_url)) as again:
        again.migrate()
        assert again.functions(None, limit=9) == [function]


def test_a_migration_that_fails_leaves_everything_as_it_was(
    own_catalog: Catalog, tmp_path: Path
) -> None:
    catalog = own_catalog
    hello = catalog.ensure_function("default", "hello", must_be_new=True)
    scripts = scripts_with(tmp_path, BROKEN)
    with pytest.raises(PlatformFault), catalog.database.migration() as tx:
        run_scripts(tx, scripts)
    with catalog.database.read() as tx:
        assert revision(tx) == HEAD
        assert not inspect(tx).has_table("half")
    assert catalog.functions(None, limit=9) == [hello]


def test_rebuilding_a_table_deletes_nothing_that_refers_to_it(
    own_catalog: Catalog, tmp_path: Path
) -> None:
    catalog = own_catalog
    hello = catalog.ensure_function("default", "hello", must_be_new=True)
    version = active(catalog, hello)
    with catalog.database.migration() as tx:
        run_scripts(tx, scripts_with(tmp_path, REBUILDS))
        assert revision(tx) == "0002"
    assert catalog.version(hello.id, 1) == version
    catalog.delete_function("default", "hello")  # foreign keys act again
    assert catalog.snapshot().versions == ()


def test_a_migration_elsewhere_is_waited_for_and_then_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "catalog.db"
    with closing(Catalog(f"sqlite:///{path}")) as catalog:
        monkeypatch.setattr("catalog.migrate.CATALOG_MIGRATION_WAIT_S", 0.1)
        with (path.parent / "catalog.db.lock").open("w") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(PartAway, match="still migrating"):
                catalog.migrate()
        catalog.migrate()


def test_a_database_of_a_newer_release_is_left_alone(own_catalog: Catalog) -> None:
    catalog = own_catalog
    hello = catalog.ensure_function("default", "hello", must_be_new=True)
    with catalog.database.write() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(PlatformFault, match="newer Hearth"):
        catalog.migrate()
    assert catalog.functions(None, limit=9) == [hello]


def test_a_catalog_without_tables_says_so(empty_url: str) -> None:
    with (
        closing(Catalog(empty_url)) as catalog,
        pytest.raises(PlatformFault, match="catalog_state"),
    ):
        catalog.ping()


def test_the_files_of_an_sqlite_catalog_are_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with closing(Catalog(f"sqlite:///{tmp_path}/new/folder/catalog.db")) as catalog:
            catalog.migrate()
            catalog.ensure_function("default", "hello", must_be_new=True)
            files = list((tmp_path / "new" / "folder").iterdir())
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}
    finally:
        os.umask(before)
    assert set(modes) == {f"catalog.db{end}" for end in ("", "-wal", "-shm", ".lock")}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "new" / "folder").stat().st_mode) == 0o700


def test_an_sqlite_catalog_is_durable_and_keeps_its_references(tmp_path: Path) -> None:
    with closing(Catalog(f"sqlite:///{tmp_path}/catalog.db")) as catalog:
        catalog.migrate()
        with catalog.database.read() as tx:
            found = {
                name: tx.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,  # FULL
        "foreign_keys": 1,
        "busy_timeout": 10_000,
    }


def test_a_place_that_cannot_be_written_is_a_part_away(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for place in (tmp_path / "file" / "catalog.db", Path("/proc/catalog.db")):
        with closing(Catalog(f"sqlite:///{place}")) as catalog, pytest.raises(PartAway):
            catalog.migrate()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "catalog.db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:////tmp/x.db?mode=ro",
        "mysql://root@localhost/x",
        "postgresql+asyncpg://localhost/x",
        "postgresql://host:port/x",
    ],
)
def test_other_databases_are_refused_by_name_of_the_setting(url: str) -> None:
    with pytest.raises(SettingsInvalid, match="HEARTH_DATABASE_URL"):
        Catalog(url)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_is_known_by_each_of_its_schemes(
    postgres_server: PostgresServer, postgres_template: str, scheme: str
) -> None:
    url = postgres_server.url(postgres_template).replace("postgresql", scheme, 1)
    with closing(Catalog(url)) as catalog:
        catalog.ping()


def test_what_a_process_at_rest_does_not_need_is_not_loaded(url: str) -> None:
    script = """
import sys
from catalog.catalog import Catalog
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"alembic", "mako", "psycopg"}, loaded
assert "sqlalchemy.orm" not in sys.modules
catalog = Catalog(sys.argv[1])
catalog.migrate()
catalog.snapshot()
catalog.close()
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"alembic", "mako"}, loaded
"""
    command = [sys.executable, "-W", "error", "-c", script, url]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_a_process_of_its_own_can_migrate(empty_url: str) -> None:
    command = [sys.executable, "-W", "error", "-m", "catalog.migrate"]
    environment = {**os.environ, "HEARTH_DATABASE_URL": empty_url}
    for _ in range(2):
        subprocess.run(command, env=environment, check=True)
    with closing(Catalog(empty_url)) as catalog:
        assert catalog.generation() == 0
