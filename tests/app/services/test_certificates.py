"""The content of certificates, their numbers, and who may sign them."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import update

from app.domain.certificates import Certificate, CertificateKind
from app.domain.errors import CertificateNotReadyError, SigningKeyRetiredError
from app.domain.identifiers import release_id
from app.domain.jobs import Job, JobKind, JobStatus, Stage
from app.domain.releases import Release, ReleaseStatus
from app.domain.requests import ForgetRequest, Outcome, RequestJob, RequestStatus, Scope, Subject
from app.domain.scrubs import OwedScrub
from app.services import signing_keys
from app.services.certificates import (
    Evidence,
    JobEvidence,
    build_content,
    certificate_of,
    certificates_of,
    deletion_content,
    issue,
    scrub_closed_content,
)
from app.services.jobs import advance
from app.services.signatures import Signer, TrustedKey, verify, verify_certificate
from app.storage.tables import RequestRow
from app.version import VERSION
from tests.support.first_version_certificates import sign_first_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.domain.jobs import Lease
    from app.services.pseudonyms import Pseudonyms
    from app.storage.engine import Database
    from app.storage.unit_of_work import UnitOfWorkFactory

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DIGEST = "d" * 64
REQUEST = ForgetRequest(
    id="req_1",
    scope=Scope.USER,
    subject=Subject(scope=Scope.USER, user_id="a-person"),
    subject_hashes=("hash",),
    status=RequestStatus.ROLLING_OUT,
    created_at=NOW,
    due_at=NOW,
    cancellable_until=NOW,
    rows_deleted={"interactions": 20, "users": 1},
)
JOB = Job(
    id="job_2",
    kind=JobKind.FORGET,
    status=JobStatus.ROLLING_OUT,
    method="e2urec",
    stage=Stage.CERTIFY,
    epoch=3,
    created_at=NOW,
    release="rel_2",
    parent_release="rel_1",
)
EVIDENCE = Evidence(outcome=Outcome.PASSED, figures={"auc": 0.75})


class TestContent:
    """`build_content`, which reads nothing."""

    def test_every_job_is_cited_with_its_audit_and_release(self) -> None:
        failed = JOB.evolve(
            id="job_1", stage=Stage.AUDIT, error="audit: MemoryError", epoch=1, release=None
        )
        release = Release(
            id="rel_2",
            digest=DIGEST,
            parent="rel_1",
            job_id="job_2",
            status=ReleaseStatus.LIVE,
            method="e2urec",
            outcome=Outcome.PASSED,
            path="releases/rel_2",
            created_at=NOW,
        )
        retries = {"shred": {"count": 2, "error": "shred: OSError"}}
        audit = RequestJob(
            request_id="req_1", job_id="job_2", outcome=Outcome.INCONCLUSIVE, figures={"n": 2}
        )
        content = build_content(
            REQUEST,
            JOB,
            EVIDENCE,
            NOW,
            jobs=[
                JobEvidence(job=failed),
                JobEvidence(
                    job=JOB.evolve(metrics={"retries": retries}), audit=audit, release=release
                ),
            ],
        )
        first, second = content["jobs"]
        assert (first["retries"], second["retries"]) == ({}, retries)
        assert (first["id"], first["stage"], first["error"]) == (
            "job_1",
            "audit",
            "audit: MemoryError",
        )
        assert (first["release"], first["outcome"], first["claims"]) == (None, None, 1)
        # The job succeeds in the transaction that stores the certificate.
        assert (second["status"], second["stage"], second["claims"]) == ("succeeded", "done", 3)
        assert second["release"]["sha256"] == DIGEST
        assert second["figures"] == {"n": 2}
        # The request has a verdict of its own, beside the verdict of the batch.
        assert (content["outcome"], content["figures"]) == ("inconclusive", {"n": 2})
        batch = content["batch"]
        assert (batch["outcome"], batch["figures"]) == ("passed", {"auc": 0.75})
        assert batch["sentence"].startswith("The batch as a whole passed")

    def test_a_request_without_an_audit_of_its_own_never_passes(self) -> None:
        """What the batch as a whole shows proves nothing about one person."""
        content = build_content(REQUEST, JOB, EVIDENCE, NOW)
        assert (content["batch"]["outcome"], content["outcome"]) == ("passed", "inconclusive")
        assert "cannot be told whether this person" in content["finding"]["sentence"]

    def test_facts_that_were_not_recorded_are_null(self) -> None:
        request = REQUEST.evolve(rows_deleted=None)
        content = build_content(request, JOB, EVIDENCE, NOW)
        for name in ("figures", "rows_deleted", "replicas", "fenced_replicas"):
            assert content[name] is None

    def test_replicas_rows_and_owed_erasures_are_stated(self) -> None:
        replica = {"replica": "rep_1", "confirmed_at": NOW.isoformat(), "precision": "float32"}
        evidence = Evidence(outcome=Outcome.PASSED, replicas=(replica,), fenced_replicas=("rep_2",))
        scrub = OwedScrub(
            id=1,
            kind="staging",
            job_id="job_2",
            host="machine-2",
            path="/a/b",
            transaction_id=None,
            attempts=2,
            error="PermissionError",
            created_at=NOW,
        )
        content = build_content(REQUEST, JOB, evidence, NOW, owed=[scrub])
        assert content["rows_deleted"] == {"interactions": 20, "users": 1}
        assert content["replicas"] == [replica]
        assert content["fenced_replicas"] == ["rep_2"]
        assert content["open"] == [
            {"kind": "staging", "since": NOW.isoformat(), "host": "machine-2"}
        ]

    def test_content_has_no_plain_id(self) -> None:
        assert "a-person" not in json.dumps(build_content(REQUEST, JOB, EVIDENCE, NOW))


@pytest.fixture
def lease(
    catalog: UnitOfWorkFactory, forget: Callable[..., ForgetRequest], start_job: Callable[[], Lease]
) -> Lease:
    """Return the lease of a job with one deletion request."""
    forget("ann")
    lease = start_job()
    with catalog() as uow:
        advance(uow, lease, status=JobStatus.ROLLING_OUT)
    return lease


def issue_deletion(factory: UnitOfWorkFactory, lease: Lease, signer: Signer) -> str:
    """Issue the first certificate of the job's request; return the request's id."""
    with factory() as uow:
        (request,) = uow.requests.of_job(lease.job_id)
        job = uow.jobs.get(lease.job_id)
        content = deletion_content(uow, request, job, EVIDENCE, uow.state.now())
        issue(uow, signer, request, CertificateKind.DELETION, content)
    return request.id


def newest_content(factory: UnitOfWorkFactory, request_id: str, signer: Signer) -> dict[str, Any]:
    with factory(write=False) as uow:
        return verify_certificate(certificate_of(uow, request_id), signer.public_pem())


def test_certificate_names_key_software_and_number(
    catalog: UnitOfWorkFactory, lease: Lease, signer: Signer
) -> None:
    request_id = issue_deletion(catalog, lease, signer)
    content = newest_content(catalog, request_id, signer)
    assert content["key_id"] == signer.key_id
    assert content["software"] == f"lethe {VERSION}"
    assert (content["kind"], content["number"]) == ("deletion", 1)
    with catalog(write=False) as uow:
        (key,) = uow.signing_keys.all()
        (certificate,) = certificates_of(uow, request_id)
    assert key.valid_from <= datetime.fromisoformat(content["issued_at"])
    assert certificate.number == 1
    assert certificate.kind == "deletion"


def test_job_recorded_for_the_request_is_cited(
    catalog: UnitOfWorkFactory, lease: Lease, signer: Signer
) -> None:
    figures = {"loss_increase": 3.0}
    with catalog() as uow:
        (request,) = uow.requests.of_job(lease.job_id)
        earlier = Job(
            id="job_0000",
            kind=JobKind.FORGET,
            status=JobStatus.FAILED,
            method="e2urec-fast",
            stage=Stage.UNLEARN,
            error="unlearn: MemoryError",
            created_at=NOW,
        )
        uow.jobs.add(earlier)
        uow.request_jobs.add(earlier.id, [request.id])
        uow.request_jobs.add(lease.job_id, [request.id])
        uow.request_jobs.set_audit(lease.job_id, request.id, Outcome.EXACT, figures)
    content = newest_content(catalog, issue_deletion(catalog, lease, signer), signer)
    assert [job["id"] for job in content["jobs"]] == ["job_0000", lease.job_id]
    assert content["jobs"][0]["error"] == "unlearn: MemoryError"
    assert (content["outcome"], content["figures"]) == ("exact", figures)


def test_subject_is_the_release_or_before_the_first_release_the_request(
    catalog: UnitOfWorkFactory, lease: Lease, signer: Signer, pseudonyms: Pseudonyms
) -> None:
    request_id = issue_deletion(catalog, lease, signer)
    key = TrustedKey(public_key=signer.key.public_key())
    hashes = hashlib.sha256(f"{pseudonyms.user('ann')}\n".encode()).hexdigest()
    with catalog() as uow:
        request = uow.requests.get(request_id)
        first = verify(certificate_of(uow, request_id), [key])
        release = Release(
            id=release_id(DIGEST),
            digest=DIGEST,
            parent=None,
            job_id=lease.job_id,
            status=ReleaseStatus.CANDIDATE,
            method="train",
            outcome=None,
            path="p",
            created_at=NOW,
        )
        uow.releases.add(release)
        content = first.content | {"release": release.id}
        second = issue(uow, signer, request, CertificateKind.SCRUB_CLOSED, content)
    assert first.subject == ({"name": request_id, "digest": {"sha256": hashes}},)
    assert verify(second, [key]).subject == ({"name": release.id, "digest": {"sha256": DIGEST}},)


def test_closed_erasure_gives_a_second_certificate(
    catalog: UnitOfWorkFactory, lease: Lease, signer: Signer
) -> None:
    with catalog() as uow:
        scrub_id = uow.scrubs.owe("database", job_id=lease.job_id)
    request_id = issue_deletion(catalog, lease, signer)
    first = newest_content(catalog, request_id, signer)
    assert [scrub["kind"] for scrub in first["open"]] == ["database"]
    with catalog() as uow:
        uow.scrubs.close(scrub_id)
        request = uow.requests.get(request_id)
        content = scrub_closed_content(uow, request)
        issue(uow, signer, request, CertificateKind.SCRUB_CLOSED, content)
    second = newest_content(catalog, request_id, signer)
    assert (second["kind"], second["number"], second["open"]) == ("scrub-closed", 2, [])
    assert second["closes"]["open"] == first["open"]
    assert second["rows_deleted"] == first["rows_deleted"]
    with catalog(write=False) as uow:
        assert [c.number for c in certificates_of(uow, request_id)] == [1, 2]


def test_erasure_owed_since_an_earlier_version_is_closed_by_a_certificate(
    catalog: UnitOfWorkFactory, lease: Lease, signer: Signer
) -> None:
    payload = {"type": "lethe/deletion", "version": 1, "release": None, "outcome": "passed"}
    with catalog() as uow:
        (request,) = uow.requests.of_job(lease.job_id)
        earlier = sign_first_version(signer, payload)
        uow.certificates.add(
            [
                Certificate(
                    request_id=request.id,
                    number=1,
                    kind=CertificateKind.DELETION,
                    envelope=earlier,
                    created_at=NOW,
                )
            ]
        )
        content = scrub_closed_content(uow, request)
        issue(uow, signer, request, CertificateKind.SCRUB_CLOSED, content)
    content = newest_content(catalog, request.id, signer)
    assert (content["number"], content["outcome"], content["open"]) == (2, "passed", [])
    assert content["closes"]["open"] is None  # The earlier version did not record it.


def test_certificate_of_a_worker_of_the_previous_version_is_found(
    catalog: UnitOfWorkFactory, database: Database, lease: Lease, signer: Signer
) -> None:
    """Such a worker, still running after the upgrade, stores the certificate in the request."""
    earlier = sign_first_version(signer, {"version": 1, "release": None})
    with database.write.begin() as connection:
        connection.execute(
            update(RequestRow).values(certificate=earlier, completed_at=NOW, status="completed")
        )
    with catalog() as uow:
        (request,) = uow.requests.of_job(lease.job_id)
        assert certificate_of(uow, request.id) == earlier
        content = scrub_closed_content(uow, request)
        issue(uow, signer, request, CertificateKind.SCRUB_CLOSED, content)
    with catalog(write=False) as uow:
        first, second = certificates_of(uow, request.id)
    assert (first.number, first.envelope, second.number) == (1, earlier, 2)


def test_retired_key_signs_nothing(
    catalog: UnitOfWorkFactory, lease: Lease, signer: Signer
) -> None:
    with catalog() as uow:
        signing_keys.register(uow, signer)
    with catalog() as uow:
        signing_keys.register(uow, Signer(Ed25519PrivateKey.generate()))
    with pytest.raises(SigningKeyRetiredError):
        issue_deletion(catalog, lease, signer)
    with catalog(write=False) as uow, pytest.raises(CertificateNotReadyError):
        certificate_of(uow, uow.requests.of_job(lease.job_id)[0].id)
