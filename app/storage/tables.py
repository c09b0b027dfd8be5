"""The tables. Times are stored as seconds since the epoch (UTC) on both databases."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    false,
    text,
    true,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.domain.jobs import OPEN_JOB_STATUSES

_OPEN = ", ".join(f"'{status}'" for status in sorted(OPEN_JOB_STATUSES))


class Instant(TypeDecorator[datetime]):
    """A timezone-aware UTC datetime, stored as a double of seconds since the epoch."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> float | None:
        return None if value is None else value.timestamp()

    def process_result_value(self, value: float | None, _dialect: Dialect) -> datetime | None:
        return None if value is None else datetime.fromtimestamp(value, UTC)


_JSON = JSON(none_as_null=True)
#: Sorted by code point on both databases, so that histories and streams have the same order.
_TEXT = Text().with_variant(Text(collation="C"), "postgresql")


#: Data versions outgrow 32 bits. Integers of SQLite have 64 bits under any name.
_VERSION = BigInteger().with_variant(Integer(), "sqlite")


def _index_of_nulls(name: str, column: str) -> Index:
    """Return an index of the rows that have not ended."""
    is_open = text(f"{column} IS NULL")
    return Index(name, column, sqlite_where=is_open, postgresql_where=is_open)


class Base(DeclarativeBase):
    """The base class of all tables."""

    #: Every constraint has a name, so that a later migration can refer to the constraint.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: Instant,
        dict[str, Any]: JSON,
        list[str]: JSON,
        str: _TEXT,
    }


class UserRow(Base):
    """A user."""

    __tablename__ = "users"
    id: Mapped[str] = mapped_column(primary_key=True)
    attributes: Mapped[dict[str, Any]]
    #: Whether the user is a holdout user, drawn once when the user is added.
    holdout: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())


class ItemRow(Base):
    """An item of the catalog and its index in the vocabulary."""

    __tablename__ = "items"
    id: Mapped[str] = mapped_column(primary_key=True)
    title: Mapped[str]
    attributes: Mapped[dict[str, Any]]
    item_index: Mapped[int] = mapped_column("slot", Integer, key="item_index", unique=True)
    retired: Mapped[bool] = mapped_column(Boolean, default=False)
    #: False while the item is withdrawn: its ratings count, but it is not recommended.
    available: Mapped[bool] = mapped_column(Boolean, default=True, server_default=true())
    #: `catalog`: from a catalog file or the API; `ratings`: a rating named the item. None: unknown.
    origin: Mapped[str | None] = mapped_column(String(8))


class InteractionRow(Base):
    """The latest rating of an item by a user."""

    __tablename__ = "interactions"
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), primary_key=True)
    item_id: Mapped[str] = mapped_column(ForeignKey("items.id"), primary_key=True, index=True)
    rating: Mapped[float] = mapped_column(Double)
    timestamp: Mapped[int] = mapped_column(BigInteger)
    #: Data versions of the first and of the last write that changed a value. 0: from before these
    #: columns. -1: written by a process of an earlier version after the upgrade, so unknown.
    first_version: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    last_version: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")


