"""The first schema.

Revision 0001, the first. The types are written out here and not imported from the tables, so that
later changes of the tables do not change this revision.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_INSTANT: sa.Double[float] = sa.Double()
_JSON = sa.JSON()
_IS_OPEN = sa.text("status IN ('auditing', 'publishing', 'queued', 'rolling_out', 'running')")


def upgrade() -> None:
    _create_people()
    _create_state()
    _create_jobs()
    _create_releases()
    _create_requests()
    _create_subjects()
    _create_processes()
    _seed()


def downgrade() -> None:
    for table in (
        "outbox",
        "workers",
        "replicas",
        "idempotency_keys",
        "suppressions",
        "requests",
        "aliases",
        "releases",
        "jobs",
        "data_changes",
        "state",
        "interactions",
        "items",
        "users",
    ):
        op.drop_table(table)


def _seed() -> None:
    """Make the two rows that everything else only updates."""
    state = sa.table("state", sa.column("id"), sa.column("data_version"))
    op.bulk_insert(state, [{"id": 1, "data_version": 0}])
    aliases = sa.table("aliases", sa.column("name"), sa.column("generation"))
    op.bulk_insert(aliases, [{"name": "live", "generation": 0}])


def _create_people() -> None:
    op.create_table(
        "users",
        sa.Column("id", _TEXT, nullable=False),
        sa.Column("attributes", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
    )
    op.create_table(
        "items",
        sa.Column("id", _TEXT, nullable=False),
        sa.Column("title", _TEXT, nullable=False),
        sa.Column("attributes", _JSON, nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("retired", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_items"),
        sa.UniqueConstraint("slot", name="uq_items_slot"),
    )
    op.create_table(
        "interactions",
        sa.Column("user_id", _TEXT, nullable=False),
        sa.Column("item_id", _TEXT, nullable=False),
        sa.Column("rating", sa.Double(), nullable=False),
        sa.Column("timestamp", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name="fk_interactions_item_id"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_interactions_user_id"),
        sa.PrimaryKeyConstraint("user_id", "item_id", name="pk_interactions"),
    )
    op.create_index("ix_interactions_item_id", "interactions", ["item_id"])


def _create_state() -> None:
    op.create_table(
        "state",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("data_version", sa.Integer(), nullable=False),
        sa.Column("key_fingerprint", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_state"),
    )
    op.create_table(
        "data_changes",
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("user_id", _TEXT, nullable=True),
        sa.PrimaryKeyConstraint("version", name="pk_data_changes"),
    )
    op.create_index("ix_data_changes_user_id", "data_changes", ["user_id"])


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("model", sa.String(length=16), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("method", sa.String(length=32), nullable=False),
        sa.Column("stage", sa.String(length=16), nullable=False),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("lease_owner", _TEXT, nullable=True),
        sa.Column("lease_expires_at", _INSTANT, nullable=True),
        sa.Column("available_at", _INSTANT, nullable=False),
        sa.Column("parent_release", sa.String(length=40), nullable=True),
        sa.Column("release", sa.String(length=40), nullable=True),
        sa.Column("settings", _JSON, nullable=False),
        sa.Column("metrics", _JSON, nullable=False),
        sa.Column("error", _TEXT, nullable=True),
        sa.Column("frozen_version", sa.Integer(), nullable=True),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("started_at", _INSTANT, nullable=True),
        sa.Column("finished_at", _INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index(
        "one_open_job_per_model",
        "jobs",
        ["model"],
        unique=True,
        sqlite_where=_IS_OPEN,
        postgresql_where=_IS_OPEN,
    )


def _create_releases() -> None:
    op.create_table(
        "releases",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("parent", sa.String(length=40), nullable=True),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("method", sa.String(length=32), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("path", _TEXT, nullable=False),
        sa.Column("metrics", _JSON, nullable=False),
        sa.Column("error_budget_spent", sa.Integer(), nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("live_at", _INSTANT, nullable=True),
        sa.Column("shredded_at", _INSTANT, nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_releases_job_id"),
        sa.ForeignKeyConstraint(["parent"], ["releases.id"], name="fk_releases_parent"),
        sa.PrimaryKeyConstraint("id", name="pk_releases"),
        sa.UniqueConstraint("digest", name="uq_releases_digest"),
    )
    op.create_index("ix_releases_job_id", "releases", ["job_id"])
    op.create_table(
        "aliases",
        sa.Column("name", sa.String(length=16), nullable=False),
        sa.Column("live", sa.String(length=40), nullable=True),
        sa.Column("target", sa.String(length=40), nullable=True),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["live"], ["releases.id"], name="fk_aliases_live"),
        sa.ForeignKeyConstraint(["target"], ["releases.id"], name="fk_aliases_target"),
        sa.PrimaryKeyConstraint("name", name="pk_aliases"),
    )


def _create_requests() -> None:
    op.create_table(
        "requests",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("scope", sa.String(length=16), nullable=False),
        sa.Column("user_id", _TEXT, nullable=True),
        sa.Column("item_ids", _JSON, nullable=True),
        sa.Column("subject_hashes", _JSON, nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("due_at", _INSTANT, nullable=False),
        sa.Column("cancellable_until", _INSTANT, nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("release", sa.String(length=40), nullable=True),
        sa.Column("completed_at", _INSTANT, nullable=True),
        sa.Column("completed_version", sa.Integer(), nullable=True),
        sa.Column("certificate", _JSON, nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_requests_job_id"),
        sa.ForeignKeyConstraint(["release"], ["releases.id"], name="fk_requests_release"),
        sa.PrimaryKeyConstraint("id", name="pk_requests"),
    )
    op.create_index("ix_requests_job_id", "requests", ["job_id"])
    op.create_index("ix_requests_status", "requests", ["status"])
    op.create_index("ix_requests_user_id", "requests", ["user_id"])


def _create_subjects() -> None:
    op.create_table(
        "suppressions",
        sa.Column("subject_hash", sa.String(length=64), nullable=False),
        sa.Column("request_id", sa.String(length=40), nullable=False),
        sa.Column("scope", sa.String(length=16), nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("lifted_at", _INSTANT, nullable=True),
        sa.ForeignKeyConstraint(["request_id"], ["requests.id"], name="fk_suppressions_request_id"),
        sa.PrimaryKeyConstraint("subject_hash", "request_id", name="pk_suppressions"),
    )
    op.create_index("ix_suppressions_request_id", "suppressions", ["request_id"])
    op.create_table(
        "idempotency_keys",
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("body_hash", sa.String(length=64), nullable=False),
        sa.Column("request_id", sa.String(length=40), nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.ForeignKeyConstraint(
            ["request_id"], ["requests.id"], name="fk_idempotency_keys_request_id"
        ),
        sa.PrimaryKeyConstraint("key_hash", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_request_id", "idempotency_keys", ["request_id"])


def _create_processes() -> None:
    op.create_table(
        "replicas",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("host", _TEXT, nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("serving", _TEXT, nullable=True),
        sa.Column("prepared", _TEXT, nullable=True),
        sa.Column("lease_expires_at", _INSTANT, nullable=False),
        sa.Column("fenced", sa.Boolean(), nullable=False),
        sa.Column("problem", _TEXT, nullable=True),
        sa.Column("registered_at", _INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_replicas"),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("host", _TEXT, nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("lease_expires_at", _INSTANT, nullable=False),
        sa.Column("started_at", _INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("topic", sa.String(length=32), nullable=False),
        sa.Column("entity_id", sa.String(length=40), nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("sent_at", _INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
    )
    op.create_index("ix_outbox_sent_at", "outbox", ["sent_at"])
