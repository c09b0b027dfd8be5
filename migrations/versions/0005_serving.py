"""Widen data versions to 64 bits, and add what replicas report and what polls search by.

Revision 0005, revises 0004. Processes of the previous version can serve while and after this
migration runs: every new column allows NULL, and no column is renamed or removed. Their sessions of
PostgreSQL are ended once, because statements that they have prepared fail after the change of type.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from app.storage.migrate import lock_tables

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

#: Integers of SQLite have 64 bits under any name.
_VERSION = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NEW_COLUMNS = (
    ("replicas", sa.Column("failed_release", sa.String(40))),
    ("replicas", sa.Column("data_version", _VERSION)),
)
#: Name, table, column, condition.
_NEW_INDEXES = (
    ("ix_jobs_status", "jobs", "status", None),
    ("ix_scrub_owed_open", "scrub_owed", "closed_at", "closed_at IS NULL"),
    ("ix_job_claims_unended", "job_claims", "ended_at", "ended_at IS NULL"),
)
_WIDENED = (
    ("state", "data_version"),
    ("requests", "completed_version"),
    ("jobs", "frozen_version"),
)
#: Entries of the change log that are kept. Replicas lag behind by far fewer, and a replica whose
#: next entry is missing reads all data again.
_KEPT_ENTRIES = 100_000


def upgrade() -> None:
    for table, column in _NEW_COLUMNS:
        op.add_column(table, column)
    for name, table, column_name, condition in _NEW_INDEXES:
        where = None if condition is None else sa.text(condition)
        op.create_index(name, table, [column_name], sqlite_where=where, postgresql_where=where)
    if op.get_bind().dialect.name == "postgresql":
        lock_tables(op.get_bind(), "state", "data_changes", "requests", "jobs")
        _end_other_sessions()
        for table, name in _WIDENED:
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {name} TYPE bigint")
        _replace_change_log()


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        _end_other_sessions()
        for table, name in (*_WIDENED, ("data_changes", "version")):
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {name} TYPE integer")
    for name, table, _column_name, _condition in reversed(_NEW_INDEXES):
        op.drop_index(name, table)
    for table, column in reversed(_NEW_COLUMNS):
        op.drop_column(table, column.name)


def _end_other_sessions() -> None:
    """End the other sessions of Lethe; they connect again and wait for the migration.

    A session that waits for the advisory lock migrates next. It has prepared no statement.
    """
    op.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND usename = current_user "
        "AND application_name = 'lethe' AND pid <> pg_backend_pid() "
        "AND wait_event IS DISTINCT FROM 'advisory'"
    )


def _replace_change_log() -> None:
    """Copy the newest entries into a table with wide versions, and drop the old table.

    A rewrite in place would take minutes for a log that was never pruned, under a lock that blocks
    every change of data.
    """
    op.execute(
        "CREATE TABLE new_data_changes (version bigint NOT NULL, kind varchar(16) NOT NULL,"
        ' user_id text COLLATE "C")'
    )
    # As in migration 0003: statistics would quote ids of users.
    op.execute("ALTER TABLE new_data_changes ALTER COLUMN user_id SET STATISTICS 0")
    op.execute(
        sa.text(
            "INSERT INTO new_data_changes SELECT version, kind, user_id FROM data_changes"
            " ORDER BY version DESC LIMIT :kept"
        ).bindparams(kept=_KEPT_ENTRIES)
    )
    op.drop_table("data_changes")
    op.rename_table("new_data_changes", "data_changes")
    op.create_primary_key("pk_data_changes", "data_changes", ["version"])
    op.create_index("ix_data_changes_user_id", "data_changes", ["user_id"])
