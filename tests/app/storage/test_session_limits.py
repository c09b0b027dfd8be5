"""No process that is stopped or partitioned holds up the others, and no lease waits for a lock."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.errors import DatabaseUnavailableError
from app.domain.jobs import JobKind
from app.services.forget import ForgetCommand, request_forget
from app.services.jobs import claim, start_training
from app.services.replicas import ReplicaState, register_replica, renew_replica
from app.serving.retrieval import first_stage
from app.serving.retrieval.first_stage import FirstStage
from app.serving.retrieval.index_updates import next_slice
from app.settings import Settings
from app.storage.engine import make_database
from app.storage.session_limits import GATEWAY, LEASE, WORKER, SessionLimits
from app.storage.unit_of_work import UnitOfWorkFactory
from tests.support.processes import wait_until
from worker.heartbeat import LeaseHeartbeat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from app.services.pseudonyms import Pseudonyms
    from app.storage.engine import Database
    from app.storage.unit_of_work import UnitOfWork

#: A worker that takes the data lock, is suspended, and tries to commit when it continues.
STOPPED_WORKER = """
import os, signal, sys
from app.domain.errors import DatabaseUnavailableError
from app.storage.engine import make_database
from app.storage.session_limits import SessionLimits
from app.storage.unit_of_work import UnitOfWorkFactory

factory = UnitOfWorkFactory(make_database(sys.argv[1], SessionLimits(idle=1.0)))
try:
    with factory() as uow:
        uow.state.lock()
        uow.state.bump("late")
        os.kill(os.getpid(), signal.SIGSTOP)
except DatabaseUnavailableError:
    sys.exit(7)
