"""Add the column items.available, false for withdrawn items.

Revision 0002, revises 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # All existing items were recommended, so the default fills their rows with true.
    op.add_column(
        "items", sa.Column("available", sa.Boolean(), nullable=False, server_default=sa.true())
    )


def downgrade() -> None:
    op.drop_column("items", "available")
