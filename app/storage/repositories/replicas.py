"""Gateway replicas and their leases, by the database's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, case, delete, null, select, update

from app.domain.releases import Replica
from app.storage.clock import db_now
from app.storage.repositories.base import Repository
from app.storage.tables import AliasRow, ReplicaRow

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Select

#: Columns that a replica may change when it renews its lease.
_REPORTED: Final = frozenset(
    {"serving", "prepared", "problem", "failed_release", "precision", "data_version"}
)


class ReplicaRepository(Repository):
    """Replicas. A replica may answer requests until its lease plus a margin is over."""

    def register(
        self,
        replica_id: str,
        host: str,
        pid: int,
        ttl_seconds: float,
        *,
        software: str | None = None,
        scorer: str | None = None,
    ) -> None:
        """Add the replica, or reset its row, with a new lease."""
        # The shared lock on the alias blocks a flip until this transaction commits. Without the
        # lock, a flip and the check of all replicas could both happen after this replica has read
        # the old release and before its row is visible.
        self._connection.execute(select(AliasRow.name).with_for_update(read=True)).all()
        values: dict[str, Any] = {
            "host": host,
            "pid": pid,
            "serving": None,
            "prepared": None,
            "problem": None,
            "failed_release": None,
            "data_version": None,
            "serving_since": None,
            "precision": None,
            "software": software,
            "scorer": scorer,
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
        """Renew the lease and record the reported columns.

        Return False when the replica is fenced or unknown, or when its lease has expired.
        """
        unknown = changes.keys() - _REPORTED
        if unknown:
            raise TypeError(f"replicas cannot report the columns {sorted(unknown)}")
        # A rollout may already have ignored this replica because its lease had expired, so an
        # expired lease is never renewed.
        alive = and_(ReplicaRow.fenced.is_(False), ReplicaRow.lease_expires_at >= db_now())
        changed = self._changed(
            update(ReplicaRow)
            .where(ReplicaRow.id == replica_id, alive)
            .values(lease_expires_at=db_now() + ttl_seconds, **changes, **_since(changes))
        )
        return changed == 1

    def live(self, margin_seconds: float) -> list[Replica]:
        """Return the replicas that may still answer: lease plus margin not yet over."""
        over = db_now() - margin_seconds
        return self._all(_replicas().where(ReplicaRow.lease_expires_at >= over))

    def all(self) -> list[Replica]:
        return self._all(_replicas())

    def fence(self, replica_ids: Iterable[str]) -> None:
        """Forbid the replicas to renew; they stop answering when their leases run out."""
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


def _since(changes: dict[str, Any]) -> dict[str, Any]:
    """Return the value of `serving_since` for a replica that reports `serving`."""
    if "serving" not in changes:
        return {}
    serving = changes["serving"]
    if serving is None:
        return {"serving_since": null()}
    unchanged = (ReplicaRow.serving == serving, ReplicaRow.serving_since)
    return {"serving_since": case(unchanged, else_=db_now())}


def _replicas() -> Select[Any]:
    return select(ReplicaRow.__table__)
