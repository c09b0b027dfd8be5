"""One transaction: the only way to data. Entering begins, leaving commits, an error rolls back."""

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
from app.storage.repositories.requests import RequestRepository
from app.storage.repositories.state import StateRepository
from app.storage.repositories.suppressions import SuppressionRepository
from app.storage.repositories.workers import WorkerRepository

if TYPE_CHECKING:
    from types import TracebackType

    from sqlalchemy import Connection, Engine

    from app.storage.engine import Database


class UnitOfWork:
    """A unit of work over SQLAlchemy Core. It may be used once, by one thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        """Begin. Raises DatabaseUnavailableError where the database does not answer."""
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
        """Commit, or roll back on an error; a lost connection is told as such."""
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


def _roll_back(connection: Connection) -> None:
    """Roll back; where the connection is gone the database has done so itself."""
    try:
        connection.rollback()
    except exc.DBAPIError:
        connection.invalidate()


class UnitOfWorkFactory:
    """Makes units of work; `write=False` gives a consistent snapshot without locking writers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __call__(self, *, write: bool = True) -> UnitOfWork:
        return UnitOfWork(self._database.write if write else self._database.read)
