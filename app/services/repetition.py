"""End deletions that are repeated because a backup of the database was restored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

    from app.domain.requests import ForgetRequest
    from app.storage.unit_of_work import UnitOfWork


def end_repetition(uow: UnitOfWork, requests: Collection[ForgetRequest]) -> None:
    """Lift again the suppressions that consent had lifted before the restore.

    Call this function in the transaction that completes the repeated deletions.
    """
    for request in requests:
        lifted = (request.recovered or {}).get("lift", ())
        if lifted:
            uow.suppressions.lift_of(request.id, lifted)
    if any(request.restored for request in requests):
        uow.state.write_restoring(uow.requests.count_repeated())


def lost_certificate(request: ForgetRequest) -> dict[str, Any] | None:
    """Return what the ledger knows of the certificate that a restored database lost."""
    recovered = request.recovered or {}
    if "completed_at" not in recovered:
        return None
    return {name: recovered.get(name) for name in ("sha256", "completed_at", "release")}
