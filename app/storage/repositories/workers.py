"""Heartbeats of worker processes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Double, delete, func, select, type_coerce

from app.storage.clock import db_now
from app.storage.repositories.base import Repository
from app.storage.tables import WorkerRow


class WorkerRepository(Repository):
    """Worker processes with an unexpired heartbeat, by the database's clock."""

    def beat(self, worker_id: str, host: str, pid: int, ttl_seconds: float) -> None:
        """Record a heartbeat, and delete workers that have been silent for ten lifetimes."""
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

    def leases(self) -> list[tuple[str, float]]:
        """Return each worker's host and the seconds until its heartbeat expires."""
        expires_in = WorkerRow.lease_expires_at - db_now()
        rows = self._connection.execute(
            select(WorkerRow.host, type_coerce(expires_in, Double)).order_by(WorkerRow.started_at)
        )
        return [(host, seconds) for host, seconds in rows]

    def live_count(self) -> int:
        alive = select(WorkerRow.id).where(WorkerRow.lease_expires_at >= db_now())
        return len(self._connection.execute(alive).all())

    def running_for(self) -> float:
        """Return for how many seconds the oldest live worker has run; 0 without one."""
        started_at = select(type_coerce(func.min(WorkerRow.started_at), Double)).where(
            WorkerRow.lease_expires_at >= db_now()
        )
        age = db_now() - started_at.scalar_subquery()
        return self._connection.execute(select(type_coerce(age, Double))).scalar_one() or 0.0

    def live_on(self, host: str) -> bool:
        """Return whether a live worker runs on this host."""
        alive = select(WorkerRow.id).where(
            WorkerRow.host == host, WorkerRow.lease_expires_at >= db_now()
        )
        return self._connection.execute(alive.limit(1)).first() is not None
