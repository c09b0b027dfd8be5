"""Owed erasures: certify that the last one of a completed job was carried out.

`worker/scrubbing.py` carries them out. Any process can do that, but only workers have the signing
key, so the certificate is itself a row that stays open until a worker has issued it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from app.domain.certificates import CertificateKind
from app.domain.outbox import Topic
from app.domain.scrubs import ScrubKind
from app.services.certificates import issue, scrub_closed_content

if TYPE_CHECKING:
    from app.services.signatures import Signer
    from app.storage.unit_of_work import UnitOfWork

#: The data lock is held while the certificates of one transaction are signed.
CERTIFICATES_PER_TRANSACTION: Final = 200


def owe_certificate(uow: UnitOfWork, job_id: str) -> None:
    """Owe a further certificate if erasures of the job are open.

    Call this in the transaction that completes the job, after its certificates are issued.
    """
    if uow.scrubs.open_of_job(job_id):
        uow.scrubs.owe(ScrubKind.CERTIFICATE, job_id=job_id)


def ready_for_certificate(uow: UnitOfWork) -> list[str]:
    """Return the jobs that owe a certificate and no erasure any more."""
    owing = {scrub.job_id for scrub in uow.scrubs.open_ones(kind=ScrubKind.CERTIFICATE)}
    return sorted(job_id for job_id in owing if job_id and not _owes_erasure(uow, job_id))


def certify_closed(uow: UnitOfWork, signer: Signer, job_id: str) -> list[str]:
    """Issue the owed certificate of the next requests of the job, and return their ids.

    A job may have made many requests exact, so one transaction issues a limited number of
    certificates. Call this until the job owes nothing. Return an empty list if an erasure is still
    open, or if the certificates were issued before.
    """
    uow.state.lock()
    owed = uow.scrubs.open_of_job(job_id)
    if not owed or _owes_erasure(uow, job_id):
        return []
    requests = uow.requests.concluded_by(job_id, owed[0].path or "", CERTIFICATES_PER_TRANSACTION)
    issued_ids: list[str] = []
    for request in requests:
        content = scrub_closed_content(uow, request)
        if content["closes"]["open"] == []:
            continue  # The closing certificate of the request's other job says so already.
        issue(uow, signer, request, CertificateKind.SCRUB_CLOSED, content)
        issued_ids.append(request.id)
    for scrub in owed:
        if len(requests) < CERTIFICATES_PER_TRANSACTION:
            uow.scrubs.close(scrub.id)
        else:
            uow.scrubs.record_place(scrub.id, requests[-1].id)
    return issued_ids


def wake_for_certificates(uow: UnitOfWork) -> None:
    """Write a wake-up message for each job that waits for a worker's certificate."""
    for job_id in ready_for_certificate(uow):
        uow.outbox.add(Topic.JOB, job_id)


def _owes_erasure(uow: UnitOfWork, job_id: str) -> bool:
    return any(scrub.kind != ScrubKind.CERTIFICATE for scrub in uow.scrubs.open_of_job(job_id))
