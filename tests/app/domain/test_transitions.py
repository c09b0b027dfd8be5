"""Allowed changes of the status of requests, jobs and releases."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from app.domain.errors import IllegalTransitionError, NotCancellableError
from app.domain.jobs import ACTIVE_STATUSES, JOB_TRANSITIONS, Job, JobKind, JobStatus
from app.domain.releases import RELEASE_TRANSITIONS, ReleaseStatus
from app.domain.requests import (
    OPEN_STATUSES,
    REQUEST_TRANSITIONS,
    ForgetRequest,
    RequestStatus,
    Scope,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def request_with(status: RequestStatus) -> ForgetRequest:
    return ForgetRequest(
        id="req_1",
        scope=Scope.USER,
        subject=None,
        subject_hashes=("h",),
        status=status,
        created_at=NOW,
        due_at=NOW,
        cancellable_until=NOW,
    )


@pytest.mark.parametrize("old", RequestStatus)
@pytest.mark.parametrize("new", RequestStatus)
def test_request_status_follows_the_table(old: RequestStatus, new: RequestStatus) -> None:
    request = request_with(old)
    if new == old or new in REQUEST_TRANSITIONS.get(old, frozenset()):
        assert request.evolve(status=new).status is new
    else:
        with pytest.raises(IllegalTransitionError):
            request.evolve(status=new)


def test_only_scheduled_requests_can_be_cancelled() -> None:
    cancellable = {
        old for old, new in REQUEST_TRANSITIONS.items() if RequestStatus.CANCELLED in new
    }
    assert cancellable == {RequestStatus.SCHEDULED}


def test_every_open_request_can_still_complete() -> None:
    def reachable(start: RequestStatus) -> set[RequestStatus]:
        seen, pending = set[RequestStatus](), [start]
        while pending:
            status = pending.pop()
            if status not in seen:
                seen.add(status)
                pending.extend(REQUEST_TRANSITIONS.get(status, frozenset()))
        return seen

    assert all(RequestStatus.COMPLETED in reachable(status) for status in OPEN_STATUSES)


def test_retired_release_cannot_become_live() -> None:
    leads_to_live = {old for old, new in RELEASE_TRANSITIONS.items() if ReleaseStatus.LIVE in new}
    assert leads_to_live == {ReleaseStatus.CANDIDATE}


@pytest.mark.parametrize("status", sorted(ACTIVE_STATUSES))
def test_every_active_job_can_fail(status: JobStatus) -> None:
    job = Job(id="job_1", kind=JobKind.FORGET, status=status, method="m", created_at=NOW)
    assert job.evolve(status=JobStatus.FAILED).status is JobStatus.FAILED


def test_ended_job_has_no_transitions() -> None:
    ended = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.DEAD}
    assert ended.isdisjoint(JOB_TRANSITIONS)


def test_error_message_is_the_docstring_with_context() -> None:
    message = str(NotCancellableError(status=RequestStatus.BATCHED))
    assert message.endswith("Its status is batched.")
