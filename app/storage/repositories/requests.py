"""Deletion requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Double, and_, case, exists, func, or_, select, type_coerce, update

from app.domain.errors import UnknownRequestError
from app.domain.requests import (
    EVERY_REQUEST,
    IN_JOB_STATUSES,
    OPEN_STATUSES,
    Assurance,
    ForgetRequest,
    Outcome,
    RequestReason,
    RequestStatus,
    Scope,
    Subject,
)
from app.storage.clock import db_now
from app.storage.repositories.base import Repository, portions
from app.storage.repositories.job_leases import check_lease
from app.storage.repositories.request_filters import conditions, order
from app.storage.tables import RequestRow, SuppressionRow

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence
    from datetime import datetime, timedelta

    from sqlalchemy import ColumnElement, Row, Select, Update

    from app.domain.jobs import Lease
    from app.domain.requests import RequestFilter

_R: Final = RequestStatus
_OPEN: Final = sorted(status.value for status in OPEN_STATUSES)
_IN_JOB: Final = sorted(status.value for status in IN_JOB_STATUSES)
#: New status → old statuses. An escalation leads from `auditing` back to `unlearning`.
_OLD_STATUSES: Final = {
    _R.UNLEARNING: (_R.BATCHED, _R.UNLEARNING, _R.AUDITING),
    _R.AUDITING: (_R.BATCHED, _R.UNLEARNING, _R.AUDITING),
    _R.ROLLING_OUT: (_R.BATCHED, _R.UNLEARNING, _R.AUDITING, _R.ROLLING_OUT),
}
_JOBLESS: Final = and_(RequestRow.status == _R.BATCHED.value, RequestRow.job_id.is_(None))
_PAST_WINDOW: Final = and_(
    RequestRow.status == _R.SCHEDULED.value, RequestRow.cancellable_until <= db_now()
)
#: A batch may take the request now.
_READY: Final = or_(
    and_(_JOBLESS, or_(RequestRow.retry_at.is_(None), RequestRow.retry_at <= db_now())),
    _PAST_WINDOW,
)
#: Fields of the domain object that are columns of the same name and type.
_PLAIN: Final = frozenset(
    {
        "created_at",
        "due_at",
        "cancellable_until",
        "job_id",
        "failures",
        "progress",
        "release",
        "completed_at",
        "completed_version",
        "rows_deleted",
        "retry_group",
        "last_failure",
        "failed_at",
        "retry_at",
        "exact_due_at",
        "exact_at",
        "exact_job_id",
        "restored",
        "recovered",
        "requested_by",
        "reference",
        "user_hash",
    }
)


class RequestRepository(Repository):
    """Deletion requests, stored with plain ids until deletion of the rows or cancellation."""

    def add(self, request: ForgetRequest) -> None:
        self.add_all([request])

    def add_all(self, requests: Sequence[ForgetRequest]) -> None:
        """Add at least one request. Columns in which no request has a value are left out."""
        rows = [_values(request) for request in requests]
        names = [name for name in rows[0] if any(row[name] is not None for row in rows)]
        self._insert_all(RequestRow, [{name: row[name] for name in names} for row in rows])

    def get(self, request_id: str) -> ForgetRequest:
        rows = self._all(_requests().where(RequestRow.id == request_id))
        if not rows:
            raise UnknownRequestError(request_id=request_id)
        return rows[0]

    def find(self, request_id: str) -> ForgetRequest | None:
        rows = self._all(_requests().where(RequestRow.id == request_id))
        return rows[0] if rows else None

    def suppressing(self, subject_hashes: Iterable[str]) -> list[ForgetRequest]:
        """Return the requests that currently suppress any of the hashes, oldest first."""
        requests: dict[str, ForgetRequest] = {}
        for portion in portions(dict.fromkeys(subject_hashes)):
            suppressed_by = select(SuppressionRow.request_id).where(
                SuppressionRow.subject_hash.in_(portion), SuppressionRow.lifted_at.is_(None)
            )
            for request in self._all(_requests().where(RequestRow.id.in_(suppressed_by))):
                requests[request.id] = request
        return sorted(requests.values(), key=lambda request: request.id)

    def latest_completed(self, subject_hash: str) -> ForgetRequest | None:
        """Return the newest completed request for the subject, also after consent."""
        rows = self._all(
            _requests()
            .join(SuppressionRow, SuppressionRow.request_id == RequestRow.id)
            .where(
                SuppressionRow.subject_hash == subject_hash,
                RequestRow.status == _R.COMPLETED.value,
            )
            .order_by(RequestRow.id.desc())
            .limit(1)
        )
        return rows[0] if rows else None

    def open_of_user(self, user_id: str) -> list[ForgetRequest]:
        """Return the user's requests that are neither completed nor cancelled, oldest first."""
        return self._all(
            _requests()
            .where(RequestRow.user_id == user_id, RequestRow.status.in_(_OPEN))
            .order_by(RequestRow.id)
        )

    def open_pairs_of(self, user_ids: Iterable[str]) -> dict[str, set[str]]:
        """Return user id → items of the user's open requests for single interactions."""
        pairs: dict[str, set[str]] = {}
        for portion in portions(user_ids):
            query = select(RequestRow.user_id, RequestRow.item_ids).where(
                RequestRow.user_id.in_(portion),
                RequestRow.status.in_(_OPEN),
                RequestRow.scope == Scope.USER_ITEMS.value,
            )
            for user_id, item_ids in self._connection.execute(query):
                pairs.setdefault(str(user_id), set()).update(item_ids or ())
        return pairs

    def naming_user(self, user_id: str) -> list[ForgetRequest]:
        """Return the requests in every state that have this user's plain id, oldest first."""
        return self._all(_requests().where(RequestRow.user_id == user_id).order_by(RequestRow.id))

    def naming_any_item(self, item_ids: Container[str]) -> list[ForgetRequest]:
        """Return the requests in every state that have one of the plain item ids, oldest first."""
        # The databases have no common operator for JSON lists. Ids are cleared early, so few
        # requests have any.
        with_ids = self._all(
            _requests()
            .where(RequestRow.user_id.is_not(None) | _in(OPEN_STATUSES))
            .order_by(RequestRow.id)
        )
        return [
            request
            for request in with_ids
            if request.subject and any(item in item_ids for item in request.subject.item_ids)
        ]

    def write_subject(self, request_id: str, subject: Subject | None) -> None:
        """Replace the plain ids of a request, or clear them. The status stays."""
        self._connection.execute(_update(_is(request_id), **_columns({"subject": subject})))

    def write_rows_deleted(self, request_id: str, rows_deleted: Mapping[str, int]) -> None:
        self._connection.execute(_update(_is(request_id), rows_deleted=dict(rows_deleted)))

    def count_open(self) -> dict[RequestStatus, int]:
        """Return the number of open requests by status; only statuses with requests."""
        rows = self._connection.execute(
            select(RequestRow.status, func.count())
            .where(RequestRow.status.in_(_OPEN))
            .group_by(RequestRow.status)
        )
        return {RequestStatus(status): count for status, count in rows}

    def open_item_ids(self) -> set[str]:
        """Return the items of open requests with the scope `item`."""
        rows = self._connection.execute(
            select(RequestRow.item_ids).where(
                RequestRow.status.in_(_OPEN), RequestRow.scope == Scope.ITEM.value
            )
        )
        return {item_id for (item_ids,) in rows for item_id in item_ids or ()}

    def with_ids(self, request_ids: Iterable[str]) -> list[ForgetRequest]:
        """Return those of the requests that exist, ordered by id."""
        requests: list[ForgetRequest] = []
        for portion in portions(sorted(request_ids)):
            query = _requests().where(RequestRow.id.in_(portion))
            requests += self._all(query.order_by(RequestRow.id))
        return requests

    def of_job(self, job_id: str) -> list[ForgetRequest]:
        return self._all(_requests().where(RequestRow.job_id == job_id).order_by(RequestRow.id))

    def page(
        self, limit: int, cursor: str | None, matching: RequestFilter = EVERY_REQUEST
    ) -> list[ForgetRequest]:
        """Return requests that match, newest first, from the one after `cursor` on."""
        query = _requests().where(*self._conditions(matching))
        if cursor is not None:
            query = query.where(RequestRow.id < cursor)
        return self._all(query.order_by(order(matching)).limit(limit))

    def count(self, matching: RequestFilter) -> int:
        """Return the number of requests that match, from a scan of all of them."""
        query = select(func.count()).select_from(RequestRow).where(*self._conditions(matching))
        return self._connection.execute(query).scalar_one()

    def _conditions(self, matching: RequestFilter) -> list[ColumnElement[bool]]:
        suppressing_ids: list[str] = []
        if matching.user_hashes is not None:
            query = select(SuppressionRow.request_id).where(
                SuppressionRow.subject_hash.in_(matching.user_hashes)
            )
            # Read before: PostgreSQL reads the whole table for "one of these, or in a subquery".
            suppressing_ids = list(self._connection.execute(query).scalars())
        return conditions(matching, suppressing_ids)

    def change_status(
        self, request: ForgetRequest, expected: Iterable[RequestStatus], **changes: Any
    ) -> bool:
        """Update a request if its status is one of `expected`; return whether it was.

        `changes` are fields of ForgetRequest, and `completed_version` at completion. Raises
        IllegalTransitionError for an illegal change of status.
        """
        columns = _columns(changes)
        version = changes.pop("completed_version", None)
        request.evolve(**changes)  # Raises IllegalTransitionError.
        if version is not None:
            columns["completed_version"] = version
        return self._changed(_update(_is(request.id), _in(expected), **columns)) == 1

    def any_waiting(self) -> bool:
        """Return whether a request waits for a batch, or for its retry."""
        waiting = or_(_JOBLESS, _PAST_WINDOW)
        return bool(self._connection.execute(select(exists().where(waiting))).scalar_one())

    def count_waiting(self) -> int:
        """Return the number of requests that wait for a batch, also within their cancel window."""
        waiting = or_(_JOBLESS, RequestRow.status == _R.SCHEDULED.value)
        query = select(func.count()).select_from(RequestRow).where(waiting)
        return self._connection.execute(query).scalar_one()

    def waiting_since(self) -> datetime | None:
        """Return the time since which the oldest ready request could have been in a batch."""
        since = func.min(func.coalesce(RequestRow.retry_at, RequestRow.cancellable_until))
        oldest: datetime | None = self._connection.execute(select(since).where(_READY)).scalar_one()
        return oldest

    def retried(self) -> list[tuple[str, int]]:
        """Return each last failure of requests that wait for a retry, and their number."""
        query = (
            select(RequestRow.last_failure, func.count())
            .where(_JOBLESS, RequestRow.last_failure.is_not(None))
            .group_by(RequestRow.last_failure)
            .order_by(RequestRow.last_failure)
        )
        rows = self._connection.execute(query)
        return [(failure, number) for failure, number in rows if failure is not None]

    def ready_groups(self) -> list[str | None]:
        """Return the retry groups that are ready, the longest waiting first.

        None stands for all requests without a retry group.
        """
        since = func.min(func.coalesce(RequestRow.retry_at, RequestRow.cancellable_until))
        query = (
            select(RequestRow.retry_group)
            .where(_READY)
            .group_by(RequestRow.retry_group)
            .order_by(since, RequestRow.retry_group)
        )
        return list(self._connection.execute(query).scalars())

    def ready_times(self, limit: int, group: str | None) -> list[tuple[bool, datetime]]:
        """Return what `ready_for_batch` returns: whether it is a retry, and since when it is ready.

        This reads no personal data and takes no locks.
        """
        query = (
            select(RequestRow.status, RequestRow.cancellable_until, RequestRow.retry_at)
            .where(_READY, RequestRow.retry_group.is_not_distinct_from(group))
            .order_by(case((_JOBLESS, 0), else_=1), RequestRow.id)
            .limit(limit)
        )
        return [
            (row.status == _R.BATCHED.value, row.retry_at or row.cancellable_until)
            for row in self._connection.execute(query)
        ]

    def ready_for_batch(self, limit: int, group: str | None = None) -> list[ForgetRequest]:
        """Return the ready requests of the retry group: `batched` ones, then `scheduled` ones."""
        # The rows stay locked until the commit, so that the batch can take all of them.
        return self._all(
            _requests()
            .where(_READY, RequestRow.retry_group.is_not_distinct_from(group))
            .order_by(case((_JOBLESS, 0), else_=1), RequestRow.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )

    def assign_batch(self, request_ids: Sequence[str], job_id: str) -> int:
        """Assign the requests that are still ready to the job; return their number."""
        ready = or_(RequestRow.status == _R.SCHEDULED.value, _JOBLESS)
        return sum(
            self._changed(
                _update(
                    RequestRow.id.in_(portion),
                    ready,
                    status=_R.BATCHED.value,
                    job_id=job_id,
                    progress=0.0,
                )
            )
            for portion in portions(request_ids)
        )

    def advance_of_job(self, lease: Lease, status: RequestStatus, progress: float) -> None:
        """Write status and progress to the requests of the job. Raises LeaseLostError."""
        check_lease(self._connection, lease)
        self._connection.execute(
            _update(
                RequestRow.job_id == lease.job_id,
                _in(_OLD_STATUSES[status]),
                status=status.value,
                progress=progress,
            )
        )

    def detach_from_job(self, lease: Lease, requests: Iterable[ForgetRequest]) -> None:
        """Remove the requests from a failed job and write what is known about the failure.

        Each request is in its new state: `batched` or `dead`, without a job.
        """
        check_lease(self._connection, lease)
        names = ("failures", "retry_group", "last_failure", "failed_at", "retry_at")
        for request in requests:
            self._connection.execute(
                _update(
                    _is(request.id),
                    RequestRow.job_id == lease.job_id,
                    RequestRow.status.in_(_IN_JOB),
                    status=request.status.value,
                    job_id=None,
                    progress=0.0,
                    **{name: getattr(request, name) for name in names},
                )
            )

    def repeat(self, request_id: str, recovered: dict[str, Any], *, in_job: bool) -> None:
        """Repeat a deletion that a restored database does not know as completed.

        A request that is in an open job stays there. Any other request waits for the next batch.
        """
        values: dict[str, Any] = {"restored": True, "recovered": recovered}
        if not in_job:
            values |= {"status": _R.BATCHED.value, "job_id": None, "failures": 0, "progress": 0.0}
            values |= dict.fromkeys(("retry_group", "last_failure", "failed_at", "retry_at"))
        self._connection.execute(_update(_is(request_id), **values))

    def write_recovered(
        self, request_id: str, recovered: dict[str, Any], *, restored: bool = False
    ) -> None:
        """Replace the facts from the ledger. `restored` marks the request; the status stays."""
        mark = {"restored": True} if restored else {}
        self._connection.execute(_update(_is(request_id), recovered=recovered, **mark))

    def count_repeated(self) -> int:
        """Return the number of open deletions that are repeated after a restore."""
        query = select(func.count()).select_from(RequestRow)
        query = query.where(RequestRow.restored.is_(True), RequestRow.status.in_(_OPEN))
        return self._connection.execute(query).scalar_one()

    def after(self, request_id: str, limit: int) -> list[ForgetRequest]:
        """Return up to `limit` requests with a greater id, oldest first."""
        later = _requests().where(RequestRow.id > request_id)
        return self._all(later.order_by(RequestRow.id).limit(limit))

    def approximate_until(self, data_version: int, limit: int) -> list[ForgetRequest]:
        """Return approximate requests that were completed up to this version, in any order."""
        return self._all(
            _requests()
            .where(
                RequestRow.assurance == Assurance.APPROXIMATE.value,
                RequestRow.status == _R.COMPLETED.value,
                # Earlier versions did not always record the version.
                func.coalesce(RequestRow.completed_version, 0) <= data_version,
            )
            .limit(limit)
        )

    def stamp_assurance(self, exact_time: timedelta) -> None:
        """Give an assurance to deletions that workers of an earlier version completed.

        Deletions before the first release are exact, because no weights existed. All others are
        approximate. Their deadline is `exact_time` after the request, unless one is recorded.
        """
        created_at = type_coerce(RequestRow.created_at, Double)
        exact_due_at = type_coerce(RequestRow.exact_due_at, Double)
        is_stamped = and_(RequestRow.assurance == Assurance.NONE.value, _in([_R.COMPLETED]))
        self._connection.execute(
            _update(
                is_stamped,
                RequestRow.release.is_(None),
                assurance=Assurance.EXACT.value,
                exact_at=RequestRow.completed_at,
            )
        )
        self._connection.execute(
            _update(
                is_stamped,
                assurance=Assurance.APPROXIMATE.value,
                exact_due_at=func.coalesce(exact_due_at, created_at + exact_time.total_seconds()),
            )
        )

    def make_exact(self, request_ids: Iterable[str], job_id: str, exact_at: datetime) -> None:
        """Mark the requests as exact since this time, by the exact training of this job."""
        values = {"assurance": Assurance.EXACT.value, "exact_at": exact_at, "exact_job_id": job_id}
        for portion in portions(request_ids):
            self._connection.execute(_update(RequestRow.id.in_(portion), **values))

    def any_made_exact_by(self, job_id: str) -> bool:
        """Return whether this job's training has made a request exact."""
        query = select(exists().where(RequestRow.exact_job_id == job_id))
        return bool(self._connection.execute(query).scalar_one())

    def concluded_by(self, job_id: str, after: str, limit: int) -> list[ForgetRequest]:
        """Return requests that this job completed or made exact, with ids after `after`."""
        return self._all(
            _requests()
            .where(
                or_(RequestRow.job_id == job_id, RequestRow.exact_job_id == job_id),
                RequestRow.status == _R.COMPLETED.value,
                RequestRow.id > after,
            )
            .order_by(RequestRow.id)
            .limit(limit)
        )

    def completed_since(self, data_version: int) -> int:
        """Return the number of requests completed after this data version."""
        return self._connection.execute(
            select(func.count())
            .select_from(RequestRow)
            .where(RequestRow.completed_version > data_version)
        ).scalar_one()

    def _all(self, query: Select[Any]) -> list[ForgetRequest]:
        return [_to_domain(row) for row in self._connection.execute(query)]


def _values(request: ForgetRequest) -> dict[str, Any]:
    """Return the column values of a new request."""
    subject = request.subject
    return {
        "id": request.id,
        "scope": request.scope.value,
        "user_id": subject.user_id if subject else None,
        "item_ids": list(subject.item_ids) if subject else None,
        "subject_hashes": list(request.subject_hashes),
        "status": request.status.value,
        "reason": request.reason.value,
        "outcome": request.outcome,
        "assurance": request.assurance.value,
        **{name: getattr(request, name) for name in _PLAIN - {"completed_version"}},
    }


def _requests() -> Select[Any]:
    return select(RequestRow.__table__)


def _is(request_id: str) -> ColumnElement[bool]:
    return RequestRow.id == request_id


def _in(statuses: Iterable[RequestStatus]) -> ColumnElement[bool]:
    return RequestRow.status.in_([status.value for status in statuses])


def _update(*conditions: ColumnElement[bool], **values: Any) -> Update:
    return update(RequestRow).where(*conditions).values(**values)


def _columns(changes: dict[str, Any]) -> dict[str, Any]:
    """Return the column values for changes of the domain object."""
    columns: dict[str, Any] = {}
    for name, value in changes.items():
        if name in _PLAIN:
            columns[name] = value
        elif name in {"status", "outcome", "assurance"}:
            columns[name] = None if value is None else value.value
        elif name == "subject":
            columns["user_id"] = value.user_id if value else None
            columns["item_ids"] = list(value.item_ids) if value else None
        else:
            raise TypeError(f"the field {name} of a request cannot be changed")
    return columns


def _to_domain(row: Row[Any]) -> ForgetRequest:
    scope = Scope(row.scope)
    has_subject = row.user_id is not None or row.item_ids is not None
    subject = Subject(scope=scope, user_id=row.user_id, item_ids=tuple(row.item_ids or ()))
    return ForgetRequest(
        id=row.id,
        scope=scope,
        subject=subject if has_subject else None,
        subject_hashes=tuple(row.subject_hashes),
        status=RequestStatus(row.status),
        reason=RequestReason(row.reason),
        outcome=None if row.outcome is None else Outcome(row.outcome),
        assurance=Assurance(row.assurance),
        **{name: getattr(row, name) for name in _PLAIN - {"completed_version"}},
    )
