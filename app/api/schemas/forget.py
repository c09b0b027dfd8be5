"""JSON of deletion requests and consents."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field

from app.api.schemas.common import Answer, Body, Id, Reference
from app.api.schemas.findings import FindingAnswer
from app.domain.requests import Attribution, RequestReason
from app.services.findings import findings_of
from app.services.forget import ForgetCommand
from app.services.pagination import list_requests
from app.services.renewals import waits_for
from app.services.validation import MAX_ITEMS_PER_REQUEST

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.domain.renewal import ExactMode
    from app.domain.requests import ForgetRequest, RequestFilter
    from app.services.dry_run import DryRun
    from app.storage.unit_of_work import UnitOfWork

#: An empty list is refused, because it would mean all of the user's data.
ItemIds = Annotated[list[Id], Field(min_length=1, max_length=MAX_ITEMS_PER_REQUEST)]


class ForgetBody(Body):
    """Data to forget: a user, some of a user's interactions, or an item."""

    user_id: Id | None = None
    item_ids: ItemIds = Field(default_factory=list)
    item_id: Id | None = None
    #: Suppress a user without data too, so that later data about the user is refused.
    suppress_unknown: bool = False
    requested_by: Reference | None = Field(
        default=None,
        description="Who requested the deletion on the person's behalf. No personal data.",
    )
    reason: RequestReason = RequestReason.USER_REQUEST
    reference: Reference | None = Field(
        default=None, description="The caller's own ticket id. No personal data."
    )

    def command(self) -> ForgetCommand:
        return ForgetCommand.of(
            self.user_id,
            self.item_ids,
            self.item_id,
            suppress_unknown=self.suppress_unknown,
            attribution=Attribution(
                requested_by=self.requested_by, reason=self.reason, reference=self.reference
            ),
        )


class ForgetUsersBody(Body):
    """Users to forget."""

    user_ids: Annotated[list[Id], Field(min_length=1, max_length=1_000)]
    #: Suppress the users without data too, so that later data about them is refused.
    suppress_unknown: bool = False


class BlockerAnswer(Answer):
    """The open training or renewal, and why the renewal started."""

    job: str
    kind: str
    reason: str | None


class ForgetAnswer(Answer):
    """Deletion request. It contains no user id."""

    id: str
    status: str
    scope: str
    #: As given with the request that recorded the deletion.
    requested_by: str | None
    reason: str
    reference: str | None
    created_at: datetime
    due_at: datetime
    cancellable_until: datetime
    completed_at: datetime | None
    job_id: str | None
    progress: float
    #: The outcome of the audit of this request alone; null before completion.
    outcome: str | None
    #: What the audit shows, in words and with its figures; null before completion.
    finding: FindingAnswer | None = None
    release: str | None
    #: `none`, `approximate` or `exact`.
    assurance: str
    #: The promised time of exact training, and its time; null if not recorded, or not yet.
    exact_due_at: datetime | None
    exact_at: datetime | None
    #: The job that delays the request; null if no job does.
    waits_for: BlockerAnswer | None = None

    @classmethod
    def of(cls, request: ForgetRequest) -> Self:
        """Return a request that no job has completed."""
        return cls.model_validate(request)

    @classmethod
    def read(
        cls, uow: UnitOfWork, requests: Iterable[ForgetRequest], mode: ExactMode | None
    ) -> list[Self]:
        """Return the requests, each with its finding and the job for which the request waits.

        `mode` is LETHE_EXACT.
        """
        requests = list(requests)
        blockers = waits_for(uow, requests)
        findings = findings_of(uow, requests, mode)
        answers = []
        for request in requests:
            answer = cls.of(request)
            if request.id in findings:
                answer.finding = FindingAnswer.of(findings[request.id])
            if request.id in blockers:
                answer.waits_for = BlockerAnswer.model_validate(blockers[request.id])
            answers.append(answer)
        return answers


class ExpectedBatchAnswer(Answer):
    """The batch of which the request would be part: what waits before it, and its latest close."""

    requests_before: int
    batches_before: int
    closes_at: datetime


class DryRunAnswer(Answer):
    """What a deletion request would do; nothing is stored.

    If an earlier request covers the call, `covered_by` is its id, and the call would return it.
    """

    scope: str
    covered_by: str | None
    #: Table → number of rows that would be deleted.
    rows: dict[str, int]
    batch: ExpectedBatchAnswer | None
    cancellable_until: datetime | None
    due_at: datetime | None
    exact_due_at: datetime | None
    #: Estimates from the durations of earlier jobs; null if no such job has been measured.
    expected_completed_at: datetime | None
    expected_exact_at: datetime | None

    @classmethod
    def of(cls, result: DryRun) -> Self:
        return cls.model_validate(result)


class ForgetPage(Answer):
    """Deletion requests, newest first.

    `total` is the number of matching requests on all pages; null with `total=false`.
    """

    items: list[ForgetAnswer]
    next_cursor: str | None
    total: int | None

    @classmethod
    def read(
        cls,
        uow: UnitOfWork,
        mode: ExactMode | None,
        matching: RequestFilter,
        limit: int,
        cursor: str | None,
        *,
        with_total: bool = True,
    ) -> Self:
        """Return the page after the cursor."""
        page = list_requests(uow, limit, cursor, matching)
        return cls(
            items=ForgetAnswer.read(uow, page.items, mode),
            next_cursor=page.next_cursor,
            total=uow.requests.count(matching) if with_total else None,
        )


class ForgetUsersAnswer(Answer):
    """One deletion request per user with data, in the order of the request; and the other ids."""

    items: list[ForgetAnswer]
    #: Only with `unknown=report`.
    unknown: list[str] | None = None


class ConsentBody(Body):
    """New consent of a forgotten user; `item_ids` if only single interactions were forgotten."""

    user_id: Id
    item_ids: ItemIds = Field(default_factory=list)


class ConsentAnswer(Answer):
    """Number of tombstones lifted."""

    lifted: int
