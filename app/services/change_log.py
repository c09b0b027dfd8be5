"""Prune the change log below the slowest live replica."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork, UnitOfWorkFactory

#: Entries per transaction.
_CHUNK: Final = 5_000
#: Seconds for which an entry stays after all live replicas have applied it. An answer is checked
#: against all entries since its inputs were read; one that takes longer is repaired in any case.
KEEP_SECONDS: Final = 600.0


def applied_version(uow: UnitOfWork, settings: Settings) -> int | None:
    """Return the data version up to which all live replicas have applied the log.

    Without a live replica this is the present version. None if a live replica has not reported,
    because it has just registered or is of an earlier version.
    """
    replicas = uow.replicas.live(settings.replica_margin)
    present = uow.state.data_version()
    versions = [replica.data_version for replica in replicas]
    known = [version for version in versions if version is not None]
    return None if len(known) < len(versions) else min(known, default=present)


class ChangeLogPruning:
    """Deletes entries that all live replicas had applied `KEEP_SECONDS` ago.

    A replica that was not live then finds a gap in the log, and reads all data again.
    """

    def __init__(self, uow_factory: UnitOfWorkFactory, settings: Settings) -> None:
        self._uow_factory = uow_factory
        self._settings = settings
        #: Earlier values of `applied_version` with their times, oldest first.
        self._applied: list[tuple[float, int]] = []

    def turn(self, now: float) -> int:
        """Delete what may be deleted at this monotonic time; return the number of entries."""
        with self._uow_factory(write=False) as uow:
            applied = applied_version(uow, self._settings)
        if applied is not None:
            self._applied.append((now, applied))
        old = [entry for entry in self._applied if entry[0] <= now - KEEP_SECONDS]
        if not old:
            return 0
        self._applied = self._applied[len(old) - 1 :]
        total = 0
        while True:
            with self._uow_factory() as uow:
                deleted = uow.state.prune_log(old[-1][1], _CHUNK)
            total += deleted
            if deleted < _CHUNK:
                return total
