"""${message}."""

from alembic import op
import sqlalchemy as sa
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Safe while processes of the release before still run: add, fill, and drop a release later."""
    ${upgrades if upgrades else "pass"}
