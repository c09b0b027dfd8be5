"""Complete the deletion requests of a job: delete rows, clear ids and sign certificates.

The pipeline calls `delete_rows` and `finish` after the new release is live on all replicas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from app.domain.certificates import CertificateKind
from app.domain.errors import LeaseLostError
from app.domain.jobs import JobStatus, Stage
from app.domain.outbox import Topic
from app.domain.requests import RequestStatus, Scope
from app.services.certificates import deletion_content, issue
from app.services.orphaned_items import rated_item_ids, retire_orphans_of_job

if TYPE_CHECKING:
    from datetime import datetime

    from app.domain.jobs import Job, Lease
    from app.domain.requests import ForgetRequest, Outcome
    from app.services.certificates import Evidence
    from app.services.signatures import Signer
    from app.storage.unit_of_work import UnitOfWork

_R = RequestStatus
#: The statuses that lead a request without a job to `batched`, the status before completion.
_STEPS_TO_BATCHED: Final = {
    _R.SCHEDULED: (_R.BATCHED,),
    _R.ON_HOLD: (_R.SCHEDULED, _R.BATCHED),
    _R.DEAD: (_R.BATCHED,),
    _R.BATCHED: (_R.BATCHED,),
}


def delete_rows(uow: UnitOfWork, lease: Lease) -> int:
    """Delete the rows of the job's requests and return the number of deleted interactions.

    A repeated call is safe: no data about a suppressed subject is accepted in between.
    """
    uow.state.lock()
    uow.jobs.update(lease, stage=Stage.DELETE_ROWS)
    requests = uow.requests.of_job(lease.job_id)
    rated = rated_item_ids(uow, requests)
    deleted = sum(_delete_subject(uow, request) for request in requests)
    retire_orphans_of_job(uow, lease, rated)
    return deleted


def finish(
    uow: UnitOfWork, lease: Lease, signer: Signer, evidence: Evidence
) -> list[ForgetRequest]:
    """Complete every request of the job and the job itself, and return the requests.

    Call this last: after all replicas have confirmed the release and the old artifacts are
    shredded. A second call with the same lease changes nothing. Raises LeaseLostError.
    """
    uow.state.lock()
    job = uow.jobs.get(lease.job_id)
    if job.status is JobStatus.SUCCEEDED and job.epoch == lease.epoch:
        return uow.requests.of_job(job.id)
    uow.jobs.update(lease, stage=Stage.CERTIFY)  # Raises LeaseLostError before any other write.
    _adopt_open_requests(uow, job)
    requests = [r for r in uow.requests.of_job(job.id) if r.status is not RequestStatus.COMPLETED]
    for request in requests:
        _delete_subject(uow, request)
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


def _adopt_open_requests(uow: UnitOfWork, job: Job) -> None:
    """Assign the other open requests of completely deleted users to this job.

    The deletion of the user includes these requests, and they must not keep the user's id.
    """
    for request in uow.requests.of_job(job.id):
        subject = request.subject
        if subject is None or subject.scope is not Scope.USER or subject.user_id is None:
            continue
        for other in uow.requests.open_of_user(subject.user_id):
            if other.job_id == job.id:
                continue
            for status in _STEPS_TO_BATCHED[other.status]:
                uow.requests.change_status(other, [other.status], status=status, job_id=job.id)
                other = uow.requests.get(other.id)  # noqa: PLW2901 - the next step needs the row
            _copy_audit(uow, job, request, other)


def _delete_subject(uow: UnitOfWork, request: ForgetRequest) -> int:
    """Delete the rows of the request's subject and return the number of interactions."""
    subject = request.subject
    if subject is None:
        return 0
    if subject.user_id is None:
        # The change log has one entry per user who rated the item. The entries would still show
        # who rated the item.
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
    completed: tuple[datetime, int],
) -> None:
    """Set the request to `completed` at this (time, data version), with a signed certificate."""
    completed_at, completed_version = completed
    content = deletion_content(uow, request, job, evidence, completed_at)
    issue(uow, signer, request, CertificateKind.DELETION, content)
    is_updated = uow.requests.change_status(
        request,
        [request.status],
        status=RequestStatus.COMPLETED,
        subject=None,
        progress=1.0,
        outcome=_outcome(uow, job, request) or evidence.outcome,
        release=job.release,
        completed_at=completed_at,
        completed_version=completed_version,
    )
    if not is_updated:
        raise LeaseLostError(job_id=job.id, epoch=job.epoch)


def _copy_audit(uow: UnitOfWork, job: Job, request: ForgetRequest, adopted: ForgetRequest) -> None:
    """Give an adopted request the audit of the request that deletes its user."""
    uow.request_jobs.add(job.id, [adopted.id])
    for audit in uow.request_jobs.of_request(request.id):
        if audit.job_id == job.id:
            uow.request_jobs.set_audit(job.id, adopted.id, audit.outcome, audit.figures)


def _outcome(uow: UnitOfWork, job: Job, request: ForgetRequest) -> Outcome | None:
    """Return the audit's outcome of this request alone; None where the job made no release."""
    audits = {audit.job_id: audit.outcome for audit in uow.request_jobs.of_request(request.id)}
    return audits.get(job.id)
