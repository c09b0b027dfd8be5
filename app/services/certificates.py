"""Deletion certificates: build their content, issue them and return them."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from app.domain.batch_audits import audits_of, batch_sentence
from app.domain.certificates import Certificate
from app.domain.errors import CertificateNotReadyError, UnknownCertificateError
from app.domain.findings import finding_of
from app.domain.jobs import JobStatus, Stage
from app.domain.renewal import ExactMode
from app.domain.requests import Outcome
from app.domain.scrubs import ScrubKind
from app.services.repetition import lost_certificate
from app.services.signatures import canonical_json
from app.services.signing_keys import register
from app.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from app.domain.certificates import CertificateKind
    from app.domain.jobs import Job
    from app.domain.releases import Release
    from app.domain.requests import ForgetRequest, RequestJob
    from app.domain.scrubs import OwedScrub
    from app.services.signatures import Signer
    from app.storage.unit_of_work import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The facts about a batch of deletions that its certificates state.

    A fact that was not recorded is None or empty; a certificate never states a guess.
    """

    outcome: Outcome
    #: Figures of the release's training and of the audit of the whole batch.
    figures: dict[str, Any] = field(default_factory=dict)
    #: Path → SHA-256 of each unlinked file.
    shredded: dict[str, str] = field(default_factory=dict)
    #: The replicas that confirmed the release, as `worker.stages.roll_out` records them.
    replicas: tuple[dict[str, Any], ...] | None = None
    #: Ids of the replicas that did not confirm in time and were fenced.
    fenced_replicas: tuple[str, ...] | None = None
    #: When renewals run, and the days after a request in which an exact training is promised.
    exact_mode: ExactMode | None = None
    exact_days: float | None = None
    #: Places that may still hold the data and that Lethe cannot erase, such as backups.
    not_covered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvidence:
    """A job that took part in a request, its audit of this request, and its release."""

    job: Job
    audit: RequestJob | None = None
    release: Release | None = None


def deletion_content(
    uow: UnitOfWork, request: ForgetRequest, job: Job, evidence: Evidence, completed_at: datetime
) -> dict[str, Any]:
    """Read what the database records about the request, and return the certificate's content.

    Call this in the transaction that completes the request with `job`, after the rows are deleted.
    """
    audits = {audit.job_id: audit for audit in uow.request_jobs.of_request(request.id)}
    jobs = []
    for job_id in sorted({*audits, job.id}):
        cited = job if job_id == job.id else uow.jobs.get(job_id)
        release = None if cited.release is None else uow.releases.get(cited.release)
        jobs.append(JobEvidence(job=cited, audit=audits.get(job_id), release=release))
    owed = uow.scrubs.open_of_job(job.id)
    return build_content(request, job, evidence, completed_at, jobs=jobs, owed=owed)


def build_content(
    request: ForgetRequest,
    job: Job,
    evidence: Evidence,
    completed_at: datetime,
    *,
    jobs: Iterable[JobEvidence] = (),
    owed: Iterable[OwedScrub] = (),
) -> dict[str, Any]:
    """Return the content for one request, which identifies the subject by keyed hashes only."""
    cited = list(jobs) or [JobEvidence(job=job)]
    audit = next((each.audit for each in cited if each.job.id == job.id), None)
    outcome = own_outcome(audit, evidence)
    finding = finding_of(
        request.evolve(outcome=outcome),
        audit,
        evidence.exact_mode,
        has_release=job.release is not None,
    )
    replicas = None if evidence.replicas is None else list(evidence.replicas)
    fenced = None if evidence.fenced_replicas is None else list(evidence.fenced_replicas)
    return {
        "request_id": request.id,
        "scope": request.scope.value,
        "subject_hashes": sorted(request.subject_hashes),
        "requested_at": request.created_at.isoformat(),
        "completed_at": completed_at.isoformat(),
        # Only of a deletion that is repeated because a backup was restored.
        **({} if (lost := lost_certificate(request)) is None else {"repeats": lost}),
        "job_id": job.id,
        "method": job.method,
        "release": job.release,
        "parent_release": job.parent_release,
        "outcome": outcome.value,
        "finding": None if finding is None else finding.values(),
        "assurance": request.assurance.value,
        "exact_at": None if request.exact_at is None else request.exact_at.isoformat(),
        "exact": exact_terms(request, evidence),
        "figures": None if audit is None else audit.figures,
        "batch": {
            "outcome": evidence.outcome.value,
            "sentence": batch_sentence(evidence.outcome, evidence.figures.get("audit") or {}),
            "figures": evidence.figures,
        },
        "jobs": [job_facts(each, is_completing=each.job.id == job.id) for each in cited],
        "rows_deleted": request.rows_deleted,
        "replicas": replicas,
        "fenced_replicas": fenced,
        "shredded": evidence.shredded,
        "open": owed_facts(owed),
        "not_covered": [*evidence.not_covered, *_kept_texts(job)],
    }


