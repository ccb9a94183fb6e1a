"""Every test of this folder that asks for `catalog` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from catalog.catalog import Catalog
from core.model import Function
from tests.fixtures.postgres import PostgresServer

BACKENDS = ("sqlite", "postgresql")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Which database."""
    return str(request.param)


@pytest.fixture
def empty_url(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database without tables."""
    if backend == "sqlite":
        yield f"sqlite:///{tmp_path}/catalog.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    with server.database() as name:
        yield server.url(name)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy."""
    path = tmp_path_factory.mktemp("template") / "catalog.db"
    with closing(Catalog(f"sqlite:///{path}")) as catalog:
        catalog.migrate()
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> Iterator[str]:
    """A migrated PostgreSQL database to copy."""
    with postgres_server.database() as name:
        with closing(Catalog(postgres_server.url(name))) as catalog:
            catalog.migrate()
        yield name


@pytest.fixture(scope="session")
def postgres_shared(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    """One database for all tests that leave its tables as they are: emptying it is 15 times
    faster than making one."""
    with postgres_server.database(like=postgres_template) as name:
        yield name


@pytest.fixture
def own_url(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A migrated database whose tables the test may change."""
    if backend == "sqlite":
        template: Path = request.getfixturevalue("sqlite_template")
        shutil.copy(template, tmp_path / "catalog.db")
        yield f"sqlite:///{tmp_path}/catalog.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    with server.database(like=request.getfixturevalue("postgres_template")) as name:
        yield server.url(name)


@pytest.fixture
def url(backend: str, request: pytest.FixtureRequest) -> str:
    """An empty database with its tables."""
    if backend == "sqlite":
        return str(request.getfixturevalue("own_url"))
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name: str = request.getfixturevalue("postgres_shared")
    server.execute(
        "DELETE FROM functions; DELETE FROM keys; UPDATE catalog_state SET generation = 0", name
    )
    return server.url(name)


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    """An empty catalog."""
    with closing(Catalog(url)) as catalog:
        yield catalog


@pytest.fixture
def own_catalog(own_url: str) -> Iterator[Catalog]:
    """An empty catalog whose tables the test may change."""
    with closing(Catalog(own_url)) as catalog:
        yield catalog


@pytest.fixture
def hello(catalog: Catalog) -> Function:
    """A function without versions."""
    return catalog.ensure_function("default", "hello", must_be_new=True)
