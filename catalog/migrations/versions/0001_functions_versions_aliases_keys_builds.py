"""The first tables. Written out, not taken from catalog/tables.py, which moves on."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.String(64)
_WORD = sa.String(16)
_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """From nothing."""
    state = op.create_table(
        "catalog_state",
        sa.Column("id", sa.Integer, autoincrement=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_catalog_state"),
    )
    op.bulk_insert(state, [{"id": 1, "generation": 0}])
    _functions()
    _versions()
    _aliases()
    _keys()
    _builds()


def _functions() -> None:
    op.create_table(
        "functions",
        sa.Column("id", _ID, nullable=False),
        sa.Column("namespace", _NAME, nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("last_number", sa.Integer, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_functions"),
        sa.UniqueConstraint("namespace", "name", name="uq_functions_namespace_name"),
    )


def _versions() -> None:
    op.create_table(
        "versions",
        sa.Column("id", _ID, nullable=False),
        sa.Column("function_id", _ID, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("archive_digest", sa.String(64), nullable=False),
        sa.Column("archive_bytes", sa.BigInteger, nullable=False),
        sa.Column("layers", sa.Text, nullable=False),
        sa.Column("status", _WORD, nullable=False),
        sa.Column("error", sa.Text, nullable=True),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_versions"),
        sa.UniqueConstraint("function_id", "number", name="uq_versions_function_id_number"),
        sa.ForeignKeyConstraint(
            ["function_id"],
            ["functions.id"],
            name="fk_versions_function_id_functions",
            ondelete="CASCADE",
        ),
    )


def _aliases() -> None:
    op.create_table(
        "aliases",
        sa.Column("function_id", _ID, nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("weights", sa.Text, nullable=False),
        sa.Column("newest", sa.Integer, nullable=False),
        sa.Column("before", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("function_id", "name", name="pk_aliases"),
        sa.ForeignKeyConstraint(
            ["function_id"],
            ["functions.id"],
            name="fk_aliases_function_id_functions",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["function_id", "version"],
            ["versions.function_id", "versions.number"],
            name="fk_aliases_function_id_version_versions",
            deferrable=True,
            initially="DEFERRED",
        ),
    )


def _keys() -> None:
    op.create_table(
        "keys",
        sa.Column("id", _ID, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("role", _WORD, nullable=False),
        sa.Column("namespace", _NAME, nullable=False),
        sa.Column("functions", sa.Text, nullable=False),
        sa.Column("expires_at", _MOMENT, nullable=True),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
        sa.UniqueConstraint("digest", name="uq_keys_digest"),
    )


def _builds() -> None:
    op.create_table(
        "builds",
        sa.Column("version_id", _ID, nullable=False),
        sa.Column("status", _WORD, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("builder", sa.Text, nullable=True),
        sa.Column("heartbeat_at", _MOMENT, nullable=True),
        sa.Column("log", sa.Text, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("finished_at", _MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("version_id", name="pk_builds"),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["versions.id"],
            name="fk_builds_version_id_versions",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_builds_status", "builds", ["status"])
