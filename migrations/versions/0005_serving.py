"""Add the release that a replica failed to load.

Revision 0005, revises 0004. Processes of the previous version can serve while and after this
migration runs: every new column allows NULL, and no column is renamed or removed.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_NEW_COLUMNS = (("replicas", sa.Column("failed_release", sa.String(40))),)


def upgrade() -> None:
    for table, column in _NEW_COLUMNS:
        op.add_column(table, column)


def downgrade() -> None:
    for table, column in reversed(_NEW_COLUMNS):
        op.drop_column(table, column.name)
