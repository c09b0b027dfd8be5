"""Lists of deletion requests have the same requests and totals on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import update

from app.domain.requests import Assurance, RequestFilter, RequestStatus
from app.services.forget import ForgetCommand, cancel_forget, request_forget
from app.services.request_filters import RequestQuery
from app.settings import Settings
from app.storage.tables import RequestRow

if TYPE_CHECKING:
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWork, UnitOfWorkFactory

NOW = datetime.now(UTC)
PAST = NOW - timedelta(days=1)


def change(uow: UnitOfWork, request_id: str, **values: Any) -> None:
    """Write columns of a request, as a worker or the passing of time would."""
    uow.requests._connection.execute(
        update(RequestRow).where(RequestRow.id == request_id).values(**values)
    )


def test_filters_select_and_count(catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms) -> None:
    def forget(user_id: str, *item_ids: str) -> str:
        command = ForgetCommand(user_id=user_id, item_ids=item_ids)
        return request_forget(uow, pseudonyms, Settings(), command)[0].id

    with catalog() as uow:
        cancelled = forget("ann", "i0")
        cancel_forget(uow, cancelled)
        pair, whole, late, fresh = forget("ann", "i1"), forget("ann"), forget("bob"), forget("cid")
        completed = {"status": "completed", "assurance": "approximate", "exact_due_at": PAST}
        change(uow, pair, **completed, user_id=None, item_ids=None)
        change(uow, whole, user_hash=None, created_at=PAST)
        change(uow, late, due_at=PAST)
    of_ann = pseudonyms.user_hashes("ann")
    newest_first = [fresh, late, whole, pair, cancelled]
    soon = NOW + timedelta(days=365)
    for matching, matches in (
        (RequestFilter(), newest_first),
        (RequestFilter(statuses=frozenset({RequestStatus.SCHEDULED})), [fresh, late, whole]),
        (RequestFilter(assurance=Assurance.APPROXIMATE), [pair]),
        (RequestFilter(overdue=True), [late, pair]),
        (RequestFilter(overdue=True, exact_is_due=False), [late]),
        (RequestFilter(overdue=False), [fresh, whole, cancelled]),
        (RequestFilter(overdue=False, exact_is_due=False), [fresh, whole, pair, cancelled]),
        (RequestFilter(due_before=soon), [fresh, late, whole, pair]),
        (RequestFilter(created_before=NOW - timedelta(hours=1)), [whole]),
        (RequestFilter(created_after=PAST + timedelta(hours=1)), [fresh, late, pair, cancelled]),
        (RequestFilter(user_hashes=of_ann), [whole, pair, cancelled]),
        (RequestFilter(user_hashes=of_ann, overdue=True), [pair]),
    ):
        # Ids of one millisecond are in any order.
        expected = sorted(matches, reverse=True)
        with catalog(write=False) as uow:
            assert [r.id for r in uow.requests.page(9, None, matching)] == expected, matching
            assert uow.requests.count(matching) == len(expected), matching
            rest = uow.requests.page(9, expected[0], matching)
            assert [r.id for r in rest] == expected[1:], matching


def test_user_finds_open_requests_of_earlier_versions(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    with catalog() as uow:
        command = ForgetCommand(user_id="ann", item_ids=("i1",))
        pair, _ = request_forget(uow, pseudonyms, Settings(), command)
        change(uow, pair.id, user_hash=None)
        matching = RequestQuery(user_id=" ann").filter(pseudonyms, Settings())
        assert [r.id for r in uow.requests.page(9, None, matching)] == [pair.id]
        assert uow.requests.count(matching) == 1
        other = RequestQuery(user_id="bob").filter(pseudonyms, Settings())
        assert uow.requests.count(other) == 0
