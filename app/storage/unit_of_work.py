"""One transaction: the only way to data. Entering begins, leaving commits, an error rolls back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from sqlalchemy import exc

from app.domain.errors import DatabaseUnavailableError
from app.storage.engine import UNAVAILABLE
from app.storage.repositories.infrastructure import (
    SqlIdempotency,
    SqlOutbox,
    SqlReplicas,
    SqlWorkers,
)
from app.storage.repositories.jobs import SqlJobs
from app.storage.repositories.people import SqlPeople
from app.storage.repositories.releases import SqlReleases
from app.storage.repositories.requests import SqlRequests
from app.storage.repositories.state import SqlState
from app.storage.repositories.suppressions import SqlSuppressions

if TYPE_CHECKING:
    from types import TracebackType

    from sqlalchemy import Connection, Engine

    from app.services import ports
    from app.storage.engine import Database


class SqlUnitOfWork:
    """A unit of work over SQLAlchemy Core. It may be used once, by one thread."""

    requests: ports.RequestRepository
    suppressions: ports.SuppressionRepository
    people: ports.PeopleRepository
    jobs: ports.JobRepository
    releases: ports.ReleaseRepository
    replicas: ports.ReplicaRepository
    workers: ports.WorkerRepository
    outbox: ports.OutboxRepository
    idempotency: ports.IdempotencyRepository
    state: ports.StateRepository

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
        self.requests = SqlRequests(connection)
        self.suppressions = SqlSuppressions(connection)
        self.people = SqlPeople(connection)
        self.jobs = SqlJobs(connection)
        self.releases = SqlReleases(connection)
        self.replicas = SqlReplicas(connection)
        self.workers = SqlWorkers(connection)
        self.outbox = SqlOutbox(connection)
        self.idempotency = SqlIdempotency(connection)
        self.state = SqlState(connection)


def _roll_back(connection: Connection) -> None:
    """Roll back; where the connection is gone the database has done so itself."""
    try:
        connection.rollback()
    except exc.DBAPIError:
        connection.invalidate()


class SqlUnitOfWorkFactory:
    """Makes units of work; `write=False` gives a consistent snapshot without locking writers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __call__(self, *, write: bool = True) -> SqlUnitOfWork:
        return SqlUnitOfWork(self._database.write if write else self._database.read)
