"""Record who requested a deletion, why, and under which ticket.

Revision 0008, revises 0007. Processes of the previous version can serve while and after this
migration runs: every new column has a default or allows NULL. The new indexes hold no value yet, so
that PostgreSQL builds them in a fraction of a second.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from app.storage.migrate import lock_tables

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

#: Sorted by code point, as in `app/storage/tables.py`.
_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_NEW_COLUMNS = (
    ("requests", sa.Column("requested_by", _TEXT)),
    (
        "requests",
        sa.Column("reason", sa.String(24), nullable=False, server_default="user_request"),
    ),
    ("requests", sa.Column("reference", _TEXT)),
    ("idempotency_keys", sa.Column("options_hash", sa.String(64))),
)
_NEW_INDEXES = (
    ("ix_requests_requested_by_id", ["requested_by", "id"]),
    ("ix_requests_reference_id", ["reference", "id"]),
)


def upgrade() -> None:
    _lock()
    for table, column in _NEW_COLUMNS:
        op.add_column(table, column)
    for name, columns in _NEW_INDEXES:
        op.create_index(name, "requests", columns)


def downgrade() -> None:
    _lock()
    for name, _columns in reversed(_NEW_INDEXES):
        op.drop_index(name, "requests")
    for table, column in reversed(_NEW_COLUMNS):
        op.drop_column(table, column.name)


def _lock() -> None:
    """Lock the tables once, without stopping other processes behind a long read."""
    if op.get_bind().dialect.name == "postgresql":
        lock_tables(op.get_bind(), "requests", "idempotency_keys")
