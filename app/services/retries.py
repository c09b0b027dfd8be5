"""Requests of a failed job: the next batch that takes them, and when a request is dead.

A batch that fails twice in a row with the same signature is halved, so that the others of a batch
complete without the request that makes the job fail. A request alone in its batch counts a failure
only after another batch has passed that stage. Otherwise the fault is not the request's.
"""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from app.domain.requests import IN_JOB_STATUSES, RequestStatus, Scope

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.jobs import Job, Lease, Stage
    from app.domain.requests import ForgetRequest
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork

#: The longest time between two tries, in seconds, before jitter.
MAX_BACK_OFF: Final = 600.0
_JITTER: Final = 0.2
_SIGNATURE_LENGTH: Final = 200


def retry_seconds(retry_delay: float, failures: int) -> float:
    """Return the seconds until the next try, without jitter: doubled by each failure."""
    doublings = min(max(failures - 1, 0), 30)  # A larger exponent would overflow.
    return min(MAX_BACK_OFF, retry_delay * 2.0**doublings)


def back_off(retry_delay: float, failures: int) -> float:
    """Return the seconds until the next try: doubled by each failure, with jitter."""
    return retry_seconds(retry_delay, failures) * secrets.SystemRandom().uniform(
        1.0 - _JITTER, 1.0 + _JITTER
    )


def return_requests(
    uow: UnitOfWork, lease: Lease, stage: Stage, signature: str, settings: Settings
) -> list[str]:
    """Detach the requests of a job that failed in this stage; return the ids of dead requests."""
    in_job = [r for r in uow.requests.of_job(lease.job_id) if r.status in IN_JOB_STATUSES]
    signature = signature[:_SIGNATURE_LENGTH]
    if len(in_job) == 1:
        returned = [_alone(uow, in_job[0], stage, signature, settings)]
    else:
        returned = _together(uow, in_job, signature, settings)
    uow.requests.detach_from_job(lease, returned)
    return sorted(r.id for r in returned if r.status is RequestStatus.DEAD)


def _together(
    uow: UnitOfWork, requests: Sequence[ForgetRequest], signature: str, settings: Settings
) -> list[ForgetRequest]:
    """Keep the batch together at a new signature, and halve the batch at a repeated one."""
    is_repeated = all(request.last_failure == signature for request in requests)
    half = (len(requests) + 1) // 2 if is_repeated else len(requests)
    return [
        _returned(
            uow,
            request,
            signature,
            back_off(settings.retry_delay, 1),
            group=f"{request.job_id}-{1 if index < half else 2}",
        )
        for index, request in enumerate(requests)
    ]


def _alone(
    uow: UnitOfWork, request: ForgetRequest, stage: Stage, signature: str, settings: Settings
) -> ForgetRequest:
    """Count the failure if another batch has passed the stage since the first such failure."""
    failures = request.failures
    tries = 1
    if request.last_failure == signature and request.failed_at is not None:
        batches = uow.jobs.batches_since(request.failed_at)
        own_ids = {taken.job_id for taken in uow.request_jobs.of_request(request.id)}
        tries += sum(batch.id in own_ids for batch in batches)
        if any(batch.id not in own_ids and batch.has_passed(stage) for batch in batches):
            failures += 1
    delay = back_off(settings.retry_delay, tries)
    group = f"{request.job_id}-1"
    returned = _returned(uow, request, signature, delay, group=group)
    is_dead = failures >= settings.request_failures
    status = RequestStatus.DEAD if is_dead else RequestStatus.BATCHED
    return returned.evolve(failures=failures, status=status)


def _returned(
    uow: UnitOfWork, request: ForgetRequest, signature: str, delay: float, *, group: str
) -> ForgetRequest:
    now = uow.state.now()
    return request.evolve(
        status=RequestStatus.BATCHED,
        job_id=None,
        progress=0.0,
        retry_group=group,
        last_failure=signature,
        failed_at=request.failed_at if request.last_failure == signature else now,
        retry_at=now + timedelta(seconds=delay),
    )


def has_lost_rows(uow: UnitOfWork, request: ForgetRequest) -> bool:
    """Return whether an earlier job has deleted rows of the request without completing it.

    Other requests than those with `recovered` are recorded only for stored data, so missing data
    was deleted. Jobs of earlier versions could end after they had deleted rows. The live weights
    may have known these rows.
    """
    subject = request.subject
    if subject is None:
        # A restored database may lack the person of a request that the ledger has, and a user may
        # be suppressed without stored data.
        return request.recovered is None or request.rows_deleted is not None
    if subject.scope is Scope.ITEM or subject.user_id is None:
        return uow.people.known_items(subject.item_ids) != set(subject.item_ids)
    if subject.scope is Scope.USER:
        return uow.people.user(subject.user_id) is None
    rated_ids = {interaction.item_id for interaction in uow.people.history(subject.user_id)}
    return not rated_ids.issuperset(subject.item_ids)


def retries(job: Job, failed_stage: Stage, error: str) -> dict[str, dict[str, int | str]]:
    """Return the metric `retries` of a job whose try in this stage has failed once more."""
    earlier = job.metrics.get("retries", {})
    count = earlier.get(failed_stage.value, {}).get("count", 0) + 1
    return {**earlier, failed_stage.value: {"count": count, "error": error}}