def own_outcome(audit: RequestJob | None, evidence: Evidence) -> Outcome:
    """Return the outcome of a request by the job's audit of this request.

    Where no audit of the request alone was recorded, the outcome is that of the batch, but never
    `passed`: what the batch as a whole shows proves nothing about one person.
    """
    if audit is not None and audit.outcome is not None:
        return audit.outcome
    return Outcome.INCONCLUSIVE if evidence.outcome is Outcome.PASSED else evidence.outcome


def exact_terms(request: ForgetRequest, evidence: Evidence) -> dict[str, Any]:
    """Return when an exact training follows: LETHE_EXACT, and the promised time unless `off`."""
    mode = evidence.exact_mode
    due_at = None if mode is ExactMode.OFF else request.exact_due_at
    return {
        "mode": None if mode is None else mode.value,
        "due_at": None if due_at is None else due_at.isoformat(),
    }


def _kept_texts(job: Job) -> list[str]:
    """Return the statement about catalog texts that may have come with the deleted rows."""
    texts: list[str] = []
    shared = job.metrics.get("titles_shared", 0)
    if shared:
        texts.append(
            f"the words of {shared} titles of deleted items: other items of the catalog have the"
            " same titles, and their words stay in the catalog and in the prompts of models"
        )
    kept = job.metrics.get("catalog_entries_kept", 0)
    if not kept:
        return texts
    text = (
        f"titles and attributes of {kept} catalog entries that deleted ratings named: an earlier"
        " version did not record whose texts they are; import the catalog again to replace them"
    )
    return [*texts, text]


def scrub_closed_content(uow: UnitOfWork, request: ForgetRequest) -> dict[str, Any]:
    """Return the newest certificate's content, with the erasures that are owed now.

    These erasures are owed by the job that completed the request, or by the job that made the
    deletion exact. Call this function in the transaction that closes an erasure of these jobs.
    """
    newest = _newest(uow, request)
    content = content_of(newest.envelope)
    digest = envelope_digest(newest.envelope)
    return content | {
        "open": owed_facts(owed_erasures(uow, request)),
        "closes": {"open": content.get("open"), "number": newest.number, "sha256": digest},
    }


def owed_erasures(uow: UnitOfWork, request: ForgetRequest) -> list[OwedScrub]:
    """Return the open erasures of the jobs that completed the request and made it exact."""
    job_ids = dict.fromkeys([request.job_id, request.exact_job_id])
    return [scrub for job_id in job_ids if job_id for scrub in uow.scrubs.open_of_job(job_id)]


def issue(
    uow: UnitOfWork,
    signer: Signer,
    request: ForgetRequest,
    kind: CertificateKind,
    content: Mapping[str, Any],
) -> dict[str, Any]:
    """Sign and store the next certificate of the request, and return its envelope.

    `content` comes from `deletion_content` or `scrub_closed_content`. Raises
    SigningKeyRetiredError if another worker has a newer signing key.
    """
    uow.state.lock()
    register(uow, signer)
    certificate = sign(
        signer,
        request,
        kind,
        content,
        number=len(uow.certificates.of_request(request.id)) + 1,
        issued_at=uow.state.now(),
        subject=_subject_of(uow, request, content),
    )
    uow.certificates.add([certificate])
    return certificate.envelope


def sign(
    signer: Signer,
    request: ForgetRequest,
    kind: CertificateKind,
    content: Mapping[str, Any],
    *,
    number: int,
    issued_at: datetime,
    subject: tuple[str, str],
) -> Certificate:
    """Return a signed certificate about the subject with this name and SHA-256."""
    predicate = {
        **content,
        "kind": kind.value,
        "number": number,
        "issued_at": issued_at.isoformat(),
        "software": f"lethe {VERSION}",
        "key_id": signer.key_id,
    }
    name, sha256 = subject
    return Certificate(
        request_id=request.id,
        number=number,
        kind=kind.value,
        envelope=signer.sign(predicate, name=name, sha256=sha256),
        created_at=issued_at,
    )


