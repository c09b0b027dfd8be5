"""Add the record of training, certificates, signing keys, job claims and owed erasures.

Revision 0003, revises 0002. Processes of the previous version can serve while and after this
migration runs: every new column has a default, and no column is renamed or removed.
"""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_INSTANT: sa.Double[float] = sa.Double()
_NEW_COLUMNS = (
    ("users", sa.Column("holdout", sa.Boolean(), nullable=False, server_default=sa.false())),
    ("items", sa.Column("origin", sa.String(8))),
    (
        "interactions",
        sa.Column("first_version", sa.BigInteger(), nullable=False, server_default="0"),
    ),
    (
        "interactions",
        sa.Column("last_version", sa.BigInteger(), nullable=False, server_default="0"),
    ),
    ("requests", sa.Column("retry_group", sa.String(64))),
    ("requests", sa.Column("last_failure", sa.String(200))),
    ("requests", sa.Column("failed_at", _INSTANT)),
    ("requests", sa.Column("retry_at", _INSTANT)),
    ("requests", sa.Column("rows_deleted", sa.JSON())),
    ("replicas", sa.Column("serving_since", _INSTANT)),
    ("replicas", sa.Column("precision", sa.String(16))),
    ("replicas", sa.Column("software", sa.String(32))),
    ("state", sa.Column("id_rule", sa.String(8))),
)
_NEW_TABLES = ("scrub_owed", "signing_keys", "certificates", "request_jobs", "job_claims")


def upgrade() -> None:
    for table, column in _NEW_COLUMNS:
        op.add_column(table, column)
    if op.get_bind().dialect.name == "postgresql":
        # Existing rows keep 0. Rows that a gateway of the previous version inserts get -1: their
        # versions are unknown. SQLite has no such gateways, because one machine upgrades at once.
        for name in ("first_version", "last_version"):
            op.alter_column("interactions", name, server_default="-1")
    _create_tables()
    _copy_evidence()
    _clear_identifiers()


def downgrade() -> None:
    for table in _NEW_TABLES:
        op.drop_table(table)
    for table, column in reversed(_NEW_COLUMNS):
        op.drop_column(table, column.name)


def _create_tables() -> None:
    op.create_table(
        "job_claims",
        sa.Column("job_id", sa.String(40), nullable=False),
        sa.Column("epoch", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("host", _TEXT, nullable=False),
        sa.Column("started_at", _INSTANT, nullable=False),
        sa.Column("ended_at", _INSTANT),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_claims_job_id"),
        sa.PrimaryKeyConstraint("job_id", "epoch", name="pk_job_claims"),
    )
    op.create_table(
        "request_jobs",
        sa.Column("request_id", sa.String(40), nullable=False),
        sa.Column("job_id", sa.String(40), nullable=False),
        sa.Column("outcome", sa.String(16)),
        sa.Column("figures", sa.JSON()),
        sa.ForeignKeyConstraint(["request_id"], ["requests.id"], name="fk_request_jobs_request_id"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_request_jobs_job_id"),
        sa.PrimaryKeyConstraint("request_id", "job_id", name="pk_request_jobs"),
    )
    op.create_index("ix_request_jobs_job_id", "request_jobs", ["job_id"])
    op.create_table(
        "certificates",
        sa.Column("request_id", sa.String(40), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("envelope", sa.JSON(), nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["request_id"], ["requests.id"], name="fk_certificates_request_id"),
        sa.PrimaryKeyConstraint("request_id", "number", name="pk_certificates"),
    )
    op.create_table(
        "signing_keys",
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("public_pem", _TEXT, nullable=False),
        sa.Column("valid_from", _INSTANT, nullable=False),
        sa.Column("retired_at", _INSTANT),
        sa.PrimaryKeyConstraint("key_id", name="pk_signing_keys"),
    )
    op.create_table(
        "scrub_owed",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("job_id", sa.String(40)),
        sa.Column("host", _TEXT),
        sa.Column("path", _TEXT),
        sa.Column("transaction_id", sa.BigInteger()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", _TEXT),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("closed_at", _INSTANT),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_scrub_owed_job_id"),
        sa.PrimaryKeyConstraint("id", name="pk_scrub_owed"),
    )
    op.create_index("ix_scrub_owed_job_id", "scrub_owed", ["job_id"])


def _copy_evidence() -> None:
    """Copy certificates into their table, and the last job of each request into `request_jobs`."""
    op.execute(
        "INSERT INTO certificates (request_id, number, kind, envelope, created_at) "
        "SELECT id, 1, 'deletion', certificate, completed_at FROM requests "
        "WHERE status = 'completed' AND certificate IS NOT NULL AND completed_at IS NOT NULL"
    )
    op.execute(
        "INSERT INTO request_jobs (request_id, job_id, outcome) "
        "SELECT id, job_id, outcome FROM requests WHERE job_id IS NOT NULL"
    )


def _clear_identifiers() -> None:
    """Clear the ids of cancelled and completed requests, which need no ids any more."""
    op.execute(
        "UPDATE requests SET user_id = NULL, item_ids = NULL "
        "WHERE status IN ('cancelled', 'completed')"
    )
    # The old versions of those rows must be erased from the files: the sweepers do it.
    owed = sa.table("scrub_owed", sa.column("kind"), sa.column("attempts"), sa.column("created_at"))
    op.bulk_insert(owed, [{"kind": "database", "attempts": 0, "created_at": time.time()}])
