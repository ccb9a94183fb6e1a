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


@pytest.fixture
def url(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A migrated database of this test's own."""
    if backend == "sqlite":
        template: Path = request.getfixturevalue("sqlite_template")
        shutil.copy(template, tmp_path / "catalog.db")
        yield f"sqlite:///{tmp_path}/catalog.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    with server.database(like=request.getfixturevalue("postgres_template")) as name:
        yield server.url(name)


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    """An empty catalog."""
    with closing(Catalog(url)) as catalog:
        yield catalog


@pytest.fixture
def hello(catalog: Catalog) -> Function:
    """A function without versions."""
    return catalog.ensure_function("default", "hello", must_be_new=True)
