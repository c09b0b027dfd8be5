"""Record whose data a deletion request is about, and index what lists of requests search by.

Revision 0007, revises 0006. Processes of the previous version can serve while and after this
migration runs: the new column allows NULL, and an index with the same first column replaces the
dropped one. PostgreSQL blocks readers of `requests` while it builds the indexes, which takes about
a second for 100,000 requests.

Requests from before this migration have no hash of the user. A list for a user shows those that are
open, and those that are completed and about all data of the user, but none that was cancelled.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from app.storage.migrate import lock_tables

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_NEW_INDEXES = (
    ("ix_requests_status_id", ["status", "id"]),
    ("ix_requests_assurance_id", ["assurance", "id"]),
    ("ix_requests_user_hash_id", ["user_hash", "id"]),
    ("ix_requests_created_at", ["created_at"]),
)


def upgrade() -> None:
    _lock()
    op.add_column("requests", sa.Column("user_hash", sa.String(64)))
    for name, columns in _NEW_INDEXES:
        op.create_index(name, "requests", columns)
    op.drop_index("ix_requests_status", "requests")


def downgrade() -> None:
    _lock()
    op.create_index("ix_requests_status", "requests", ["status"])
    for name, _columns in reversed(_NEW_INDEXES):
        op.drop_index(name, "requests")
    op.drop_column("requests", "user_hash")


def _lock() -> None:
    """Lock `requests` once, without stopping other processes behind a long read."""
    if op.get_bind().dialect.name == "postgresql":
        lock_tables(op.get_bind(), "requests")
