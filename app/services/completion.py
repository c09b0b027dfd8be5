"""Complete a deletion: delete the rows and all plain ids, then certify the requests.

The worker calls `delete_rows` when all replicas serve the new release, and `finish` after the files
and the remains in the database were erased. `finish` writes no personal data. Both run under the
job's lease and both may be repeated.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from app.domain.certificates import CertificateKind
from app.domain.errors import LeaseLostError
from app.domain.jobs import JobStatus, Stage
from app.domain.outbox import Topic
from app.domain.requests import OPEN_STATUSES, Outcome, RequestStatus, Scope, Subject
from app.domain.scrubs import ScrubKind
from app.services import exactness
from app.services.certificates import deletion_content, envelope_digest, issue
from app.services.ledger import record_completed
from app.services.orphaned_items import rated_item_ids, retire_orphans_of_job
from app.services.repetition import end_repetition
from app.services.scrubs import owe_certificate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from app.domain.jobs import Job, Lease
    from app.domain.requests import ForgetRequest
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
    """Delete the rows and all plain ids of the job's subjects; return the number of interactions.

    The worker has deleted most interactions before (`app.services.row_deletion`), so that the data
    lock is held for a short time. Other open requests of completely deleted users, and requests of
    which no item is left, join the job. From this transaction on, no table has an id of the
    subjects, and the erasure of the remains in the database's files is owed. A repeated call finds
    nothing to delete, because no data about a suppressed subject is accepted in between.
    """
    uow.state.lock()
    uow.jobs.update(lease, stage=Stage.DELETE_ROWS)  # Raises LeaseLostError before other writes.
    _adopt_requests_of_deleted_users(uow, lease.job_id)
    every = uow.requests.of_job(lease.job_id)
    # Requests without plain ids have no rows to delete, but may have idempotency keys.
    uow.idempotency.forget_bodies([request.id for request in every])
    requests = [request for request in every if request.subject]
    if not requests:
        _take_over_erasures(uow, lease.job_id)
        return 0
    rated_items = {
        item_id: request for request in requests for item_id in rated_item_ids(uow, [request])
    }
    _count_shared_titles(uow, lease, requests)
    item_requests: dict[str, ForgetRequest] = {}
    interactions = 0
    for request in requests:
        rows = _delete_subject(uow, request)
        interactions += rows["interactions"]
        if request.scope is Scope.ITEM and request.subject is not None:
            item_requests |= dict.fromkeys(request.subject.item_ids, request)
        earlier = Counter({table: int(n) for table, n in (request.rows_deleted or {}).items()})
        uow.requests.write_rows_deleted(request.id, {**(earlier + rows)})
    # An orphaned item is deleted by the request that deleted its last interactions.
    for item_id in retire_orphans_of_job(uow, lease, rated_items):
        item_requests[item_id] = rated_items[item_id]
    if item_requests:
        _strip_items(uow, lease.job_id, item_requests)
        uow.state.bump("items")
    uow.scrubs.owe(
        ScrubKind.DATABASE, job_id=lease.job_id, transaction_id=uow.state.transaction_id()
    )
    return interactions


def _count_shared_titles(uow: UnitOfWork, lease: Lease, requests: Sequence[ForgetRequest]) -> None:
    """Record how many deleted items have the title of an item that stays.

    The words of such a title stay in the catalog, and in the prompts of language models.
    """
    item_ids = {
        item_id
        for request in requests
        if request.scope is Scope.ITEM and request.subject is not None
        for item_id in request.subject.item_ids
    }
    shared = uow.people.shared_titles(item_ids)
    if shared:
        metrics = uow.jobs.get(lease.job_id).metrics
        total = metrics.get("titles_shared", 0) + shared
        uow.jobs.update(lease, metrics={**metrics, "titles_shared": total})


def finish(
    uow: UnitOfWork, lease: Lease, signer: Signer, evidence: Evidence
) -> list[ForgetRequest]:
    """Certify and complete every request of the job and the job itself; return the requests.

    Call this last: after all replicas have confirmed the release and the old artifacts are
    shredded. A second call with the same lease changes nothing. Raises LeaseLostError.
    """
    uow.state.lock()
    job = uow.jobs.get(lease.job_id)
    if job.status is JobStatus.SUCCEEDED and job.epoch == lease.epoch:
        return uow.requests.of_job(job.id)
    # A job of an earlier version may be past its stage `delete_rows` and still have plain ids.
    delete_rows(uow, lease)
    uow.jobs.update(lease, stage=Stage.CERTIFY)
    requests = [r for r in uow.requests.of_job(job.id) if r.status is not RequestStatus.COMPLETED]
    version = uow.state.bump("completed")
    now = uow.state.now()
    for request in requests:
        _complete(uow, job, request, signer, evidence, (now, version))
    end_repetition(uow, requests)
    owe_certificate(uow, job.id)
    uow.jobs.update(lease, status=JobStatus.SUCCEEDED, stage=Stage.DONE, progress=1.0)
    uow.outbox.add(Topic.REQUEST, job.id)
    return uow.requests.of_job(job.id)


def _take_over_erasures(uow: UnitOfWork, job_id: str) -> None:
    """Owe the erasure for this job if an earlier job deleted the rows and still owes the erasure.

    The certificate lists only what the completing job owes.
    """
    own_ids = {scrub.id for scrub in uow.scrubs.open_of_job(job_id)}
    earlier_ids = {
        audit.job_id
        for request in uow.requests.of_job(job_id)
        if request.status is not RequestStatus.COMPLETED
        for audit in uow.request_jobs.of_request(request.id)
    } - {job_id}
    owed = [s for earlier_id in earlier_ids for s in uow.scrubs.open_of_job(earlier_id)]
    if not own_ids and any(scrub.kind == ScrubKind.DATABASE for scrub in owed):
        uow.scrubs.owe(ScrubKind.DATABASE, job_id=job_id, transaction_id=uow.state.transaction_id())


def _adopt_requests_of_deleted_users(uow: UnitOfWork, job_id: str) -> None:
    """Assign the other open requests of completely deleted users to this job.

    The deletion of the user includes these requests, and they must not keep the user's id.
    """
    for request in uow.requests.of_job(job_id):
        subject = request.subject
        if subject is not None and subject.scope is Scope.USER and subject.user_id is not None:
            _adopt(uow, job_id, uow.requests.open_of_user(subject.user_id), audited=request)


def _adopt(
    uow: UnitOfWork,
    job_id: str,
    requests: Iterable[ForgetRequest],
    audited: ForgetRequest | None = None,
) -> None:
    """Assign the requests to the job, with the audit of the request that includes them."""
    for request in requests:
        if request.job_id == job_id:
            continue
        for status in _STEPS_TO_BATCHED[request.status]:
            uow.requests.change_status(request, [request.status], status=status, job_id=job_id)
            request = uow.requests.get(request.id)  # noqa: PLW2901 - the next step needs the row
        uow.request_jobs.add(job_id, [request.id])
        if audited is not None:
            _copy_audit(uow, job_id, audited, request)


def _delete_subject(uow: UnitOfWork, request: ForgetRequest) -> Counter[str]:
    """Delete the rows and the plain ids of the request's subject; return table → rows changed."""
    subject = request.subject
    rows: Counter[str] = Counter(interactions=0)
    if subject is None:
        return rows
    if subject.user_id is None:
        # The change log has one entry per user who rated the item. The entries would still show
        # who rated the item.
        for user_id in {user for item in subject.item_ids for user in uow.people.raters_of(item)}:
            rows["data_changes"] += uow.state.forget_user_in_log(user_id)
        for item_id in subject.item_ids:
            rows["items"] += len(uow.people.known_items([item_id]))
            rows["interactions"] += uow.people.retire_item(item_id)
    elif subject.scope is Scope.USER:
        rows["data_changes"] += uow.state.forget_user_in_log(subject.user_id)
        rows["users"] += uow.people.user(subject.user_id) is not None
        rows["interactions"] += uow.people.delete_user(subject.user_id)
        # Requests of the same user that are not part of the job have ended.
        for other in uow.requests.naming_user(subject.user_id):
            rows["requests"] += 1
            if other.job_id != request.job_id:
                uow.requests.write_subject(other.id, None)
                uow.idempotency.forget_bodies([other.id])
    else:
        rows["data_changes"] += uow.state.forget_user_in_log(subject.user_id)
        rows["interactions"] += uow.people.delete_interactions(subject.user_id, subject.item_ids)
    uow.requests.write_subject(request.id, None)
    return rows