class RequestRow(Base):
    """A deletion request. Deleting the rows and cancelling clear `user_id` and `item_ids`."""

    __tablename__ = "requests"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    scope: Mapped[str] = mapped_column(String(16))
    user_id: Mapped[str | None] = mapped_column(index=True)
    item_ids: Mapped[list[str] | None]
    subject_hashes: Mapped[list[str]]
    #: The caller's texts, which must not contain personal data; they stay after completion.
    requested_by: Mapped[str | None]
    reason: Mapped[str] = mapped_column(
        String(24), default="user_request", server_default="user_request"
    )
    reference: Mapped[str | None]
    #: Keyed hash of the user. None: the subject is an item, or the row is from before the column.
    user_hash: Mapped[str | None] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    due_at: Mapped[datetime]
    cancellable_until: Mapped[datetime]
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    failures: Mapped[int] = mapped_column(default=0)
    progress: Mapped[float] = mapped_column(Double, default=0.0)
    outcome: Mapped[str | None] = mapped_column(String(16))
    release: Mapped[str | None] = mapped_column(ForeignKey("releases.id"))
    completed_at: Mapped[datetime | None]
    #: `data_version` at completion. A job with an older data snapshot may not publish.
    completed_version: Mapped[int | None] = mapped_column(_VERSION)
    #: Read by processes of earlier versions only. The table `certificates` has all certificates.
    certificate: Mapped[dict[str, Any] | None]
    #: Requests with the same value are retried in one job; set when a failing batch is halved.
    retry_group: Mapped[str | None] = mapped_column(String(64))
    #: Stage and error of the last job that failed, without personal data.
    last_failure: Mapped[str | None] = mapped_column(String(200))
    failed_at: Mapped[datetime | None]
    #: The earliest time of the next job after a failure.
    retry_at: Mapped[datetime | None]
    #: Table → number of deleted rows.
    rows_deleted: Mapped[dict[str, Any] | None]
    #: `none`, `approximate` or `exact`: what is proved about the weights and the erased rows.
    assurance: Mapped[str] = mapped_column(String(16), default="none", server_default="none")
    #: The promised time of the exact training. None: written by a process of an earlier version.
    exact_due_at: Mapped[datetime | None]
    exact_at: Mapped[datetime | None]
    #: The job whose exact training made the deletion exact. No foreign key: SQLite cannot add one.
    exact_job_id: Mapped[str | None] = mapped_column(String(40))
    #: Whether the deletion, or its exact training, is repeated after a restore from a backup.
    restored: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    #: What only the ledger knew of the request when the database was restored. No plain ids.
    recovered: Mapped[dict[str, Any] | None]

    __table_args__ = (
        # Lists are ordered by id, so that a page needs no sorting of all matching requests.
        Index("ix_requests_status_id", "status", "id"),
        Index("ix_requests_assurance_id", "assurance", "id"),
        Index("ix_requests_user_hash_id", "user_hash", "id"),
        Index("ix_requests_created_at", "created_at"),
        Index("ix_requests_requested_by_id", "requested_by", "id"),
        Index("ix_requests_reference_id", "reference", "id"),
        # The scheduler reads the earliest times of the approximate deletions twice per second.
        Index("ix_requests_assurance_exact_due_at", "assurance", "exact_due_at"),
        Index("ix_requests_assurance_completed_at", "assurance", "completed_at"),
        Index(
            "ix_requests_restored",
            "assurance",
            sqlite_where=text("restored = 1"),
            postgresql_where=text("restored"),
        ),
    )


class RequestJobRow(Base):
    """A job that took part in a request, also if the job failed, and its audit of this request."""

    __tablename__ = "request_jobs"
    request_id: Mapped[str] = mapped_column(ForeignKey("requests.id"), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True, index=True)
    outcome: Mapped[str | None] = mapped_column(String(16))
    #: The figures of this request alone; the job's release has the figures of the batch.
    figures: Mapped[dict[str, Any] | None]


class CertificateRow(Base):
    """A signed certificate of a request. Number 1 proves the deletion; later ones add to it."""

    __tablename__ = "certificates"
    request_id: Mapped[str] = mapped_column(ForeignKey("requests.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(16))
    envelope: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class SigningKeyRow(Base):
    """A public key of certificates. `retired_at` is None for the current key."""

    __tablename__ = "signing_keys"
    key_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    public_pem: Mapped[str]
    valid_from: Mapped[datetime]
    retired_at: Mapped[datetime | None]


class ScrubRow(Base):
    """An erasure that is owed: the sweepers retry until `closed_at` is set."""

    __tablename__ = "scrub_owed"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(String(16))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    #: The machine that must erase the files; None: any process can.
    host: Mapped[str | None]
    path: Mapped[str | None]
    #: PostgreSQL's transaction id of the deletion; older snapshots may still read the rows.
    transaction_id: Mapped[int | None] = mapped_column(BigInteger)
    attempts: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None]
    created_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]

    __table_args__ = (_index_of_nulls("ix_scrub_owed_open", "closed_at"),)


class SuppressionRow(Base):
    """A suppressed user, interaction or item.

    The row is written with the deletion request and is a tombstone after completion.
    `subject_hash` is a keyed hash, so the table has no plain ids. Several requests may suppress the
    same subject; cancelling a request deletes its own rows only. Consent sets `lifted_at`.
    """

    __tablename__ = "suppressions"
    subject_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    request_id: Mapped[str] = mapped_column(ForeignKey("requests.id"), primary_key=True, index=True)
    scope: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    lifted_at: Mapped[datetime | None]


