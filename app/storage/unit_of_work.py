"""The unit of work: one database transaction with all repositories.

All access to data goes through a unit of work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from sqlalchemy import exc

from app.domain.errors import DatabaseUnavailableError
from app.storage.engine import UNAVAILABLE
from app.storage.repositories.idempotency import IdempotencyRepository
from app.storage.repositories.jobs import JobRepository
from app.storage.repositories.outbox import OutboxRepository
from app.storage.repositories.people import PeopleRepository
from app.storage.repositories.releases import ReleaseRepository
from app.storage.repositories.replicas import ReplicaRepository
from app.storage.repositories.request_jobs import RequestJobRepository
from app.storage.repositories.requests import RequestRepository
from app.storage.repositories.state import StateRepository
from app.storage.repositories.suppressions import SuppressionRepository
from app.storage.repositories.workers import WorkerRepository

if TYPE_CHECKING:
    from types import TracebackType

    from sqlalchemy import Connection, Engine

    from app.storage.engine import Database


class UnitOfWork:
    """A transaction that commits at the end of its `with` block and rolls back on an exception.

    An instance can be entered once, by one thread.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
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
        """Commit, or roll back on an error. Raises DatabaseUnavailableError."""
        connection, self._connection = self._connection, None
        if connection is None:
            raise RuntimeError("the unit of work was not entered")
        try:
            if error is None:
                connection.commit()
            else:
                _roll_back(connection)
        except UNAVAILABLE as failure:
            raise DatabaseUnavailableError from failure
        finally:
            connection.close()
        if isinstance(error, UNAVAILABLE):
            raise DatabaseUnavailableError from error

    def _open_repositories(self, connection: Connection) -> None:
        self.requests = RequestRepository(connection)
        self.suppressions = SuppressionRepository(connection)
        self.people = PeopleRepository(connection)
        self.jobs = JobRepository(connection)
        self.releases = ReleaseRepository(connection)
        self.replicas = ReplicaRepository(connection)
        self.workers = WorkerRepository(connection)
        self.outbox = OutboxRepository(connection)
        self.idempotency = IdempotencyRepository(connection)
        self.state = StateRepository(connection)
        self.request_jobs = RequestJobRepository(connection)


def _roll_back(connection: Connection) -> None:
    """Roll back. After a lost connection, the database rolls back by itself."""
    try:
        connection.rollback()
    except exc.DBAPIError:
        connection.invalidate()


class UnitOfWorkFactory:
    """Creates units of work; with `write=False` they read one snapshot and block no writer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __call__(self, *, write: bool = True) -> UnitOfWork:
        return UnitOfWork(self._database.write if write else self._database.read)
