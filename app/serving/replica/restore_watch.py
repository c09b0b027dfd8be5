"""Watch whether the database was restored from a backup, and whether the ledger can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from app.domain.errors import LedgerDamagedError, LedgerUnavailableError
from app.services.restore import open_data, reconcile_installation

if TYPE_CHECKING:
    from app.services.pseudonyms import Pseudonyms
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork, UnitOfWorkFactory

_log = structlog.get_logger(__name__)


class RestoreWatch:
    """Compares the database with the erasure ledger for one replica, whose thread calls it."""

    def __init__(self, uow: UnitOfWorkFactory, pseudonyms: Pseudonyms, settings: Settings) -> None:
        """Start without a comparison: `open` makes the first."""
        self._uow = uow
        self._pseudonyms = pseudonyms
        self._settings = settings
        self._damage: str | None = None
        self._repeated = 0

    def open(self, uow: UnitOfWork) -> int:
        """Compare keys, id rule and ledger in this transaction, and return the data version.

        With another key or id rule, suppressions would not match all spellings of a user, and a
        restored database may lack suppressions. Raises LedgerDamagedError.
        """
        open_data(uow, self._uow.ledger, self._pseudonyms, self._settings)
        self._damage = None
        self._repeated = uow.state.restoring()
        return uow.state.data_version()

    def follow(self) -> None:
        """Apply the ledger if the database was restored meanwhile. Raises LedgerDamagedError."""
        try:
            reconcile_installation(self._uow, self._pseudonyms, self._settings)
        except LedgerUnavailableError:
            # Recommendations continue: no deletion can be accepted meanwhile.
            _log.warning("replica.ledger_not_compared")

    def read(self, uow: UnitOfWork) -> None:
        """Read the number of deletions that are being repeated."""
        self._repeated = uow.state.restoring()

    def refuse(self, error: LedgerDamagedError) -> None:
        """Remember the damage until `open` succeeds."""
        if self._damage is None:
            _log.error("replica.ledger_damaged", reason=error.context.get("reason"))
        self._damage = str(error)

    def reasons_not_ready(self) -> list[str]:
        reasons = [] if self._damage is None else [self._damage]
        if self._repeated:
            reasons.append(f"restoring: {self._repeated} deletions are repeated after a restore")
        return reasons
