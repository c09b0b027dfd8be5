"""The unit of work: one database transaction with all repositories.

All access to data goes through a unit of work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from sqlalchemy import exc

from app.domain.errors import DatabaseUnavailableError, LedgerAheadError
from app.domain.ledger import LedgerHead
from app.storage.engine import UNAVAILABLE
from app.storage.repositories.certificates import CertificateRepository
from app.storage.repositories.forget_lists import ForgetListRepository
from app.storage.repositories.idempotency import IdempotencyRepository
from app.storage.repositories.identity import IdentityRepository
from app.storage.repositories.job_claims import JobClaimRepository
from app.storage.repositories.jobs import JobRepository
from app.storage.repositories.outbox import OutboxRepository
from app.storage.repositories.people import PeopleRepository
from app.storage.repositories.releases import ReleaseRepository
from app.storage.repositories.renewals import RenewalRepository
from app.storage.repositories.replicas import ReplicaRepository
from app.storage.repositories.request_jobs import RequestJobRepository
from app.storage.repositories.requests import RequestRepository
from app.storage.repositories.scrubs import ScrubRepository
from app.storage.repositories.signing_keys import SigningKeyRepository
from app.storage.repositories.state import StateRepository
from app.storage.repositories.suppressions import SuppressionRepository
from app.storage.repositories.workers import WorkerRepository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from sqlalchemy import Connection, Engine

    from app.domain.ledger import LedgerRecord
    from app.domain.standing import Standing
    from app.storage.engine import Database
    from app.storage.ledger import Ledger


class UnitOfWork:
    """A transaction that commits at the end of its `with` block and rolls back on an exception.

    An instance can be entered once, by one thread.
    """

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger | None = None,
        on_ahead: Callable[[], object] | None = None,
    ) -> None:
        """Take the function to call after a rollback because the ledger has further entries."""
        self._engine = engine
        self._ledger = ledger
        self._on_ahead = on_ahead
        self._records: list[LedgerRecord] = []
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        """Begin the transaction. Raises DatabaseUnavailableError."""
        try:
            connection = self._engine.connect()
        except UNAVAILABLE as error:
            raise DatabaseUnavailableError from error
        try:
            connection.begin()
        except UNAVAILABLE as error:
            connection.close()
            raise DatabaseUnavailableError from error
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._open_repositories(connection)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the ledger entry and commit, or roll back on an error.

        Raises DatabaseUnavailableError, LedgerAheadError and LedgerUnavailableError; then nothing
        was committed. After a LedgerAheadError the same changes can be tried once more.
        """
        connection, self._connection = self._connection, None
        if connection is None:
            raise RuntimeError("the unit of work was not entered")
        try:
            if error is None:
                self._end(connection)
            else:
                _roll_back(connection)
        except UNAVAILABLE as failure:
            raise DatabaseUnavailableError from failure
        except LedgerAheadError:
            # `on_ahead` needs a connection, and with SQLite the only write lock.
            connection.close()
            if self._on_ahead is not None:
                self._on_ahead()
            raise
        finally:
            connection.close()
        if isinstance(error, UNAVAILABLE):
            raise DatabaseUnavailableError from error

    def record(self, record: LedgerRecord) -> None:
        """Add a record to the ledger entry of this transaction.

        The entry is written before the commit. Raises RuntimeError in a process without a ledger.
        """
        if self._ledger is None:
            raise RuntimeError("this process opened no ledger, so it must not change requests")
        self._records.append(record)

    def _end(self, connection: Connection) -> None:
        try:
            if self._ledger is not None and self._records:
                # The lock makes the numbers of entries follow the order of the commits.
                self.state.lock()
                head = self.state.ledger_head() or LedgerHead()
                version = self.state.data_version()
                self.state.write_ledger_head(self._ledger.append(head, self._records, version))
        except BaseException:
            _roll_back(connection)
            raise
        connection.commit()

    def _open_repositories(self, connection: Connection) -> None:
        self.requests = RequestRepository(connection)
        self.forget_lists = ForgetListRepository(connection)
        self.suppressions = SuppressionRepository(connection)
        self.people = PeopleRepository(connection)
        self.jobs = JobRepository(connection)
        self.job_claims = JobClaimRepository(connection)
        self.releases = ReleaseRepository(connection)
        self.renewals = RenewalRepository(connection)
        self.replicas = ReplicaRepository(connection)
        self.workers = WorkerRepository(connection)
        self.outbox = OutboxRepository(connection)
        self.idempotency = IdempotencyRepository(connection)
        self.state = StateRepository(connection)
        self.certificates = CertificateRepository(connection)
        self.signing_keys = SigningKeyRepository(connection)
        self.request_jobs = RequestJobRepository(connection)
        self.scrubs = ScrubRepository(connection)
        self.identity = IdentityRepository(connection)


def _roll_back(connection: Connection) -> None:
    """Roll back. After a lost connection, the database rolls back by itself."""
    try:
        connection.rollback()
    except exc.DBAPIError:
        connection.invalidate()


class UnitOfWorkFactory:
    """Creates units of work; with `write=False` they read one snapshot and block no writer."""

    def __init__(
        self,
        database: Database,
        ledger: Ledger | None = None,
        reconcile: Callable[[UnitOfWork, Ledger], object] | None = None,
    ) -> None:
        """Take the ledger of deletion requests; without one, no request can be changed.

        `reconcile` applies or voids entries of the ledger that the database lacks. The factory
        calls it when such entries stop a transaction, so that they stop no later one.
        """
        self.database = database
        self.ledger = ledger
        self._reconcile = reconcile

    def __call__(self, *, write: bool = True) -> UnitOfWork:
        if write:
            return UnitOfWork(self.database.write, self.ledger, self.catch_up)
        return UnitOfWork(self.database.read)

    def standing(
        self, subject_hashes: Iterable[str], since: int | None = None, user_ids: Iterable[str] = ()
    ) -> Standing:
        """Return `StateRepository.standing` of a new snapshot, with one round trip.

        A single statement is a snapshot of its own, so no transaction is begun. The statement is
        repeated once on a new connection if the connection was lost while unused. Raises
        DatabaseUnavailableError.
        """
        hashes, users = list(subject_hashes), list(user_ids)
        for is_last in (False, True):
            try:
                with self.database.check.connect() as connection:
                    return StateRepository(connection).standing(hashes, since, users)
            except UNAVAILABLE as error:
                if is_last or not getattr(error, "connection_invalidated", False):
                    raise DatabaseUnavailableError from error
        raise DatabaseUnavailableError

    def lease(self, *, write: bool = True) -> UnitOfWork:
        """Create a short unit of work on the connections for leases; it changes no request."""
        return UnitOfWork(self.database.lease_write if write else self.database.lease_read)

    def catch_up(self) -> None:
        """Reconcile the database with the ledger in a transaction of its own."""
        if self.ledger is not None and self._reconcile is not None:
            with UnitOfWork(self.database.write, self.ledger) as uow:
                self._reconcile(uow, self.ledger)
