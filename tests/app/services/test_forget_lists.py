"""Lists of deletions: one outcome per row, in chunks that lose nothing, on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.catalog import Interaction
from app.domain.errors import (
    ForgottenPersonError,
    IdempotencyConflictError,
    InvalidInputError,
    LedgerAheadError,
    LedgerUnavailableError,
    UnavailableError,
)
from app.domain.forget_lists import InvalidRow, ListStatus, RowOutcome, RowResult
from app.domain.ledger import LedgerEvent, LedgerHead
from app.domain.requests import Attribution, RequestReason, RequestStatus
from app.services import forget_lists
from app.services.forget import ForgetCommand, cancel_forget, request_forget
from app.services.forget_lists import ListCommand, ListRecorder
from app.services.interactions import add_interactions
from app.settings import Settings
from app.storage.ledger import Ledger
from tests.support.statements import recorded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.forget_lists import ForgetList
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWorkFactory

SETTINGS = Settings(cancel_window=60.0)
R = RowOutcome


@pytest.fixture
def recorder(catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms) -> ListRecorder:
    return ListRecorder(
        factory=catalog,
        pseudonyms=pseudonyms,
        settings=SETTINGS,
        on_chunk=lambda: None,
        is_stopping=lambda: False,
        rest=lambda _seconds: None,
    )


def fill(factory: UnitOfWorkFactory, number: int) -> list[str]:
    """Store users `p0` to `p{number - 1}` and return their ids."""
    user_ids = [f"p{n}" for n in range(number)]
    with factory() as uow:
        uow.people.ensure_users(user_ids)
    return user_ids


def results_of(factory: UnitOfWorkFactory, forget_list: ForgetList) -> list[RowResult]:
    with factory(write=False) as uow:
        numbered = uow.forget_lists.results(forget_list.id, 0, 10_000)
    assert [entry.row for entry in numbered] == list(range(1, len(numbered) + 1))
    return [entry.result for entry in numbered]


def outcomes(factory: UnitOfWorkFactory, forget_list: ForgetList) -> list[RowOutcome]:
    return [result.outcome for result in results_of(factory, forget_list)]


def test_each_row_has_the_outcome_of_a_single_call(
    catalog: UnitOfWorkFactory, recorder: ListRecorder, pseudonyms: Pseudonyms
) -> None:
    with catalog() as uow:
        earlier, _ = request_forget(uow, pseudonyms, SETTINGS, ForgetCommand(user_id="bob"))
    rows = ["ann", "bob", " ann ", "none", InvalidRow("must be a string"), "\x00", "cid"]
    forget_list, is_new = recorder.record(ListCommand(rows=rows))
    assert is_new
    assert forget_list.status is ListStatus.RECORDED
    results = results_of(catalog, forget_list)
    assert [result.outcome for result in results] == [
        R.ACCEPTED,
        R.COVERED,
        R.COVERED,
        R.NOT_FOUND,
        R.INVALID,
        R.INVALID,
        R.ACCEPTED,
    ]
    assert results[1].request_id == earlier.id
    assert results[2].request_id == results[0].request_id
    assert [results[n].request_id for n in (3, 4, 5)] == [None] * 3
    assert results[4].detail == "must be a string"
    assert results[5].detail == "user_id must not have control characters"
    with catalog(write=False) as uow:
        counts = uow.forget_lists.counts(forget_list.id)
    assert counts == {
        R.ACCEPTED: 2,
        R.COVERED: 2,
        R.NOT_FOUND: 1,
        R.SUPPRESSED: 0,
        R.INVALID: 2,
    }


def test_request_of_a_list_equals_a_single_request(
    catalog: UnitOfWorkFactory, recorder: ListRecorder, pseudonyms: Pseudonyms
) -> None:
    attribution = Attribution(
        requested_by="privacy-team", reason=RequestReason.LEGAL, reference="T-1"
    )
    recorder.record(
        ListCommand(rows=["ann", "none"], attribution=attribution, suppress_unknown=True)
    )
    command = ForgetCommand(user_id="bob", attribution=attribution)
    missing = ForgetCommand(user_id="nil", attribution=attribution, suppress_unknown=True)
    with catalog() as uow:
        request_forget(uow, pseudonyms, SETTINGS, command)
        request_forget(uow, pseudonyms, SETTINGS, missing)

    def state_of(user_id: str) -> dict[str, Any]:
        user_hash = pseudonyms.user(user_id)
        with catalog(write=False) as uow:
            (request,) = uow.requests.suppressing([user_hash])
            changes = [c.kind for c in uow.state.changes_since(0) if c.user_id == user_id]
        assert catalog.ledger is not None
        (record,) = (
            record
            for entry in catalog.ledger.entries(LedgerHead())
            for record in entry.records
            if record.request_id == request.id
        )
        times = (request.due_at, request.exact_due_at, request.cancellable_until)
        return {
            "request": {
                "subject": request.subject is not None and request.subject.scope,
                "names_user": request.subject is not None and request.subject.user_id == user_id,
                "attribution": (request.requested_by, request.reason, request.reference),
                "status": request.status,
                "recovered": request.recovered,
                "times": [None if t is None else t - request.created_at for t in times],
                "hashes": request.subject_hashes == (user_hash,),
                "user_hash": request.user_hash == user_hash,
            },
            "changes": changes,
            "record": (record.event, record.scope, record.subject_hashes == (user_hash,)),
            "facts": sorted(record.facts),
            "recorded_at": record.at == request.created_at,
        }

    assert state_of("ann") == state_of("bob")
    assert state_of("ann")["record"] == (LedgerEvent.ACCEPTED, "user", True)
    assert state_of("none") == state_of("nil")
    assert state_of("none")["request"]["recovered"] == {}


def test_users_are_suppressed_at_once(
    catalog: UnitOfWorkFactory, recorder: ListRecorder, pseudonyms: Pseudonyms
) -> None:
    forget_list, _ = recorder.record(ListCommand(rows=["ann", "none"], suppress_unknown=True))
    assert outcomes(catalog, forget_list) == [R.ACCEPTED, R.SUPPRESSED]
    with catalog(write=False) as uow:
        hashes = {pseudonyms.user("ann"), pseudonyms.user("none")}
        assert uow.suppressions.matching(hashes) == hashes
    row = Interaction(user_id="none", item_id="i1", rating=4.0, timestamp=1)
    with pytest.raises(ForgottenPersonError), catalog() as uow:
        add_interactions(uow, pseudonyms, [row])


def test_repeated_list_is_covered(catalog: UnitOfWorkFactory, recorder: ListRecorder) -> None:
    first, _ = recorder.record(ListCommand(rows=["ann", "bob"]))
    again, is_new = recorder.record(ListCommand(rows=["ann", "bob"]))
    assert is_new
    assert again.id != first.id
    assert outcomes(catalog, again) == [R.COVERED, R.COVERED]
    ids = [[r.request_id for r in results_of(catalog, entry)] for entry in (first, again)]
    assert ids[0] == ids[1]


def test_cancelled_request_covers_nothing(
    catalog: UnitOfWorkFactory, recorder: ListRecorder
) -> None:
    first, _ = recorder.record(ListCommand(rows=["ann"]))
    request_id = results_of(catalog, first)[0].request_id
    assert request_id is not None
    with catalog() as uow:
        assert cancel_forget(uow, request_id).status is RequestStatus.CANCELLED
    again, _ = recorder.record(ListCommand(rows=["ann"]))
    assert outcomes(catalog, again) == [R.ACCEPTED]


def test_same_key_returns_the_list_and_another_list_is_a_conflict(
    catalog: UnitOfWorkFactory, recorder: ListRecorder
) -> None:
    command = ListCommand(rows=["ann", "none"])
    first, _ = recorder.record(command, "key")
    again, is_new = recorder.record(command, "key")
    assert (again, is_new) == (first, False)
    others: list[ListCommand] = [
        ListCommand(rows=["none", "ann"]),
        ListCommand(rows=["ann", "none"], suppress_unknown=True),
        ListCommand(rows=["ann", "none"], attribution=Attribution(reference="T-1")),
    ]
    for other in others:
        with pytest.raises(IdempotencyConflictError):
            recorder.record(other, "key")
    with catalog() as uow:
        uow.forget_lists.forget_keys(-60.0)
        stored = uow.forget_lists.get(first.id)
    assert (stored.key_hash, stored.content_hash) == (None, None)
    assert recorder.record(command, "key")[0].id != first.id


@pytest.mark.parametrize("rows", [["ann", "cid"], ["ann", " CID "]])
def test_attribution_with_an_id_of_the_list_is_refused_and_nothing_stored(
    catalog: UnitOfWorkFactory, recorder: ListRecorder, rows: Sequence[str]
) -> None:
    for attribution in (Attribution(reference="Cid"), Attribution(requested_by="cid")):
        with pytest.raises(InvalidInputError, match="personal data"):
            recorder.record(ListCommand(rows=rows, attribution=attribution))
    with catalog(write=False) as uow:
        assert uow.requests.page(10, None) == []


def test_empty_list_is_refused(recorder: ListRecorder) -> None:
    with pytest.raises(InvalidInputError, match="no rows"):
        recorder.record(ListCommand(rows=[]))


def test_interrupted_list_continues_after_its_last_chunk(
    catalog: UnitOfWorkFactory, recorder: ListRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forget_lists, "CHUNK", 10)
    command = ListCommand(rows=[*fill(catalog, 25), "p0"])
    append, appended = Ledger.append, []

    def fail_third(self: Ledger, *arguments: Any) -> LedgerHead:
        appended.append(arguments)
        if len(appended) == 3:
            raise LedgerUnavailableError
        return append(self, *arguments)

    monkeypatch.setattr(Ledger, "append", fail_third)
    with pytest.raises(LedgerUnavailableError):
        recorder.record(command, "key")
    with catalog(write=False) as uow:
        requests = uow.requests.page(100, None)
    assert len(requests) == 20
    forget_list, is_new = recorder.record(command, "key")
    assert is_new
    results = results_of(catalog, forget_list)
    assert [r.outcome for r in results] == [R.ACCEPTED] * 25 + [R.COVERED]
    assert len({r.request_id for r in results}) == 25
    with catalog(write=False) as uow:
        assert len(uow.requests.page(100, None)) == 25


def test_stopping_process_records_no_further_chunk(
    catalog: UnitOfWorkFactory, recorder: ListRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forget_lists, "CHUNK", 10)
    command = ListCommand(rows=fill(catalog, 25))
    stopping = iter([False, True])
    with pytest.raises(UnavailableError, match="Idempotency-Key"):
        replace(recorder, is_stopping=lambda: next(stopping)).record(command, "key")
    with catalog(write=False) as uow:
        assert len(uow.requests.page(100, None)) == 10
    forget_list, _ = recorder.record(command, "key")
    assert outcomes(catalog, forget_list) == [R.ACCEPTED] * 25


def test_chunk_is_repeated_once_after_a_reconciled_ledger(
    catalog: UnitOfWorkFactory, recorder: ListRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, appended = Ledger.append, []

    def ahead_once(self: Ledger, *arguments: Any) -> LedgerHead:
        appended.append(arguments)
        if len(appended) == 1:
            raise LedgerAheadError
        return append(self, *arguments)

    monkeypatch.setattr(Ledger, "append", ahead_once)
    forget_list, _ = recorder.record(ListCommand(rows=["ann", "bob"]))
    assert outcomes(catalog, forget_list) == [R.ACCEPTED, R.ACCEPTED]


def test_call_that_another_one_overtakes_records_no_row_twice(
    catalog: UnitOfWorkFactory, recorder: ListRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forget_lists, "CHUNK", 5)
    command = ListCommand(rows=fill(catalog, 20))
    overtaking: list[ForgetList] = []

    def overtake() -> None:
        if not overtaking:
            overtaking.append(recorder.record(command, "key")[0])

    forget_list, _ = replace(recorder, on_chunk=overtake).record(command, "key")
    assert overtaking == [forget_list]
    assert outcomes(catalog, forget_list) == [R.ACCEPTED] * 20
    with catalog(write=False) as uow:
        assert len(uow.requests.page(100, None)) == 20


def test_concurrent_calls_with_one_key_are_one_list(
    catalog: UnitOfWorkFactory, recorder: ListRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forget_lists, "CHUNK", 5)
    command = ListCommand(rows=fill(catalog, 20))
    barrier = Barrier(3)

    def record() -> str:
        barrier.wait()
        return recorder.record(command, "key")[0].id

    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(record) for _ in range(3)]
        (list_id,) = {call.result() for call in calls}
    with catalog(write=False) as uow:
        assert len(uow.requests.page(100, None)) == 20
        assert uow.forget_lists.counts(list_id)[R.ACCEPTED] == 20


def test_number_of_statements_does_not_grow_with_the_chunk(
    catalog: UnitOfWorkFactory, recorder: ListRecorder
) -> None:
    user_ids = fill(catalog, 50 + forget_lists.CHUNK)
    numbers = []
    for rows in (user_ids[:50], user_ids[50:]):
        with recorded(catalog.database) as executed:
            recorder.record(ListCommand(rows=rows))
        numbers.append(len(executed))
    # Three of them open the list; the rest are reads, writes and the ledger entry of one chunk.
    assert numbers[0] == numbers[1] <= 24
