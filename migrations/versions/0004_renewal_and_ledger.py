"""Add the assurance of requests, the drift of releases, and the position in the erasure ledger.

Revision 0004, revises 0003. Processes of the previous version can serve while and after this
migration runs: every new column has a default or allows NULL, and no column is renamed or removed.
"""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_INSTANT: sa.Double[float] = sa.Double()
_NEW_COLUMNS = (
    ("requests", sa.Column("assurance", sa.String(16), nullable=False, server_default="none")),
    ("requests", sa.Column("exact_due_at", _INSTANT)),
    ("requests", sa.Column("exact_at", _INSTANT)),
    ("requests", sa.Column("exact_job_id", sa.String(40))),
    ("requests", sa.Column("restored", sa.Boolean(), nullable=False, server_default=sa.false())),
    ("requests", sa.Column("recovered", sa.JSON())),
    ("releases", sa.Column("training_seconds", sa.Double())),
    ("releases", sa.Column("training_rows", sa.BigInteger())),
    (
        "releases",
        sa.Column("forgotten_rows", sa.BigInteger(), nullable=False, server_default="0"),
    ),
    ("releases", sa.Column("drift", sa.JSON())),
    ("state", sa.Column("ledger_number", sa.BigInteger())),
    ("state", sa.Column("ledger_digest", sa.String(64))),
    ("state", sa.Column("ledger_checkpoint", sa.BigInteger())),
    ("state", sa.Column("restoring", sa.BigInteger(), nullable=False, server_default="0")),
)
_NEW_INDEXES = (
    ("ix_requests_assurance_exact_due_at", "requests", ["assurance", "exact_due_at"]),
    ("ix_requests_assurance_completed_at", "requests", ["assurance", "completed_at"]),
    ("ix_jobs_kind_created_at", "jobs", ["kind", "created_at"]),
    ("ix_releases_outcome_live_at", "releases", ["outcome", "live_at"]),
)
#: The promise for requests from before this migration, in seconds: 30 days from now.
_EXACT_SECONDS = 30 * 86_400.0


def upgrade() -> None:
    for table, column in _NEW_COLUMNS:
        op.add_column(table, column)
    for name, table, columns in _NEW_INDEXES:
        op.create_index(name, table, columns)
    op.create_index(
        "ix_requests_restored",
        "requests",
        ["assurance"],
        sqlite_where=sa.text("restored = 1"),
        postgresql_where=sa.text("restored"),
    )
    _mark_approximate()


def downgrade() -> None:
    op.drop_index("ix_requests_restored", "requests")
    for name, table, _columns in reversed(_NEW_INDEXES):
        op.drop_index(name, table)
    for table, column in reversed(_NEW_COLUMNS):
        op.drop_column(table, column.name)


def _mark_approximate() -> None:
    """Mark completed deletions as approximate, because earlier versions did not record more.

    Exact retraining of earlier versions kept time bounds that were chosen with the erased rows.
    Only a deletion before the first release is exact: no weights existed.
    """
    op.execute(
        "UPDATE requests SET assurance = 'exact', exact_at = completed_at "
        "WHERE status = 'completed' AND release IS NULL"
    )
    op.execute(
        "UPDATE requests SET assurance = 'approximate' "
        "WHERE status = 'completed' AND release IS NOT NULL"
    )
    due = sa.text("UPDATE requests SET exact_due_at = :due WHERE status = 'completed'")
    op.execute(due.bindparams(due=time.time() + _EXACT_SECONDS))
    still_open = sa.text(
        "UPDATE requests SET exact_due_at = created_at + :seconds WHERE status <> 'completed'"
    )
    op.execute(still_open.bindparams(seconds=_EXACT_SECONDS))
