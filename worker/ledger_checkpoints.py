"""Sign checkpoints of the erasure ledger, and remove what killed writers left in the ledger."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import structlog

from app.domain.errors import InvalidCertificateError, LedgerDamagedError
from app.domain.ledger import LedgerHead
from app.services import signing_keys
from app.services.ledger_checkpoints import reference_to, sign_checkpoint, verify_checkpoint
from worker.failures import attempt

if TYPE_CHECKING:
    from app.services.ledger_checkpoints import CheckpointReference
    from app.services.signatures import Signer, TrustedKey
    from app.storage.ledger import Ledger
    from app.storage.unit_of_work import UnitOfWorkFactory
    from worker.context import WorkerContext

log = structlog.get_logger(__name__)
#: Minimum time between checkpoints, except after certificates.
_INTERVAL: Final = timedelta(seconds=60)


def write_checkpoint(context: WorkerContext, *, at_once: bool = False) -> None:
    """Sign a checkpoint if the ledger's head moved since the last one; an error is only logged.

    Without `at_once`, nothing happens within a minute after the last checkpoint. No job or
    certificate waits for a checkpoint.
    """
    ledger = context.uow_factory.ledger
    if ledger is not None:
        attempt(lambda: _write(context, ledger, at_once=at_once), "checkpoint_delayed")


def _write(context: WorkerContext, ledger: Ledger, *, at_once: bool) -> None:
    with context.uow_factory(write=False) as uow:
        head = uow.state.ledger_head()
        covered = uow.state.ledger_checkpoint()
        if head is None or head.number <= covered:
            return
        keys = [signing_keys.trusted_key(key) for key in uow.signing_keys.all()]
        now = uow.state.now()
    base, previous, issued_at = _last_checkpoint(ledger, keys, covered, head.number)
    # A checkpoint from the future was signed before the clock was set back.
    if not at_once and issued_at is not None and timedelta(0) <= now - issued_at < _INTERVAL:
        return
    ledger.remove_leftovers()
    if base != head:
        head, content = _signed(context.uow_factory, context.signer, ledger, base, previous)
        try:
            ledger.create_checkpoint(head.number, content)
        except FileExistsError:
            log.info("checkpoint_exists", number=head.number)
        base = head
    with context.uow_factory() as uow:
        uow.state.lock()
        if base.number > uow.state.ledger_checkpoint():
            uow.state.write_ledger_checkpoint(base.number)


def _last_checkpoint(
    ledger: Ledger, keys: list[TrustedKey], covered: int, head_number: int
) -> tuple[LedgerHead, CheckpointReference | None, datetime | None]:
    """Return the newest trustworthy checkpoint's entry, the reference to it, and its time.

    A restored database knows an older checkpoint than the ledger, or none. A checkpoint that does
    not verify is left out, so that the chain is checked from an earlier one.
    """
    numbers = [covered] if covered and ledger.checkpoints([covered]) else []
    numbers = numbers or ledger.checkpoint_numbers()[0]
    for number in reversed([number for number in numbers if number <= head_number]):
        content = ledger.checkpoints([number]).get(number, b"")
        try:
            checkpoint = verify_checkpoint(content, keys)
        except InvalidCertificateError as error:
            log.error("checkpoint_invalid", number=number, reason=str(error))  # noqa: TRY400
            continue
        issued_at = datetime.fromisoformat(checkpoint.issued_at)
        return checkpoint.head, reference_to(number, content), issued_at
    return LedgerHead(), None, None


def _signed(
    uow_factory: UnitOfWorkFactory,
    signer: Signer,
    ledger: Ledger,
    base: LedgerHead,
    previous: CheckpointReference | None,
) -> tuple[LedgerHead, bytes]:
    """Check the chain from `base`, and return the database's head and its signed checkpoint.

    Raises LedgerDamagedError if the chain does not lead to the head, and SigningKeyRetiredError.
    """
    with uow_factory(write=False) as uow:
        head = uow.state.ledger_head() or LedgerHead()
    reached = base
    for entry in ledger.entries(base):
        reached = entry.head
        if reached.number == head.number:
            break
    if reached != head:
        raise LedgerDamagedError(reason=f"its entries do not lead to entry {head.number}")
    with uow_factory() as uow:
        # The registration and the time are read under the lock, so that the key is current at it.
        signing_keys.register(uow, signer)
        issued_at = uow.state.now()
    return head, sign_checkpoint(signer, head, issued_at, previous)
