"""Completes the deletions of a job: rows gone, ids gone, certificates there, in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from app.domain.errors import LeaseLostError
from app.domain.jobs import JobStatus, Stage
from app.domain.outbox import Topic
from app.domain.requests import RequestStatus, Scope
from app.services.certificates import certificate_payload

if TYPE_CHECKING:
    from datetime import datetime

    from app.domain.jobs import Job, Lease
    from app.domain.requests import ForgetRequest
    from app.services.certificates import Evidence, Signer
    from app.storage.unit_of_work import UnitOfWork

_R = RequestStatus
#: Legal steps from where a request can be without a job to where a job can complete it.
_TO_BATCHED: Final = {
    _R.SCHEDULED: (_R.BATCHED,),
    _R.ON_HOLD: (_R.SCHEDULED, _R.BATCHED),
    _R.DEAD: (_R.BATCHED,),
    _R.BATCHED: (_R.BATCHED,),
}


def delete_rows(uow: UnitOfWork, lease: Lease) -> int:
    """Delete what the job's requests ask to forget; return how many interactions went.

    It may be repeated: nothing about a suppressed subject is accepted meanwhile.
    """
    uow.state.lock()
    uow.jobs.update(lease, stage=Stage.DELETE_ROWS)
    return sum(_delete(uow, request) for request in uow.requests.of_job(lease.job_id))


def finish(
    uow: UnitOfWork, lease: Lease, signer: Signer, evidence: Evidence
) -> list[ForgetRequest]:
    """Complete every request of the job and the job itself, and return the requests.

    Called once everything else is done: replicas confirmed, artefacts shredded. Calling it again
    with the same lease after it has committed changes nothing.
    """
    uow.state.lock()
    job = uow.jobs.get(lease.job_id)
    if job.status is JobStatus.SUCCEEDED and job.epoch == lease.epoch:
        return uow.requests.of_job(job.id)
    uow.jobs.update(lease, stage=Stage.CERTIFY)  # Raises when the lease is stale.
    _take_along(uow, job)
    requests = [r for r in uow.requests.of_job(job.id) if r.status is not RequestStatus.COMPLETED]
    for request in requests:
        _delete(uow, request)
    version = uow.state.bump("completed")
    if any(request.scope is Scope.ITEM for request in requests):
        version = uow.state.bump("items")
    now = uow.state.now()
    for request in requests:
        _complete(uow, job, request, signer, evidence, (now, version))
    uow.idempotency.forget_bodies([request.id for request in requests])
    uow.jobs.update(lease, status=JobStatus.SUCCEEDED, stage=Stage.DONE, progress=1.0)
    uow.outbox.add(Topic.REQUEST, job.id)
    return uow.requests.of_job(job.id)


def _take_along(uow: UnitOfWork, job: Job) -> None:
    """Give this job the other open requests of users that it has forgotten altogether.

    What they ask for is done with the user, and they must not keep the user's id.
    """
    for request in uow.requests.of_job(job.id):
        subject = request.subject
        if subject is None or subject.scope is not Scope.USER or subject.user_id is None:
            continue
        for other in uow.requests.open_of_user(subject.user_id):
            if other.job_id == job.id:
                continue
            for status in _TO_BATCHED[other.status]:
                uow.requests.change_status(other, [other.status], status=status, job_id=job.id)
                other = uow.requests.get(other.id)  # noqa: PLW2901 - each step starts from the last


def _delete(uow: UnitOfWork, request: ForgetRequest) -> int:
    subject = request.subject
    if subject is None:
        return 0
    if subject.user_id is None:
        # One entry per rater, side by side, would go on telling who had rated the item.
        for user_id in {user for item in subject.item_ids for user in uow.people.raters_of(item)}:
            uow.state.forget_user_in_log(user_id)
        return sum(uow.people.retire_item(item_id) for item_id in subject.item_ids)
    uow.state.forget_user_in_log(subject.user_id)
    if subject.scope is Scope.USER:
        return uow.people.delete_user(subject.user_id)
    return uow.people.delete_interactions(subject.user_id, subject.item_ids)


def _complete(
    uow: UnitOfWork,
    job: Job,
    request: ForgetRequest,
    signer: Signer,
    evidence: Evidence,
    moment: tuple[datetime, int],
) -> None:
    now, version = moment
    payload = certificate_payload(request, job, evidence, now)
    completed = uow.requests.change_status(
        request,
        [request.status],
        status=RequestStatus.COMPLETED,
        subject=None,
        progress=1.0,
        outcome=evidence.outcome,
        release=job.release,
        completed_at=now,
        completed_version=version,
        certificate=signer.sign(payload),
    )
    if not completed:
        raise LeaseLostError(job_id=job.id, epoch=job.epoch)
