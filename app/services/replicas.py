"""Leases of gateway replicas: register, renew and remove them.

A replica may answer requests only while its lease is valid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.version import VERSION

if TYPE_CHECKING:
    from app.domain.releases import Alias
    from app.storage.unit_of_work import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaState:
    """The releases that a replica serves and has prepared, reported with every renewal."""

    serving: str | None = None
    prepared: str | None = None
    #: Why the replica does not follow the rollout; no reason to stop its traffic.
    problem: str | None = None
    #: The live or target release that could not be loaded; the target if both could not.
    failed_release: str | None = None
    #: The data type of the weights of `serving`, if they are in this process.
    precision: str | None = None


def register_replica(
    uow: UnitOfWork,
    ttl_seconds: float,
    *,
    replica_id: str,
    host: str,
    pid: int,
    scorer: str | None = None,
) -> Alias:
    """Register the replica and return the release alias, in one transaction.

    The registration blocks changes of the alias. A flip therefore either commits first, and this
    call returns the new alias, or waits, and its job then sees this replica.
    """
    uow.replicas.register(
        replica_id, host, pid, ttl_seconds, software=f"lethe {VERSION}", scorer=scorer
    )
    return uow.releases.alias()


def renew_replica(
    uow: UnitOfWork,
    ttl_seconds: float,
    replica_id: str,
    state: ReplicaState,
    data_version: int | None = None,
) -> Alias | None:
    """Renew the lease, record the state and return the alias.

    `data_version` is the version up to which the replica has applied the change log.

    Return None if the replica is fenced or its lease has expired; the replica must then register
    again.
    """
    renewed = uow.replicas.renew(
        replica_id,
        ttl_seconds,
        serving=state.serving,
        prepared=state.prepared,
        problem=state.problem,
        failed_release=state.failed_release,
        precision=state.precision,
        data_version=data_version,
    )
    return uow.releases.alias() if renewed else None


def deregister_replica(uow: UnitOfWork, replica_id: str) -> None:
    """Remove the replica. Call this after the replica has sent its last answer."""
    uow.replicas.remove(replica_id)
