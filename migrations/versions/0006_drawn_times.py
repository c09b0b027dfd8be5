"""Record how ratings without timestamps got their times.

Revision 0006, revises 0005. The new column allows NULL, so processes of the previous version can
serve while and after this migration runs.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from app.storage.migrate import lock_tables

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _lock()
    op.add_column("state", sa.Column("drawn_times", sa.String(8)))


def downgrade() -> None:
    _lock()
    with op.batch_alter_table("state") as batch:
        batch.drop_column("drawn_times")


def _lock() -> None:
    """Lock `state`, which every request reads, without stopping the requests behind a long read."""
    if op.get_bind().dialect.name == "postgresql":
        lock_tables(op.get_bind(), "state")
