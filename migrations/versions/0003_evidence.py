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
    ("replicas", sa.Column("scorer", sa.String(16))),
    ("state", sa.Column("id_rule", sa.String(8))),
)
#: The text columns with ids and titles in clear.
_ID_COLUMNS = (
    ("users", "id"),
    ("items", "id"),
    ("items", "title"),
    ("interactions", "user_id"),
    ("interactions", "item_id"),
    ("requests", "user_id"),
    ("data_changes", "user_id"),
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
        _mark_updates_of_earlier_versions()
        _keep_no_statistics()
    _create_tables()
    _copy_evidence()
    _clear_identifiers()


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table, name in _ID_COLUMNS:
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {name} SET STATISTICS -1")
        op.execute("DROP TRIGGER unknown_version ON interactions")
        op.execute("DROP FUNCTION lethe_unknown_version()")
    for table in _NEW_TABLES:
        op.drop_table(table)
    for table, column in reversed(_NEW_COLUMNS):
        op.drop_column(table, column.name)


def _mark_updates_of_earlier_versions() -> None:
    """Set `last_version` to -1, unknown, where a write changes a value and no version.

    Processes of this version change both, so only gateways of the previous version run the
    function.
    """
    op.execute(
        "CREATE FUNCTION lethe_unknown_version() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.last_version := -1; RETURN NEW; END $$"
    )
    op.execute(
        "CREATE TRIGGER unknown_version BEFORE UPDATE ON interactions FOR EACH ROW WHEN ("
        "(OLD.rating, OLD.timestamp) IS DISTINCT FROM (NEW.rating, NEW.timestamp) "
        "AND OLD.last_version = NEW.last_version) EXECUTE FUNCTION lethe_unknown_version()"
    )


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


def _keep_no_statistics() -> None:
    """Remove PostgreSQL's statistics of ids and titles, and collect none from now on.

    Statistics quote frequent values, and ANALYZE of an emptied table keeps the old ones. Setting a
    column to its own type removes them without a rewrite. Unique indexes tell the planner enough.
    """
    for table, name in _ID_COLUMNS:
        op.execute(
            f"ALTER TABLE {table} ALTER COLUMN {name} SET STATISTICS 0, "
            f'ALTER COLUMN {name} TYPE text COLLATE "C"'
        )


def _clear_identifiers() -> None:
    """Clear the ids of persons and items whose deletion has completed, wherever rows had them."""
    op.execute(
        "UPDATE requests SET user_id = NULL, item_ids = NULL "
        "WHERE status IN ('cancelled', 'completed')"
    )
    # PostgreSQL reads all users for each row if many users are in a NOT IN.
    op.execute(
        "UPDATE data_changes SET user_id = NULL WHERE user_id IS NOT NULL "
        "AND NOT EXISTS (SELECT 1 FROM users WHERE users.id = data_changes.user_id)"
    )
    # Errors of earlier versions with these texts quote ids.
    errors = sa.text("UPDATE jobs SET error = stage WHERE error LIKE :text")
    for text in ("The catalog does not have", "Data for deleted ids", "has no interaction with"):
        op.execute(errors.bindparams(text=f"%{text}%"))
    _strip_deleted_items()
    query = sa.text("SELECT EXISTS (SELECT 1 FROM users) OR EXISTS (SELECT 1 FROM requests)")
    if not op.get_bind().execute(query).scalar_one():
        return
    # The old versions of those rows must be erased from the files: the sweepers do it.
    owed = sa.table(
        "scrub_owed",
        sa.column("kind"),
        sa.column("attempts"),
        sa.column("created_at"),
        sa.column("transaction_id"),
    )
    transaction_id = None
    if op.get_bind().dialect.name == "postgresql":
        query = sa.text("SELECT pg_current_xact_id()::text::bigint")
        transaction_id = op.get_bind().execute(query).scalar_one()
    row = {"kind": "database", "attempts": 0, "created_at": time.time()}
    op.bulk_insert(owed, [row | {"transaction_id": transaction_id}])


def _strip_deleted_items() -> None:
    """Remove deleted items from the requests of users that are still open."""
    requests = sa.table(
        "requests", sa.column("id"), sa.column("scope"), sa.column("item_ids", sa.JSON())
    )
    items = sa.table("items", sa.column("id"))
    connection = op.get_bind()
    query = sa.select(requests.c.id, requests.c.item_ids).where(requests.c.scope == "user_items")
    for request_id, item_ids in connection.execute(query).all():
        if not item_ids:
            continue
        known = set(
            connection.execute(sa.select(items.c.id).where(items.c.id.in_(item_ids))).scalars()
        )
        if known.issuperset(item_ids):
            continue
        connection.execute(
            sa.update(requests)
            .where(requests.c.id == request_id)
            .values(item_ids=[item_id for item_id in item_ids if item_id in known])
        )
