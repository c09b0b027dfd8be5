"""The JSON that goes in and out. Unknown fields are refused; times are RFC 3339 in UTC."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from app.api.dependencies import Id
from app.domain.catalog import Interaction
from app.services.forget import ForgetCommand
from app.services.validation import MAX_ITEMS_PER_REQUEST

if TYPE_CHECKING:
    from app.domain.jobs import Job
    from app.domain.releases import Alias, Release, Replica
    from app.domain.requests import ForgetRequest


class Body(BaseModel):
    """What comes in; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Answer(BaseModel):
    """What goes out."""

    model_config = ConfigDict(from_attributes=True)


#: An empty list is refused: it would otherwise mean the whole person.
ItemIds = Annotated[list[Id], Field(min_length=1, max_length=MAX_ITEMS_PER_REQUEST)]


class ForgetBody(Body):
    """A user, some of a user's interactions, or an item."""

    user_id: Id | None = None
    item_ids: ItemIds = Field(default_factory=list)
    item_id: Id | None = None

    def command(self) -> ForgetCommand:
        """Return what is asked, in the words of the use case."""
        return ForgetCommand.of(self.user_id, self.item_ids, self.item_id)


class ConsentBody(Body):
    """A forgotten person who consents anew; `item_ids` where single interactions were forgotten."""

    user_id: Id
    item_ids: ItemIds = Field(default_factory=list)


class ConsentAnswer(Answer):
    """How many tombstones were lifted."""

    lifted: int


class InteractionBody(Body):
    """One rating: 0.5 to 5 stars in half stars; `timestamp` is Unix seconds."""

    user_id: Id
    item_id: Id
    rating: Annotated[float, Field(ge=0.5, le=5, multiple_of=0.5)]
    timestamp: Annotated[int, Field(ge=0)]

    def interaction(self) -> Interaction:
        """Return it in the words of the domain."""
        return Interaction(**self.model_dump())


class StoredAnswer(Answer):
    """How many were added or replaced."""

    stored: int


class ForgetAnswer(Answer):
    """A deletion request. It names nobody."""

    id: str
    status: str
    scope: str
    created_at: datetime
    due_at: datetime
    cancellable_until: datetime
    completed_at: datetime | None
    job_id: str | None
    progress: float
    outcome: str | None
    release: str | None

    @classmethod
    def of(cls, request: ForgetRequest) -> Self:
        return cls.model_validate(request)


class JobAnswer(Answer):
    """One run of training or unlearning, with every figure of its audit in `metrics`."""

    id: str
    kind: str
    status: str
    method: str
    stage: str
    progress: float
    attempts: int
    metrics: dict[str, Any]
    parent_release: str | None
    release: str | None
    error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, job: Job) -> Self:
        return cls.model_validate(job)


class ReleaseAnswer(Answer):
    """One set of weights."""

    id: str
    status: str
    digest: str
    parent: str | None
    job_id: str
    method: str
    outcome: str | None
    metrics: dict[str, Any]
    error_budget_spent: int
    created_at: datetime
    live_at: datetime | None
    shredded_at: datetime | None

    @classmethod
    def of(cls, release: Release) -> Self:
        return cls.model_validate(release)


class ReplicaAnswer(Answer):
    """One gateway process; `lease` is valid, expired or fenced."""

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


class ForgetPage(Answer):
    """Deletion requests, newest first."""

    items: list[ForgetAnswer]
    next_cursor: str | None


class JobPage(Answer):
    """Jobs, newest first."""

    items: list[JobAnswer]
    next_cursor: str | None


class ReleasePage(Answer):
    """Releases, newest first, with the alias and the replicas that serve it."""

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


class HealthAnswer(Answer):
    """`ok`, or `not ready` with the reasons."""

    status: str
    reasons: list[str] = Field(default_factory=list)


class ProblemDocument(Answer):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[dict[str, Any]] | None = None