def _strip_items(uow: UnitOfWork, job_id: str, item_requests: dict[str, ForgetRequest]) -> None:
    """Remove deleted items from the requests that name them; requests without items join the job.

    `item_requests` has the request that deleted each item. The interactions with a deleted item are
    deleted, and the request keeps their keyed hashes, so this job is a job of the request with the
    audit of the item's deletion.
    """
    for request in uow.requests.naming_any_item(item_requests):
        if request.subject is None:
            continue
        audited = [item_requests[i] for i in request.subject.item_ids if i in item_requests]
        item_ids = tuple(i for i in request.subject.item_ids if i not in item_requests)
        if request.status in OPEN_STATUSES and request.job_id != job_id:
            uow.request_jobs.add(job_id, [request.id])
            _copy_audit(uow, job_id, _most_relevant(uow, job_id, audited), request)
        if item_ids:
            left = Subject(scope=request.scope, user_id=request.subject.user_id, item_ids=item_ids)
            uow.requests.write_subject(request.id, left)
            continue
        if request.status in OPEN_STATUSES:
            _adopt(uow, job_id, [request])
            uow.requests.write_rows_deleted(request.id, {"interactions": 0})
        uow.requests.write_subject(request.id, None)
        uow.idempotency.forget_bodies([request.id])


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
    request = exactness.at_completion(uow, job, request, evidence, completed_at)
    content = deletion_content(uow, request, job, evidence, completed_at)
    envelope = issue(uow, signer, request, CertificateKind.DELETION, content)
    facts = {
        "job": job.id,
        "release": job.release,
        "certificate": envelope_digest(envelope),
        "assurance": request.assurance.value,
    }
    record_completed(uow, request, facts)
    is_updated = uow.requests.change_status(
        request,
        [request.status],
        status=RequestStatus.COMPLETED,
        progress=1.0,
        outcome=request.outcome,
        release=job.release,
        completed_at=completed_at,
        completed_version=completed_version,
        assurance=request.assurance,
        exact_due_at=request.exact_due_at,
        exact_at=request.exact_at,
        exact_job_id=request.exact_job_id,
    )
    if not is_updated:
        raise LeaseLostError(job_id=job.id, epoch=job.epoch)


def _copy_audit(
    uow: UnitOfWork, job_id: str, audited: ForgetRequest, adopted: ForgetRequest
) -> None:
    """Give an adopted request the audit of the request that deletes its user, or its items."""
    for audit in uow.request_jobs.of_request(audited.id):
        if audit.job_id == job_id:
            figures = {**(audit.figures or {}), "included_in": audited.id}
            uow.request_jobs.set_audit(job_id, adopted.id, audit.outcome, figures)


def _most_relevant(uow: UnitOfWork, job_id: str, requests: list[ForgetRequest]) -> ForgetRequest:
    """Return the first request with rows in the weights by its audit in this job, or the first."""
    for request in requests:
        for audit in uow.request_jobs.of_request(request.id):
            if audit.job_id == job_id and audit.outcome is not Outcome.NOT_APPLICABLE:
                return request
    return requests[0]