class IdempotencyRow(Base):
    """A used idempotency key, the request recorded under it, and keyed hashes of the body."""

    __tablename__ = "idempotency_keys"
    key_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    #: Of the subject; emptied at completion.
    body_hash: Mapped[str] = mapped_column(String(64))
    #: Of the other fields, which say nothing about the subject. None: from before the column.
    options_hash: Mapped[str | None] = mapped_column(String(64))
    request_id: Mapped[str] = mapped_column(ForeignKey("requests.id"), index=True)
    created_at: Mapped[datetime]


class ForgetListRow(Base):
    """A call of `POST /forget/bulk`. The users are in `requests`, and nowhere in this table."""

    __tablename__ = "forget_lists"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    created_at: Mapped[datetime]
    #: Number of rows, and of rows that have an outcome.
    rows: Mapped[int]
    done: Mapped[int] = mapped_column(default=0)
    #: The time at which the last row got its outcome.
    recorded_at: Mapped[datetime | None]
    #: Keyed hashes of the idempotency key and of the list; cleared after 7 days.
    key_hash: Mapped[str | None] = mapped_column(String(64), unique=True)
    content_hash: Mapped[str | None] = mapped_column(String(64))


class ForgetListResultRow(Base):
    """The outcome of one row of a list, which is named by its number, and never by an id."""

    __tablename__ = "forget_list_results"
    list_id: Mapped[str] = mapped_column(ForeignKey("forget_lists.id"), primary_key=True)
    row: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    outcome: Mapped[str] = mapped_column(String(16))
    #: No foreign key: requests are never deleted, and each check would lock a row.
    request_id: Mapped[str | None] = mapped_column(String(40))
    #: Why the row is invalid. No text of the caller.
    detail: Mapped[str | None] = mapped_column(String(200))


class OutboxRow(Base):
    """A wake-up message for the broker, written in the transaction that requires the message."""

    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    topic: Mapped[str] = mapped_column(String(32))
    entity_id: Mapped[str] = mapped_column(String(40))
    created_at: Mapped[datetime]
    sent_at: Mapped[datetime | None] = mapped_column(index=True)


