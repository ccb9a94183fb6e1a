"""The tables as they are now. How a database gets there is told in catalog/migrations."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, in and out as an aware UTC datetime. SQLite keeps it as text that sorts."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuses naive datetimes: they would mean another moment on another machine."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment needs a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """What was stored, in UTC."""
        if value is None:
            return None
        if dialect.name == "sqlite":
            return value.replace(tzinfo=UTC)
        return value.astimezone(UTC)


# Names compare and sort by bytes on every database, not by the locale of the PostgreSQL cluster.
_Name = Text().with_variant(Text(collation="C"), "postgresql")

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

# One row. Its update is the last statement of a write, so the row's lock orders the commits and a
# reader of generation n sees everything up to n.
state = Table(
    "catalog_state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("generation", BigInteger, nullable=False),
)

functions = Table(
    "functions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("namespace", _Name, nullable=False),
    Column("name", _Name, nullable=False),
    # Counts on after a deletion, so a number once given never means another version.
    Column("last_number", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("namespace", "name"),
)

versions = Table(
    "versions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column(
        "function_id",
        String(64),
        ForeignKey("functions.id", ondelete="CASCADE"),
        nullable=False,
    ),
    Column("number", Integer, nullable=False),
    # JSON is kept as text: PostgreSQL's JSON type refuses \u0000, which an env may hold.
    Column("config", Text, nullable=False),
    Column("archive_digest", String(64), nullable=False),
    Column("archive_bytes", BigInteger, nullable=False),
    Column("layers", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("error", Text, nullable=True),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("function_id", "number"),
)

aliases = Table(
    "aliases",
    metadata,
    Column(
        "function_id",
        String(64),
        ForeignKey("functions.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("name", _Name, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("weights", Text, nullable=False),
    # The highest version it ever pointed at: what `latest` compares a finished build with.
    Column("newest", Integer, nullable=False),
    # Where it pointed before, oldest first: what a rollback takes from.
    Column("before", Text, nullable=False),
    # Deferred, so that deleting a function may cascade to both tables in either order.
    ForeignKeyConstraint(
        ["function_id", "version"],
        ["versions.function_id", "versions.number"],
        deferrable=True,
        initially="DEFERRED",
    ),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("namespace", _Name, nullable=False),
    Column("functions", Text, nullable=False),
    Column("expires_at", UtcDateTime, nullable=True),
    Column("created_at", UtcDateTime, nullable=False),
)

builds = Table(
    "builds",
    metadata,
    Column(
        "version_id",
        String(64),
        ForeignKey("versions.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("status", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("builder", Text, nullable=True),
    Column("heartbeat_at", UtcDateTime, nullable=True),
    Column("log", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime, nullable=True),
    Index(None, "status"),
)