def certificate_of(uow: UnitOfWork, request_id: str, number: int | None = None) -> dict[str, Any]:
    """Return the newest certificate, or the certificate with this number.

    Raises CertificateNotReadyError before completion, and UnknownCertificateError.
    """
    newest = _newest(uow, uow.requests.get(request_id))
    if number is None:
        return newest.envelope
    for certificate in uow.certificates.of_request(request_id):
        if certificate.number == number:
            return certificate.envelope
    raise UnknownCertificateError(number=number)


def certificates_of(uow: UnitOfWork, request_id: str) -> list[Certificate]:
    """Return all certificates of the request, oldest first; an empty list before completion."""
    return uow.certificates.of_request(uow.requests.get(request_id).id)


def content_of(envelope: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a stored certificate of any version, without its signature."""
    if "payloadType" not in envelope:
        first_version: dict[str, Any] = dict(envelope["payload"])
        return {k: v for k, v in first_version.items() if k not in {"type", "version"}}
    statement = json.loads(base64.b64decode(envelope["payload"]))
    predicate: dict[str, Any] = statement["predicate"]
    return predicate


def envelope_digest(envelope: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the envelope's canonical JSON, by which other documents cite it."""
    return hashlib.sha256(canonical_json(envelope)).hexdigest()


def is_cited(envelope: Mapping[str, Any], content: Mapping[str, Any]) -> bool:
    """Return whether the content cites this envelope as the certificate of the deletion."""
    cited, first = content.get("cites") or {}, content_of(envelope)
    return (
        cited.get("sha256") == envelope_digest(envelope)
        # Certificates of the first version state no number.
        and cited.get("number") == first.get("number", 1)
        and content.get("request_id") == first.get("request_id")
    )


def _newest(uow: UnitOfWork, request: ForgetRequest) -> Certificate:
    certificates = uow.certificates.of_request(request.id)
    if not certificates:
        raise CertificateNotReadyError(status=request.status)
    return certificates[-1]


def _subject_of(
    uow: UnitOfWork, request: ForgetRequest, content: Mapping[str, Any]
) -> tuple[str, str]:
    """Return name and SHA-256 of the release, or before the first release those of the request."""
    release_id = content.get("release")
    release = None if release_id is None else uow.releases.get(release_id)
    if release is not None:
        return release.id, release.digest
    lines = "".join(f"{subject_hash}\n" for subject_hash in sorted(request.subject_hashes))
    return request.id, hashlib.sha256(lines.encode()).hexdigest()


def job_facts(evidence: JobEvidence, *, is_completing: bool) -> dict[str, Any]:
    """Return what a certificate states about a job, its audit of the request, and its release."""
    job, audit, release = evidence.job, evidence.audit, evidence.release
    return {
        "id": job.id,
        "kind": job.kind.value,
        "method": job.method,
        # The completing job succeeds in the transaction that stores the certificate.
        "status": (JobStatus.SUCCEEDED if is_completing else job.status).value,
        "stage": (Stage.DONE if is_completing else job.stage).value,
        "error": job.error,
        "claims": job.epoch,
        # Stage → failed tries that did not end the job.
        "retries": job.metrics.get("retries", {}),
        # Weights that were built and audited, in order; only the last ones may have been served.
        "audits": audits_of(job),
        "outcome": None if audit is None or audit.outcome is None else audit.outcome.value,
        "figures": None if audit is None else audit.figures,
        "release": None
        if release is None
        else {
            "id": release.id,
            "sha256": release.digest,
            "parent": release.parent,
            "method": release.method,
            "outcome": None if release.outcome is None else release.outcome.value,
        },
    }


def owed_facts(owed: Iterable[OwedScrub]) -> list[dict[str, Any]]:
    """Return what a certificate states about open erasures, without owed certificates."""
    return [
        {"kind": scrub.kind, "since": scrub.created_at.isoformat(), "host": scrub.host}
        for scrub in owed
        if scrub.kind != ScrubKind.CERTIFICATE
    ]
