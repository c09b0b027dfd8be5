"""Processes that are up, wake-ups owed, idempotency keys: what keeps the service going."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, delete, exists, insert, literal, select, update

from app.domain.releases import Replica
from app.storage.clock import db_now
from app.storage.repositories.base import Repository
from app.storage.tables import AliasRow, IdempotencyRow, OutboxRow, ReplicaRow, WorkerRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Select

_REPORTED: Final = frozenset({"serving", "prepared", "problem"})


class SqlReplicas(Repository):
    """Implements `ports.ReplicaRepository`."""

    def register(self, replica_id: str, host: str, pid: int, ttl_seconds: float) -> None:
        # Holds the alias still: without it, a flip and the check of all replicas could both go by
        # between reading the old release and this registration's commit.
        self._connection.execute(select(AliasRow.name).with_for_update(read=True)).all()
        values: dict[str, Any] = {
            "host": host,
            "pid": pid,
            "serving": None,
            "prepared": None,
            "problem": None,
            "fenced": False,
            "lease_expires_at": db_now() + ttl_seconds,
            "registered_at": db_now(),
        }
        self._connection.execute(
            self._insert(ReplicaRow)
            .values(id=replica_id, **values)
            .on_conflict_do_update(index_elements=["id"], set_=values)
        )

    def renew(self, replica_id: str, ttl_seconds: float, **changes: Any) -> bool:
        unknown = changes.keys() - _REPORTED
        if unknown:
            raise TypeError(f"a replica does not report {sorted(unknown)}")
        # An expired lease may have been counted out already, so it is never revived.
        alive = and_(ReplicaRow.fenced.is_(False), ReplicaRow.lease_expires_at >= db_now())
        changed = self._changed(
            update(ReplicaRow)
            .where(ReplicaRow.id == replica_id, alive)
            .values(lease_expires_at=db_now() + ttl_seconds, **changes)
        )
        return changed == 1

    def live(self, margin_seconds: float) -> list[Replica]:
        over = db_now() - margin_seconds
        return self._all(_replicas().where(ReplicaRow.lease_expires_at >= over))

    def all(self) -> list[Replica]:
        return self._all(_replicas())

    def fence(self, replica_ids: Iterable[str]) -> None:
        self._connection.execute(
            update(ReplicaRow).where(ReplicaRow.id.in_(list(replica_ids))).values(fenced=True)
        )

    def remove(self, replica_id: str) -> None:
        self._connection.execute(delete(ReplicaRow).where(ReplicaRow.id == replica_id))

    def remove_expired(self, older_than_seconds: float) -> None:
        over = db_now() - older_than_seconds
        self._connection.execute(delete(ReplicaRow).where(ReplicaRow.lease_expires_at < over))

    def _all(self, query: Select[Any]) -> list[Replica]:
        rows = self._connection.execute(query.order_by(ReplicaRow.registered_at, ReplicaRow.id))
        return [Replica(**row) for row in rows.mappings()]


def _replicas() -> Select[Any]:
    return select(ReplicaRow.__table__)


class SqlWorkers(Repository):
    """Implements `ports.WorkerRepository`."""

    def beat(self, worker_id: str, host: str, pid: int, ttl_seconds: float) -> None:
        values: dict[str, Any] = {
            "host": host,
            "pid": pid,
            "lease_expires_at": db_now() + ttl_seconds,
        }
        self._connection.execute(
            self._insert(WorkerRow)
            .values(id=worker_id, started_at=db_now(), **values)
            .on_conflict_do_update(index_elements=["id"], set_=values)
        )
        self._connection.execute(
            delete(WorkerRow).where(WorkerRow.lease_expires_at < db_now() - 10 * ttl_seconds)
        )

    def remove(self, worker_id: str) -> None:
        self._connection.execute(delete(WorkerRow).where(WorkerRow.id == worker_id))

    def live_count(self) -> int:
        alive = select(WorkerRow.id).where(WorkerRow.lease_expires_at >= db_now())
        return len(self._connection.execute(alive).all())

    def live_on(self, host: str) -> bool:
        alive = select(WorkerRow.id).where(
            WorkerRow.host == host, WorkerRow.lease_expires_at >= db_now()
        )
        return self._connection.execute(alive.limit(1)).first() is not None


class SqlOutbox(Repository):
    """Implements `ports.OutboxRepository`."""

    def add(self, topic: str, entity_id: str) -> None:
        # A wake-up that is still owed says all that a second one would.
        owed = exists().where(
            OutboxRow.topic == topic, OutboxRow.entity_id == entity_id, OutboxRow.sent_at.is_(None)
        )
        values = select(literal(str(topic)), literal(entity_id), db_now()).where(~owed)
        self._connection.execute(
            insert(OutboxRow).from_select(["topic", "entity_id", "created_at"], values)
        )

    def pending(self, limit: int) -> list[tuple[int, str, str]]:
        rows = self._connection.execute(
            select(OutboxRow.id, OutboxRow.topic, OutboxRow.entity_id)
            .where(OutboxRow.sent_at.is_(None))
            .order_by(OutboxRow.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return [(row.id, row.topic, row.entity_id) for row in rows]

    def mark_sent(self, outbox_ids: Sequence[int]) -> None:
        self._connection.execute(
            update(OutboxRow).where(OutboxRow.id.in_(outbox_ids)).values(sent_at=db_now())
        )

    def overdue(self, seconds: float) -> int:
        owed = select(OutboxRow.id).where(
            OutboxRow.sent_at.is_(None), OutboxRow.created_at < db_now() - seconds
        )
        return len(self._connection.execute(owed).all())

    def prune(self, older_than_seconds: float) -> None:
        over = db_now() - older_than_seconds
        self._connection.execute(delete(OutboxRow).where(OutboxRow.sent_at < over))


class SqlIdempotency(Repository):
    """Implements `ports.IdempotencyRepository`."""

    def find(self, key_hash: str) -> tuple[str, str] | None:
        row = self._connection.execute(
            select(IdempotencyRow.body_hash, IdempotencyRow.request_id).where(
                IdempotencyRow.key_hash == key_hash
            )
        ).first()
        return None if row is None else (row.body_hash, row.request_id)

    def add(self, key_hash: str, body_hash: str, request_id: str) -> None:
        self._connection.execute(
            insert(IdempotencyRow).values(
                key_hash=key_hash, body_hash=body_hash, request_id=request_id, created_at=db_now()
            )
        )

    def forget_bodies(self, request_ids: Sequence[str]) -> None:
        self._connection.execute(
            update(IdempotencyRow)
            .where(IdempotencyRow.request_id.in_(request_ids))
            .values(body_hash="")
        )

    def prune(self, older_than_seconds: float) -> None:
        over = db_now() - older_than_seconds
        self._connection.execute(delete(IdempotencyRow).where(IdempotencyRow.created_at < over))