"""


@pytest.fixture
def open_with(postgres_database: Database, postgres_url: str) -> Iterator[Callable[..., Database]]:
    """Return a function that opens the empty test database with the given limits."""
    with ExitStack() as stack:
        stack.callback(postgres_database.dispose)

        def make(limits: SessionLimits | None = None, *, query: str = "") -> Database:
            database = make_database(postgres_url + query, limits)
            stack.callback(database.dispose)
            return database

        yield make


def setting(database: Database, name: str) -> str:
    with database.write.connect() as connection:
        return str(connection.exec_driver_sql(f"SHOW {name}").scalar_one())


@pytest.mark.postgres
@pytest.mark.parametrize("limits", [GATEWAY, WORKER, LEASE])
def test_each_role_has_its_limits(
    open_with: Callable[..., Database], limits: SessionLimits
) -> None:
    database = open_with(limits)
    for name, seconds in (
        ("lock_timeout", limits.lock),
        ("statement_timeout", limits.statement),
        ("idle_in_transaction_session_timeout", limits.idle),
        ("tcp_user_timeout", limits.tcp),
    ):
        with database.write.connect() as connection:
            query = f"SELECT setting::int FROM pg_settings WHERE name = '{name}'"
            assert connection.exec_driver_sql(query).scalar_one() == round(1000 * (seconds or 0))


@pytest.mark.postgres
def test_url_of_the_database_can_change_a_limit(open_with: Callable[..., Database]) -> None:
    database = open_with(GATEWAY, query="?options=-c%20statement_timeout%3D7s")
    assert setting(database, "statement_timeout") == "7s"
    assert setting(database, "lock_timeout") == "5s"


@pytest.mark.postgres
def test_url_of_the_database_can_change_the_wait_for_a_connection(
    open_with: Callable[..., Database],
) -> None:
    for query, expected in (("", "5"), ("?connect_timeout=9", "9")):
        with open_with(GATEWAY, query=query).write.connect() as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            assert driver.info.get_parameters()["connect_timeout"] == expected


@pytest.mark.postgres
@pytest.mark.skipif(sys.platform != "linux", reason="the names of the options are Linux's")
def test_lost_connections_are_noticed_by_the_client(open_with: Callable[..., Database]) -> None:
    with open_with(GATEWAY).write.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        with socket.socket(fileno=os.dup(driver.fileno())) as own:
            tcp = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            idle = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
            assert own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert (tcp, idle) == (10_000, 5)


@pytest.mark.parametrize(
    "database", [pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)
def test_worker_stopped_with_the_data_lock_blocks_no_deletion_request(
    postgres_url: str, catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    command = [sys.executable, "-c", STOPPED_WORKER, postgres_url]
    with subprocess.Popen(command) as worker:
        try:
            status = os.waitid(os.P_PID, worker.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            assert status is not None
            assert status.si_code == os.CLD_STOPPED
            with catalog() as uow:
                request_forget(uow, pseudonyms, Settings(), ForgetCommand.of("ann", (), None))
        finally:
            os.kill(worker.pid, signal.SIGCONT)
        assert worker.wait(60) == 7  # Its late commit is refused.
    with catalog(write=False) as uow:
        kinds = [change.kind for change in uow.state.changes_since(0)]
    assert kinds == ["forget"]


@pytest.mark.postgres
def test_wait_for_the_data_lock_ends(open_with: Callable[..., Database]) -> None:
    holder = UnitOfWorkFactory(open_with())
    other = UnitOfWorkFactory(open_with(SessionLimits(lock=0.1)))
    with holder() as uow:
        uow.state.lock()
        with pytest.raises(DatabaseUnavailableError), other() as waiting:
            waiting.state.lock()
    with other() as uow:
        uow.state.lock()


@pytest.mark.postgres
def test_session_that_was_ended_is_replaced(open_with: Callable[..., Database]) -> None:
    factory = UnitOfWorkFactory(open_with(SessionLimits(idle=0.1)))
    observer = open_with()

    def sessions(pid: int) -> int:
        with observer.write.connect() as connection:
            query = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}"
            return int(connection.exec_driver_sql(query).scalar_one())

    def continue_late() -> None:
        with factory() as uow:
            assert uow._connection is not None
            pid = uow._connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            wait_until(lambda: sessions(pid) == 0, "the session is not ended")
            uow.state.data_version()

    with pytest.raises(DatabaseUnavailableError):
        continue_late()
    with factory() as uow:
        assert uow.state.data_version() == 0


@pytest.mark.postgres
def test_work_on_all_data_has_no_limits(open_with: Callable[..., Database]) -> None:
    factory = UnitOfWorkFactory(open_with(SessionLimits(statement=0.1, idle=0.1)))

    def run_slowly(before: Callable[[UnitOfWork], object], *, write: bool) -> None:
        with factory(write=write) as uow:
            before(uow)
            assert uow._connection is not None
            uow._connection.exec_driver_sql("SELECT pg_sleep(0.5)")

    with pytest.raises(DatabaseUnavailableError):
        run_slowly(lambda _: None, write=True)
    run_slowly(lambda uow: uow.state.allow_long(), write=True)
    run_slowly(lambda uow: list(uow.people.users()), write=False)
    for before in (lambda uow: uow.state.allow_long(), lambda uow: list(uow.people.users())):
        with factory(write=False) as uow:
            before(uow)
            assert pause_limit(uow) == "0"


def pause_limit(uow: UnitOfWork) -> str:
    assert uow._connection is not None
    name = "idle_in_transaction_session_timeout"
    return str(uow._connection.exec_driver_sql(f"SHOW {name}").scalar_one())


@pytest.mark.postgres
def test_counting_may_pause_longer_than_a_request(
    open_with: Callable[..., Database],
    pseudonyms: Pseudonyms,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Counting all ratings, a slice with a popular item, and the wait for another rebuild."""
    factory = UnitOfWorkFactory(open_with(GATEWAY))
    stage = FirstStage(factory, pseudonyms)
    limits: dict[str, str] = {}

    def record_slice(uow: UnitOfWork, *arguments: Any) -> Any:
        limits["slice"] = pause_limit(uow)
        return next_slice(uow, *arguments)

    monkeypatch.setattr(first_stage, "next_slice", record_slice)
    stage.rebuild()
    with factory() as uow:
        uow.state.bump("items")
    stage.follow()
    with factory(write=False) as uow:

        class RecordingLock(nullcontext[None]):
            def __enter__(self) -> None:
                limits["wait"] = pause_limit(uow)

        monkeypatch.setattr(stage, "_rebuild_lock", RecordingLock())
        stage._rebuilt(uow, uow.state.data_version() + 1)
        limits["rebuild"] = pause_limit(uow)
    assert limits == {"slice": "0", "wait": "0", "rebuild": "0"}


def exhaust(factory: UnitOfWorkFactory, stack: ExitStack) -> None:
    """Use all connections of the general pool."""
    pool = factory.database.write.pool
    while pool.checkedout() < pool.size() + pool._max_overflow:  # type: ignore[attr-defined]
        stack.enter_context(factory(write=False))


def test_leases_are_renewed_while_all_other_connections_are_in_use(
    catalog: UnitOfWorkFactory,
) -> None:
    with catalog() as uow:
        register_replica(uow, 60.0, replica_id="rep", host="h", pid=1)
        start_training(uow, JobKind.TRAIN)
    with catalog() as uow:
        claimed = claim(uow, "worker", Settings())
    assert claimed is not None
    heartbeat = LeaseHeartbeat(catalog, claimed[1], lease_seconds=60.0, claimed_at=0.0)
    with ExitStack() as stack:
        exhaust(catalog, stack)
        with catalog.lease() as uow:
            assert renew_replica(uow, 60.0, "rep", ReplicaState()) is not None
        heartbeat._beat()
    assert not heartbeat.had_errors
    heartbeat.check()