class JobRow(Base):
    """A job. A claim is one conditional update that sets the lease and raises the epoch."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    #: The model of the job, always "default". Each model has at most one open job.
    model: Mapped[str] = mapped_column(String(16), default="default")
    kind: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    method: Mapped[str] = mapped_column(String(32))
    stage: Mapped[str] = mapped_column(String(16))
    progress: Mapped[float] = mapped_column(Double, default=0.0)
    attempts: Mapped[int] = mapped_column(default=0)
    epoch: Mapped[int] = mapped_column(default=0)
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    #: The earliest time of a claim; a retry waits.
    available_at: Mapped[datetime]
    #: No foreign keys: `releases` refers to `jobs`, and a cycle of keys would complicate inserts.
    parent_release: Mapped[str | None] = mapped_column(String(40))
    release: Mapped[str | None] = mapped_column(String(40))
    settings: Mapped[dict[str, Any]]
    metrics: Mapped[dict[str, Any]]
    error: Mapped[str | None]
    snapshot_version: Mapped[int | None] = mapped_column(
        "frozen_version", _VERSION, key="snapshot_version"
    )
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        Index(
            "one_open_job_per_model",
            "model",
            unique=True,
            sqlite_where=text(f"status IN ({_OPEN})"),
            postgresql_where=text(f"status IN ({_OPEN})"),
        ),
        Index("ix_jobs_kind_created_at", "kind", "created_at"),
        Index("ix_jobs_status", "status"),
    )


class JobClaimRow(Base):
    """A claim of a job. `ended_at` is set when the machine has no file of the claim any more."""

    __tablename__ = "job_claims"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    host: Mapped[str]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]

    __table_args__ = (_index_of_nulls("ix_job_claims_unended", "ended_at"),)


class ReleaseRow(Base):
    """A release. `id` is derived from the SHA-256 of its weights."""

    __tablename__ = "releases"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    parent: Mapped[str | None] = mapped_column(ForeignKey("releases.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    status: Mapped[str] = mapped_column(String(16))
    method: Mapped[str] = mapped_column(String(32))
    outcome: Mapped[str | None] = mapped_column(String(16))
    path: Mapped[str]
    metrics: Mapped[dict[str, Any]]
    #: Read by processes of earlier versions only. `forgotten_rows` and `drift` replace the column.
    error_budget_spent: Mapped[int] = mapped_column(default=0)
    #: Seconds of all stages of the exact training at the root of the lineage, up to the rollout.
    training_seconds: Mapped[float | None] = mapped_column(Double)
    #: Number of training rows of that exact training. None: not recorded.
    training_rows: Mapped[int | None] = mapped_column(BigInteger)
    #: Number of training rows that fast unlearning has removed since that exact training.
    forgotten_rows: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    #: Measured drift against the figures of that exact training. None: not measurable.
    drift: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    live_at: Mapped[datetime | None]
    shredded_at: Mapped[datetime | None]

    __table_args__ = (Index("ix_releases_outcome_live_at", "outcome", "live_at"),)


class AliasRow(Base):
    """The live release and the rollout target. A flip compares `live` and `generation` and sets."""

    __tablename__ = "aliases"
    name: Mapped[str] = mapped_column(String(16), primary_key=True)
    live: Mapped[str | None] = mapped_column(ForeignKey("releases.id"))
    target: Mapped[str | None] = mapped_column(ForeignKey("releases.id"))
    generation: Mapped[int]


class ReplicaRow(Base):
    """A gateway process and its lease."""

    __tablename__ = "replicas"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    host: Mapped[str]
    pid: Mapped[int]
    serving: Mapped[str | None]
    prepared: Mapped[str | None]
    lease_expires_at: Mapped[datetime]
    fenced: Mapped[bool] = mapped_column(default=False)
    problem: Mapped[str | None]
    #: The live or target release that the replica last failed to load. None also: earlier version.
    failed_release: Mapped[str | None] = mapped_column(String(40))
    #: The data version up to which the replica has applied the change log. None: not reported yet.
    data_version: Mapped[int | None] = mapped_column(_VERSION)
    registered_at: Mapped[datetime]
    #: The time of the switch to `serving`, and the precision in which the replica computes.
    serving_since: Mapped[datetime | None]
    precision: Mapped[str | None] = mapped_column(String(16))
    #: Version of the replica's software; None before this column existed.
    software: Mapped[str | None] = mapped_column(String(32))
    scorer: Mapped[str | None] = mapped_column(String(16))


class WorkerRow(Base):
    """A running worker process. The CLI starts a worker if none is running."""

    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    host: Mapped[str]
    pid: Mapped[int]
    lease_expires_at: Mapped[datetime]
    started_at: Mapped[datetime]


class StateRow(Base):
    """A single row with the global `data_version`, raised by every change of usable data."""

    __tablename__ = "state"
    id: Mapped[int] = mapped_column(primary_key=True)
    data_version: Mapped[int] = mapped_column(_VERSION, default=0)
    #: Fingerprint of the hash key with which the suppressions were written.
    key_fingerprint: Mapped[str | None] = mapped_column(String(64))
    #: LETHE_ID_RULE at the first start; None until the stored ids follow the rule.
    id_rule: Mapped[str | None] = mapped_column(String(8))
    #: Number and digest of the newest ledger entry whose transaction has committed here.
    ledger_number: Mapped[int | None] = mapped_column(BigInteger)
    ledger_digest: Mapped[str | None] = mapped_column(String(64))
    #: Number of the newest ledger entry that a worker has covered by a signed checkpoint.
    ledger_checkpoint: Mapped[int | None] = mapped_column(BigInteger)
    #: Number of open deletions that are repeated after a restore. Recommendations wait for them.
    restoring: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    #: How the newest import without timestamps got times: random or order; None: there was none.
    drawn_times: Mapped[str | None] = mapped_column(String(8))


class DataChangeRow(Base):
    """The change log that replicas read. Completion of a deletion clears `user_id`.

    Entries that every live replica has applied are pruned.
    """

    __tablename__ = "data_changes"
    version: Mapped[int] = mapped_column(_VERSION, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(16))
    user_id: Mapped[str | None] = mapped_column(index=True)
