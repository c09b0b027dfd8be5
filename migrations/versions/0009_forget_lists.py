"""Record lists of deletions, with one outcome per row.

Revision 0009, revises 0008. Two new tables: processes of the previous version do not use them, and
no existing table is locked.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "forget_lists",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("recorded_at", sa.Double()),
        sa.Column("key_hash", sa.String(64)),
        sa.Column("content_hash", sa.String(64)),
        sa.PrimaryKeyConstraint("id", name="pk_forget_lists"),
        sa.UniqueConstraint("key_hash", name="uq_forget_lists_key_hash"),
    )
    op.create_table(
        "forget_list_results",
        sa.Column("list_id", sa.String(40), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("request_id", sa.String(40)),
        sa.Column("detail", sa.String(200)),
        sa.PrimaryKeyConstraint("list_id", "row", name="pk_forget_list_results"),
        sa.ForeignKeyConstraint(
            ["list_id"], ["forget_lists.id"], name="fk_forget_list_results_list_id"
        ),
    )


def downgrade() -> None:
    op.drop_table("forget_list_results")
    op.drop_table("forget_lists")
