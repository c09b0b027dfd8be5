"""JSON of releases and of the replicas that serve them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from app.api.schemas.common import Answer

if TYPE_CHECKING:
    from app.domain.releases import Alias, Release, Replica


class ReleaseAnswer(Answer):
    """Release: one immutable set of weights."""

    id: str
    status: str
    digest: str
    parent: str | None
    job_id: str
    method: str
    outcome: str | None
    metrics: dict[str, Any]
    training_seconds: float | None
    training_rows: int | None
    forgotten_rows: int
    drift: dict[str, Any] | None
    created_at: datetime
    live_at: datetime | None
    shredded_at: datetime | None

    @classmethod
    def of(cls, release: Release) -> Self:
        return cls.model_validate(release)


class ReplicaAnswer(Answer):
    """Gateway process; `lease` is valid, expired or fenced."""

    id: str
    host: str
    serving: str | None
    prepared: str | None
    lease: str
    lease_expires_at: datetime
    problem: str | None

    @classmethod
    def of(cls, replica: Replica, now: datetime) -> Self:
        lease = "valid" if replica.lease_expires_at >= now else "expired"
        return cls(
            id=replica.id,
            host=replica.host,
            serving=replica.serving,
            prepared=replica.prepared,
            lease="fenced" if replica.fenced else lease,
            lease_expires_at=replica.lease_expires_at,
            problem=replica.problem,
        )


class ReleasePage(Answer):
    """Releases, newest first, with the live and the target release and all replicas."""

    items: list[ReleaseAnswer]
    next_cursor: str | None
    live: str | None
    target: str | None
    replicas: list[ReplicaAnswer]

    @classmethod
    def of(
        cls,
        releases: list[Release],
        next_cursor: str | None,
        alias: Alias,
        replicas: list[ReplicaAnswer],
    ) -> Self:
        return cls(
            items=[ReleaseAnswer.of(release) for release in releases],
            next_cursor=next_cursor,
            live=alias.live,
            target=alias.target,
            replicas=replicas,
        )
