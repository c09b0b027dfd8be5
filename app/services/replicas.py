"""The lease of a gateway replica: the right to answer, renewed while it confirms what it serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.domain.releases import Alias
    from app.storage.unit_of_work import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaState:
    """What a replica reports with every renewal."""

    serving: str | None = None
    prepared: str | None = None
    problem: str | None = None


def register_replica(
    uow: UnitOfWork, ttl_seconds: float, *, replica_id: str, host: str, pid: int
) -> Alias:
    """Register and read the current release in one transaction.

    Registering holds the alias still: a flip either comes before, and is read here, or comes
    after, and its job then sees this replica and waits for it.
    """
    uow.replicas.register(replica_id, host, pid, ttl_seconds)
    return uow.releases.alias()


def renew_replica(
    uow: UnitOfWork, ttl_seconds: float, replica_id: str, state: ReplicaState
) -> Alias | None:
    """Renew and report; return the alias, or None when fenced or expired: register anew."""
    renewed = uow.replicas.renew(
        replica_id,
        ttl_seconds,
        serving=state.serving,
        prepared=state.prepared,
        problem=state.problem,
    )
    return uow.releases.alias() if renewed else None


def deregister_replica(uow: UnitOfWork, replica_id: str) -> None:
    """Say goodbye; only after the last answer has been sent."""
    uow.replicas.remove(replica_id)
