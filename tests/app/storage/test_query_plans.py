"""No poll, no scrape of the metrics and no filtered list reads whole tables that grow with time."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, text

from app.domain.requests import Assurance, RequestFilter, RequestStatus
from app.services.attention import read_attention
from app.services.exactness import adopt_earlier_completions
from app.services.jobs import claim, sweep
from app.services.renewals import schedule
from app.services.scrubs import wake_for_certificates
from app.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from app.storage.engine import Database
    from app.storage.unit_of_work import UnitOfWork, UnitOfWorkFactory

SETTINGS = Settings()
ROWS = 20_000
#: Tables with a row per deletion, job, claim or change of data.
GROWING = ("requests", "jobs", "job_claims", "scrub_owed", "data_changes", "request_jobs")

_NUMBERS = {
    "sqlite": "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {rows})"
    " SELECT n FROM s)",
    "postgresql": "(SELECT generate_series(1, {rows}) AS n)",
}
_FILLED = (
    (
        "INSERT INTO jobs (id, model, kind, status, method, stage, progress, attempts, epoch,"
        " available_at, settings, metrics, created_at, started_at, finished_at)"
        " SELECT 'job_' || n, 'default', CASE WHEN n % 2 = 0 THEN 'forget' ELSE 'train' END,"
        " 'succeeded', 'e2urec-fast', 'done', 1, 1, 1, 1, '{{}}', '{{}}', n, n, n + 1"
        " FROM {numbers} s"
    ),
    (
        "INSERT INTO requests (id, scope, subject_hashes, status, created_at, due_at,"
        " cancellable_until, failures, progress, completed_at, completed_version, assurance,"
        " exact_due_at, restored, user_hash)"
        " SELECT 'req_' || n, 'user', '[]', 'completed', n, n, n, 0, 1, n, n, 'exact', n, {false},"
        " 'h' || n"
        " FROM {numbers} s"
    ),
    (
        "INSERT INTO job_claims (job_id, epoch, host, started_at, ended_at)"
        " SELECT 'job_' || n, 1, 'h', n, n FROM {numbers} s"
    ),
    (
        "INSERT INTO scrub_owed (kind, job_id, attempts, created_at, closed_at)"
        " SELECT 'database', 'job_' || n, 0, n, n FROM {numbers} s"
    ),
    (
        "INSERT INTO data_changes (version, kind, user_id)"
        " SELECT n, 'interactions', 'u' || n FROM {numbers} s"
    ),
)


@pytest.fixture
def filled(database: Database) -> None:
    """Fill the growing tables with ended jobs and completed deletions."""
    dialect = database.write.dialect.name
    values = {
        "numbers": _NUMBERS[dialect].format(rows=ROWS),
        "false": "0" if database.is_sqlite else "false",
    }
    with database.write.begin() as connection:
        for statement in _FILLED:
            connection.execute(text(statement.format(**values).replace(":", "\\:")))
        connection.execute(text(f"UPDATE state SET data_version = {ROWS}"))
        if not database.is_sqlite:  # Lethe collects no statistics of SQLite.
            connection.execute(text("ANALYZE"))


@pytest.fixture
def statements(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """The statements that are executed during a test, with their parameters."""
    executed: list[tuple[str, Any]] = []

    def record(
        _connection: Any, _cursor: Any, statement: str, parameters: Any, _c: Any, many: bool
    ) -> None:
        if not many:
            executed.append((statement, parameters))

    event.listen(database.write, "before_cursor_execute", record)
    yield executed
    event.remove(database.write, "before_cursor_execute", record)


def scanned(database: Database, statement: str, parameters: Any) -> list[str]:
    """Return the growing tables that the plan of the statement reads as a whole."""
    prefix = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    pattern = r"SCAN (\w+)" if database.is_sqlite else r"Seq Scan on (\w+)"
    with database.write.connect() as connection:
        plan = connection.exec_driver_sql(prefix + statement, parameters).all()
    found = re.findall(pattern, "\n".join(str(value) for row in plan for value in row))
    return sorted(set(found) & set(GROWING))


POLLS: dict[str, Callable[[UnitOfWork], object]] = {
    "attention": lambda uow: read_attention(uow, SETTINGS),
    "open requests": lambda uow: uow.requests.count_open(),
    "open job": lambda uow: uow.jobs.open_job(),
    "open erasures": lambda uow: uow.scrubs.open_ones(),
    "claims of a machine": lambda uow: uow.job_claims.unended("h"),
    "all claims": lambda uow: uow.job_claims.unended(),
    "schedule": lambda uow: schedule(uow, SETTINGS),
    "sweep": lambda uow: sweep(uow, SETTINGS),
    "claim": lambda uow: claim(uow, "worker", SETTINGS),
    "earlier completions": lambda uow: adopt_earlier_completions(uow, SETTINGS),
    "certificates": wake_for_certificates,
    "change log": lambda uow: uow.state.changes_since(ROWS - 3),
    "pruning": lambda uow: uow.state.prune_log(10, 5),
}


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


#: Filters of lists that few requests match.
FILTERS = {
    "status": RequestFilter(statuses=frozenset({RequestStatus.ON_HOLD, RequestStatus.DEAD})),
    "assurance": RequestFilter(assurance=Assurance.APPROXIMATE),
    "overdue": RequestFilter(overdue=True),
    "overdue, not exact": RequestFilter(overdue=True, exact_is_due=False),
    "due before": RequestFilter(due_before=_at(100)),
    "created before": RequestFilter(created_before=_at(100)),
    "created after": RequestFilter(created_after=_at(ROWS - 100)),
    "user": RequestFilter(user_hashes=("h7", "h8"), user_id="u7"),
    "requested by": RequestFilter(requested_by="agent"),
    "reference": RequestFilter(reference="DSR-1"),
}
LISTS: dict[str, Callable[[UnitOfWork], object]] = {
    **{
        f"page: {n}": partial(lambda f, uow: uow.requests.page(50, None, f), f)
        for n, f in FILTERS.items()
    },
    **{
        f"next page: {n}": partial(lambda f, uow: uow.requests.page(50, "req_5", f), f)
        for n, f in FILTERS.items()
    },
    **{f"total: {n}": partial(lambda f, uow: uow.requests.count(f), f) for n, f in FILTERS.items()},
}


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("calls", [POLLS, LISTS], ids=["polls", "lists"])
def test_no_whole_table_is_read(
    uow_factory: UnitOfWorkFactory,
    statements: list[tuple[str, Any]],
    calls: dict[str, Callable[[UnitOfWork], object]],
) -> None:
    scans: dict[str, list[str]] = {}
    for name, poll in calls.items():
        statements.clear()
        with uow_factory() as uow:
            poll(uow)
        queries = [
            (statement, parameters)
            for statement, parameters in statements
            if statement.startswith(("SELECT", "UPDATE", "DELETE"))
        ]
        assert queries, name
        for statement, parameters in queries:
            if tables := scanned(uow_factory.database, statement, parameters):
                scans[f"{name}: {statement}"] = tables
    assert scans == {}
