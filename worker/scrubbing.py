"""Carry out owed erasures of the database, and issue the certificates that they delay."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

import structlog

from app.domain.errors import LetheError, UnavailableError
from app.domain.scrubs import ScrubKind
from app.services import scrubs
from app.storage.maintenance import erase_remains

if TYPE_CHECKING:
    from app.storage.unit_of_work import UnitOfWorkFactory
    from worker.context import WorkerContext

log = structlog.get_logger(__name__)


class Eraser(Protocol):
    """`erase_remains` of one database."""

    def __call__(self, *, transaction_id: int | None, wait_seconds: float) -> str | None:
        """Return None, or the reason why remains were not erased."""


def erase_owed(
    uow_factory: UnitOfWorkFactory, *, erase: Eraser | None = None, wait_seconds: float = 0.0
) -> None:
    """Carry out the owed erasures of the database, and close their rows.

    Several processes may do this at once. A crash before the row is closed repeats the erasure.
    """
    erase = erase or partial(erase_remains, uow_factory.database)
    with uow_factory(write=False) as uow:
        owed = uow.scrubs.open_ones(kind=ScrubKind.DATABASE)
    # The newest deletion first, or all deletions so far: its erasure includes the earlier ones.
    owed.sort(key=lambda scrub: scrub.transaction_id or 2**63, reverse=True)
    for position, scrub in enumerate(owed):
        error = erase(transaction_id=scrub.transaction_id, wait_seconds=wait_seconds)
        if error is None:
            with uow_factory() as uow:
                for carried_out in owed[position:]:
                    uow.scrubs.close(carried_out.id)
            return
        with uow_factory() as uow:
            uow.scrubs.record_attempt(scrub.id, error)
        log.warning("erasure_owed", scrub=scrub.id, job=scrub.job_id, reason=error)


def certify_owed(context: WorkerContext) -> None:
    """Issue the certificates of jobs whose last owed erasure was carried out after completion."""
    with context.uow_factory(write=False) as uow:
        job_ids = scrubs.ready_for_certificate(uow)
    for job_id in job_ids:
        request_ids: list[str] = []
        is_owing = True
        try:
            while is_owing:
                with context.uow_factory() as uow:
                    request_ids += scrubs.certify_closed(uow, context.signer, job_id)
                    is_owing = job_id in scrubs.ready_for_certificate(uow)
        except UnavailableError:
            raise
        except LetheError as error:
            # The row stays open for a later turn, and the worker goes on with its jobs.
            log.error("erasure_not_certified", job=job_id, code=error.code)  # noqa: TRY400
            continue
        log.info("erasure_certified", job=job_id, requests=len(request_ids))
