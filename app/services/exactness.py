"""Assurance: decide whether a deletion is exact, and certify deletions that became exact.

A deletion is exact if no choice of the live weights, time bounds and vocabulary included, saw the
erased rows. Approximate deletions become exact when weights that were trained from scratch on a
later snapshot are live. The worker then calls `certify_exact` until no such request is left. Each
call is one transaction with a limited number of requests, which may be repeated after a crash.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from app.domain.certificates import CertificateKind
from app.domain.findings import Prospect, finding
from app.domain.jobs import Stage
from app.domain.requests import Assurance, Outcome
from app.services.certificates import (
    JobEvidence,
    content_of,
    envelope_digest,
    exact_terms,
    job_facts,
    owed_facts,
    own_outcome,
    sign,
)
from app.services.ledger import record_exact
from app.services.signing_keys import register

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from app.domain.certificates import Certificate
    from app.domain.jobs import Job, Lease
    from app.domain.releases import Release
    from app.domain.requests import ForgetRequest, RequestJob
    from app.domain.scrubs import OwedScrub
    from app.services.certificates import Evidence
    from app.services.signatures import Signer
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork

#: Entry of a release's metrics with the facts of its training from scratch. The worker writes the
#: entry only for a training that made every choice on the snapshot of its job.
FROM_SCRATCH: Final = "from_scratch"
#: The data lock is held while the certificates of one transaction are signed.
REQUESTS_PER_TRANSACTION: Final = 200


def is_from_scratch(release: Release | None) -> bool:
    """Return whether the weights were trained from scratch, without anything of older weights."""
    return (
        release is not None
        and FROM_SCRATCH in release.metrics
        and release.outcome in (None, Outcome.EXACT)
    )


def at_completion(
    uow: UnitOfWork, job: Job, request: ForgetRequest, evidence: Evidence, completed_at: datetime
) -> ForgetRequest:
    """Return the request with its outcome, its assurance and its times, completed by this job.

    Call this before the request is written as completed. An inconclusive outcome moves the promised
    time of the exact training to half of the remaining time.
    """
    audits = {audit.job_id: audit for audit in uow.request_jobs.of_request(request.id)}
    own = audits.get(job.id)
    outcome = own_outcome(own, evidence)
    due_at = request.exact_due_at
    if due_at is None and evidence.exact_days is not None:
        due_at = request.created_at + timedelta(days=evidence.exact_days)
    request = request.evolve(outcome=outcome, exact_due_at=due_at)
    if _is_exact(uow, job, audits):
        return request.evolve(assurance=Assurance.EXACT, exact_at=completed_at, exact_job_id=job.id)
    if due_at is not None and due_at > completed_at and outcome is Outcome.INCONCLUSIVE:
        due_at = completed_at + (due_at - completed_at) / 2
    return request.evolve(assurance=Assurance.APPROXIMATE, exact_due_at=due_at)


def adopt_earlier_completions(uow: UnitOfWork, settings: Settings) -> None:
    """Give an assurance to deletions that workers of an earlier version completed."""
    uow.requests.stamp_assurance(timedelta(days=settings.exact_days))


def certify_exact(uow: UnitOfWork, lease: Lease, signer: Signer, evidence: Evidence) -> list[str]:
    """Certify approximate deletions that the job's release made exact; return their ids.

    At most REQUESTS_PER_TRANSACTION are certified. Fewer ids mean that none is left. Call this when
    all replicas serve the release and the older weights are unlinked. Raises LeaseLostError.
    """
    uow.state.lock()
    uow.jobs.update(lease, stage=Stage.CERTIFY)
    job = uow.jobs.get(lease.job_id)
    release = None if job.release is None else uow.releases.get(job.release)
    if release is None or not is_from_scratch(release):
        return []
    snapshot_version = release.metrics[FROM_SCRATCH]["data_version"]
    requests = uow.requests.approximate_until(snapshot_version, REQUESTS_PER_TRANSACTION)
    if requests:
        register(uow, signer)
        _Certifier(uow, signer, evidence, job, release).certify(requests)
    return [request.id for request in requests]


class _Certifier:
    """Issues the exact certificates of one transaction."""

    def __init__(
        self, uow: UnitOfWork, signer: Signer, evidence: Evidence, job: Job, release: Release
    ) -> None:
        self._uow = uow
        self._signer = signer
        self._evidence = evidence
        self._job = job
        self._release = release
        self._now = uow.state.now()
        #: Job id → the erasures that the job owes.
        self._owed: dict[str, list[OwedScrub]] = {}

    def certify(self, requests: Sequence[ForgetRequest]) -> None:
        """Issue a certificate and write a ledger record for each request, and mark it as exact."""
        uow, job = self._uow, self._job
        request_ids = [request.id for request in requests]
        earlier = uow.certificates.of_requests(request_ids)
        lifted = uow.suppressions.lifted_since(request_ids)
        issued: list[Certificate] = []
        for request in requests:
            request = request.evolve(  # noqa: PLW2901 - as the row will be
                assurance=Assurance.EXACT, exact_at=self._now, exact_job_id=job.id
            )
            content = self._content(request, earlier[request.id], lifted.get(request.id))
            certificate = sign(
                self._signer,
                request,
                CertificateKind.EXACT,
                content,
                number=max((c.number for c in earlier[request.id]), default=0) + 1,
                issued_at=self._now,
                subject=(self._release.id, self._release.digest),
            )
            issued.append(certificate)
            digest = envelope_digest(certificate.envelope)
            facts = {"job": job.id, "release": self._release.id, "certificate": digest}
            record_exact(uow, request, facts)
        uow.certificates.add(issued)
        uow.request_jobs.add(job.id, request_ids, outcome=Outcome.EXACT)
        uow.requests.make_exact(request_ids, job.id, self._now)

    def _content(
        self, request: ForgetRequest, earlier: Sequence[Certificate], returned_at: datetime | None
    ) -> dict[str, Any]:
        """Return the content, which says everything without the certificate that it cites."""
        job, release, evidence = self._job, self._release, self._evidence
        deletion = next((c for c in reversed(earlier) if c.kind == CertificateKind.DELETION), None)
        deleted = {} if deletion is None else content_of(deletion.envelope)
        completed_at = request.completed_at
        return {
            "request_id": request.id,
            "scope": request.scope.value,
            "subject_hashes": sorted(request.subject_hashes),
            "requested_at": request.created_at.isoformat(),
            "completed_at": None if completed_at is None else completed_at.isoformat(),
            "exact_at": self._now.isoformat(),
            "job_id": job.id,
            "method": release.method,
            "release": release.id,
            "parent_release": job.parent_release,
            "outcome": Outcome.EXACT.value,
            "finding": finding(
                request.scope, Outcome.EXACT, None, Prospect.of(request, evidence.exact_mode)
            ).values(),
            "assurance": request.assurance.value,
            "exact": exact_terms(request, evidence),
            "training": training_facts(release),
            "cites": _citation(deletion, deleted),
            "returned": None if returned_at is None else {"since": returned_at.isoformat()},
            "jobs": [*(deleted.get("jobs") or ()), self._own_job()],
            "rows_deleted": request.rows_deleted,
            "replicas": None if evidence.replicas is None else list(evidence.replicas),
            "fenced_replicas": None
            if evidence.fenced_replicas is None
            else list(evidence.fenced_replicas),
            "shredded": evidence.shredded,
            "open": owed_facts(self._owed_by(request.job_id) + self._owed_by(job.id)),
            "not_covered": list(evidence.not_covered),
        }

    def _own_job(self) -> dict[str, Any]:
        """Return the facts about the exact job, which has not ended yet."""
        return job_facts(JobEvidence(job=self._job, release=self._release), is_completing=False)

    def _owed_by(self, job_id: str | None) -> list[OwedScrub]:
        if job_id is None:
            return []
        if job_id not in self._owed:
            self._owed[job_id] = self._uow.scrubs.open_of_job(job_id)
        return self._owed[job_id]


def training_facts(release: Release) -> dict[str, Any]:
    """Return what a certificate states about a training from scratch."""
    return {
        **release.metrics[FROM_SCRATCH],
        "trained_at": release.created_at.isoformat(),
        "live_at": None if release.live_at is None else release.live_at.isoformat(),
        "seconds": release.training_seconds,
        "quality": release.metrics.get("audit", {}).get("quality"),
    }


def _citation(deletion: Certificate | None, content: dict[str, Any]) -> dict[str, Any] | None:
    """Return what identifies the certificate of the deletion; None if it does not exist."""
    if deletion is None:
        return None
    return {
        "number": deletion.number,
        "sha256": envelope_digest(deletion.envelope),
        "key_id": content.get("key_id"),
        "release": content.get("release"),
        "outcome": content.get("outcome"),
    }


def _is_exact(uow: UnitOfWork, job: Job, audits: Mapping[str, RequestJob]) -> bool:
    """Return whether nothing of the live weights saw the request's rows.

    Never by default: without an audit of this request alone, the deletion is approximate.
    """
    if job.release is None:
        return uow.releases.alias().live is None
    if is_from_scratch(uow.releases.get(job.release)):
        return True
    own = audits.get(job.id)
    if own is None or own.outcome is not Outcome.NOT_APPLICABLE:
        return False
    # Another request may have deleted a part of the rows in an earlier job.
    measured = [audit for audit in audits.values() if audit.outcome is not None]
    return all(_saw_nothing(audit) for audit in measured)


def _saw_nothing(audit: RequestJob) -> bool:
    if audit.outcome is Outcome.EXACT:
        return True
    known_rows = (audit.figures or {}).get("known_rows")
    return audit.outcome is Outcome.NOT_APPLICABLE and known_rows == 0
