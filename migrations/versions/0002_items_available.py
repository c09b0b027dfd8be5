"""Items may be off the shelf: held, rated, and never recommended.

Revision: 0002, revises 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The default fills the rows that are there: whatever was held until now was recommended.
    op.add_column(
        "items", sa.Column("available", sa.Boolean(), nullable=False, server_default=sa.true())
    )


def downgrade() -> None:
    op.drop_column("items", "available")
