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


class InteractionRow(Base):
    """The latest rating of an item by a user."""

    __tablename__ = "interactions"
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), primary_key=True)
    item_id: Mapped[str] = mapped_column(ForeignKey("items.id"), primary_key=True, index=True)
    rating: Mapped[float] = mapped_column(Double)
    timestamp: Mapped[int] = mapped_column(BigInteger)


class RequestRow(Base):
    """A deletion request. Completion clears `user_id` and `item_ids`."""

    __tablename__ = "requests"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    scope: Mapped[str] = mapped_column(String(16))
    user_id: Mapped[str | None] = mapped_column(index=True)
    item_ids: Mapped[list[str] | None]
    subject_hashes: Mapped[list[str]]
    status: Mapped[str] = mapped_column(String(16), index=True)
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
    completed_version: Mapped[int | None]
    certificate: Mapped[dict[str, Any] | None]


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
    """A used idempotency key, the request recorded under it, and a keyed hash of the body."""

    __tablename__ = "idempotency_keys"
    key_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    body_hash: Mapped[str] = mapped_column(String(64))
    request_id: Mapped[str] = mapped_column(ForeignKey("requests.id"), index=True)
    created_at: Mapped[datetime]


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
    snapshot_version: Mapped[int | None] = mapped_column("frozen_version", key="snapshot_version")
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
    )


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
    error_budget_spent: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    live_at: Mapped[datetime | None]
    shredded_at: Mapped[datetime | None]


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
    registered_at: Mapped[datetime]


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
    data_version: Mapped[int] = mapped_column(default=0)
    #: Fingerprint of the hash key with which the suppressions were written.
    key_fingerprint: Mapped[str | None] = mapped_column(String(64))


class DataChangeRow(Base):
    """The change log that replicas read. Completion of a deletion clears `user_id`."""

    __tablename__ = "data_changes"
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(16))
    user_id: Mapped[str | None] = mapped_column(index=True)
