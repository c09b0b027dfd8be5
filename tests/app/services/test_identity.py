"""Every spelling of an id is one person at every use case, and the rule is fixed at first start."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.catalog import Interaction, User
from app.domain.errors import (
    ConflictError,
    ForgottenPersonError,
    GoneError,
    InvalidInputError,
    UnknownUserError,
)
from app.domain.id_rules import IdRule
from app.domain.recommendations import RecommendationQuery, Visitor
from app.domain.requests import IdempotencyEntry, Scope, Subject
from app.services.forget import ForgetCommand, record_request, request_forget
from app.services.forget_users import forget_users
from app.services.imports import import_data, items_to_name
from app.services.interactions import add_interactions
from app.services.items import read_item, store_items, withdraw_items
from app.services.pseudonyms import Pseudonyms
from app.services.recommendation_inputs import distinct_queries, normal_query, read_inputs
from app.services.suppression import record_consent
from app.services.users import read_user, store_users
from tests.app.services.test_forget import SETTINGS, complete

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.domain.jobs import Lease
    from app.domain.requests import ForgetRequest
    from app.services.certificates import Signer
    from app.storage.unit_of_work import UnitOfWork, UnitOfWorkFactory

NFC, NFD = "Jürgen", "Ju\u0308rgen"
EMAIL = Pseudonyms(b"a key for tests, thirty-two bytes", IdRule.EMAIL)
#: Spellings of one user id.
GROUPS = [(NFC, NFD, f" {NFD}\u00a0"), ("9042", " 9042 ", "9042\t")]
PAIRS = [(one, other) for group in GROUPS for one in group for other in group if one != other]


def rating(user_id: str, item_id: str = "i1", timestamp: int = 2000) -> Interaction:
    return Interaction(user_id=user_id, item_id=item_id, rating=4.0, timestamp=timestamp)


def forget(uow: UnitOfWork, pseudonyms: Pseudonyms, user_id: str, *items: str) -> ForgetRequest:
    command = ForgetCommand.of(user_id, items, None)
    return request_forget(uow, pseudonyms, SETTINGS, command)[0]


def imported(factory: UnitOfWorkFactory, pseudonyms: Pseudonyms, **rows: Any) -> Any:
    return import_data(
        factory, pseudonyms, **{"users": [], "items": [], "interactions": [], **rows}
    )


def suppressed_before_the_rule(
    uow: UnitOfWork, pseudonyms: Pseudonyms, subject: Subject
) -> ForgetRequest:
    """Record a request with the hashes of the caller's spelling, as earlier versions did."""
    return record_request(uow, pseudonyms, SETTINGS, subject)


@pytest.fixture
def tombstone(
    catalog: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    start_job: Callable[[], Lease],
    signer: Signer,
) -> Callable[[Subject], str]:
    """Return a function that completes a deletion from before the rule; it returns its id."""

    def record(subject: Subject) -> str:
        with catalog() as uow:
            request = suppressed_before_the_rule(uow, pseudonyms, subject)
        complete(catalog, start_job(), signer)
        return request.id

    return record


@pytest.mark.parametrize(("stored", "other"), PAIRS)
def test_every_spelling_reads_and_writes_one_person(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms, stored: str, other: str
) -> None:
    normal = pseudonyms.user_id(stored)
    with catalog() as uow:
        store_users(uow, pseudonyms, [User(id=stored, attributes={"age": "9"})])
        add_interactions(uow, pseudonyms, [rating(stored, "i1"), rating(other, " i2 ")])
    imported(catalog, pseudonyms, interactions=[rating(other, "i3"), rating(stored, "i3")])
    with catalog(write=False) as uow:
        person = read_user(uow, pseudonyms, other)
        query = normal_query(pseudonyms, RecommendationQuery(person=other))
        inputs = read_inputs(uow, pseudonyms, str(query.person), spelling=query.spelling)
        assert [user.id for user in uow.people.users()] == sorted(["ann", "bob", "cid", normal])
    assert (person.user, person.interactions) == (User(id=normal, attributes={"age": "9"}), 3)
    assert [event.item_id for event in inputs.history] == ["i1", "i2", "i3"]


@pytest.mark.parametrize(("forgotten", "other"), PAIRS)
def test_person_forgotten_under_one_spelling_is_refused_under_every_other(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms, forgotten: str, other: str
) -> None:
    with catalog() as uow:
        add_interactions(uow, pseudonyms, [rating(other)])
        request = forget(uow, pseudonyms, forgotten)
        assert forget(uow, pseudonyms, other).id == request.id
        assert [r.id for r in forget_users(uow, pseudonyms, SETTINGS, [other, forgotten])] == [
            request.id
        ]
        with pytest.raises(GoneError):
            read_user(uow, pseudonyms, other)
        with pytest.raises(GoneError):
            read_inputs(uow, pseudonyms, pseudonyms.user_id(other), spelling=other)
        with pytest.raises(ForgottenPersonError):
            add_interactions(uow, pseudonyms, [rating(other)])
        with pytest.raises(ForgottenPersonError):
            store_users(uow, pseudonyms, [User(id=other)])
        with pytest.raises(ConflictError):
            record_consent(uow, pseudonyms, other)
    result = imported(catalog, pseudonyms, users=[User(id=other)], interactions=[rating(other)])
    assert result.skipped == {"forgotten": 1, "forgotten_users": 1}


@pytest.mark.parametrize("spelling", [f" {NFD}", NFD, NFC])
def test_item_and_pair_forgotten_under_one_spelling_are_refused_under_every_other(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms, spelling: str
) -> None:
    with catalog() as uow:
        store_items(uow, pseudonyms, [(spelling, "Title", {})])
        assert read_item(uow, NFC).id == NFC
        add_interactions(uow, pseudonyms, [rating("ann", NFD)])
        pair = forget(uow, pseudonyms, " ann", spelling)
        assert pair.subject == Subject(scope=Scope.USER_ITEMS, user_id="ann", item_ids=(NFC,))
        with pytest.raises(ForgottenPersonError):
            add_interactions(uow, pseudonyms, [rating("ann ", NFC)])
        assert withdraw_items(uow, [NFD, NFC]) == 1
        request_forget(uow, pseudonyms, SETTINGS, ForgetCommand(item_id=spelling))
        with pytest.raises(ForgottenPersonError):
            store_items(uow, pseudonyms, [(NFD, "Title", {})])
    result = imported(catalog, pseudonyms, items=[(f"{NFC} ", "Title", {})])
    assert result.skipped == {"forgotten_items": 1}


def test_email_rule_makes_users_in_capitals_one_person_and_keeps_item_ids(
    catalog: UnitOfWorkFactory,
) -> None:
    with catalog() as uow:
        store_items(uow, EMAIL, [("Film", "Film", {}), ("FILM", "FILM", {})])
        add_interactions(uow, EMAIL, [rating("Buzz@Example.com", "Film")])
        assert [user.id for user in uow.people.users()][-1] == "cid"
        forget(uow, EMAIL, "BUZZ@EXAMPLE.COM")
        with pytest.raises(GoneError):
            read_user(uow, EMAIL, "buzz@example.com")
        assert {"Film", "FILM"} <= {item.id for item in uow.people.items()}
    rows = [rating("BUZZ@example.com", "Film"), rating("buzz@Example.com", "FILM")]
    assert imported(catalog, EMAIL, interactions=rows).skipped == {"forgotten": 2}


def test_idempotency_key_from_before_the_rule_is_replayed(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    with catalog() as uow:
        uow.people.ensure_users(["9042"])
        request = forget(uow, pseudonyms, "9042")
        body = json.dumps(["user", " 9042 ", []])
        entry = IdempotencyEntry(
            body_hash=pseudonyms.opaque("body", body), options_hash=None, request_id=request.id
        )
        uow.idempotency.add(pseudonyms.opaque("idempotency-key", "k"), entry)
        command = ForgetCommand(user_id=" 9042 ")
        replayed = request_forget(uow, pseudonyms, SETTINGS, command, idempotency_key="k")
    assert replayed == (request, False)


def test_unknown_user_under_the_exact_rule_is_told_that_case_counts(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    with catalog() as uow:
        with pytest.raises(UnknownUserError, match="LETHE_ID_RULE=exact"):
            read_user(uow, pseudonyms, "ANN")
        with pytest.raises(UnknownUserError, match="LETHE_ID_RULE=exact"):
            forget(uow, pseudonyms, "ANN")
        with pytest.raises(UnknownUserError, match="LETHE_ID_RULE=exact"):
            record_consent(uow, pseudonyms, "ANN")
        with pytest.raises(UnknownUserError) as error:
            read_user(uow, EMAIL, "dan")
    assert "LETHE_ID_RULE" not in str(error.value)


def test_queries_have_normal_ids_and_one_entry_per_user(pseudonyms: Pseudonyms) -> None:
    visitor = Visitor(history=((f"{NFD} ", 4.0),))
    query = RecommendationQuery(person=visitor, item_ids=(NFD, " i1", NFC))
    normal = normal_query(pseudonyms, query)
    assert normal.person == Visitor(history=((NFC, 4.0),))
    assert normal.item_ids == (NFC, "i1")
    queries = [RecommendationQuery(person=person) for person in ("b", NFD, "b ", NFC)]
    assert [q.person for q in distinct_queries(pseudonyms, queries)] == ["b", NFC]
    with pytest.raises(InvalidInputError, match="user_id must not have control characters"):
        normal_query(pseudonyms, RecommendationQuery(person="a\x00"))


def test_items_that_only_a_forgotten_person_names_in_another_spelling_are_not_stored(
    catalog: UnitOfWorkFactory,
) -> None:
    with catalog() as uow:
        add_interactions(uow, EMAIL, [rating("buzz@x", "i1"), rating(NFC, "i1")])
        forget(uow, EMAIL, "buzz@x")
        forget(uow, EMAIL, NFC, "i1")
        pairs = [("BUZZ@X", "secret"), (NFD.upper(), "i1"), ("ann", "i2")]
        assert items_to_name(uow, EMAIL, pairs) == {"i2"}


def test_of_two_spellings_in_one_import_the_later_rating_is_stored(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    rows = [rating(NFD, "i1", 3000), rating(NFC, "i1", 1000)]
    assert imported(catalog, pseudonyms, interactions=rows).interactions == 1
    with catalog(write=False) as uow:
        assert [row.timestamp for row in uow.people.history(NFC)] == [3000]


def test_import_counts_invalid_rows_by_fault_without_their_ids(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> None:
    items = [("i7", "Abc\u202edef", {}), ("i8", "Good\u00a0Film", {"genre": ["a\nb"]})]
    users = [User(id="a\x01", attributes={}), User(id="b", attributes={"age": "\u2066"})]
    rows = [rating("x" * 201), rating("dan", "i1")]
    result = imported(catalog, pseudonyms, items=items, users=users, interactions=rows)
    assert result.skipped == {"invalid": 5}
    assert result.invalid == {
        "attribute must not have bidirectional controls": 1,
        "attribute must not have control characters": 1,
        "title must not have bidirectional controls": 1,
        "user_id must have at most 200 characters": 1,
        "user_id must not have control characters": 1,
    }


@pytest.mark.parametrize("title", ["Caf\u00e9\u00a0Noir", "می\u200cخواهم", "👩\u200d💻"])
def test_title_with_joiners_is_stored_as_given_by_both_doors(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms, title: str
) -> None:
    with catalog() as uow:
        store_items(uow, pseudonyms, [("api", title, {})])
    assert imported(catalog, pseudonyms, items=[("file", title, {})]).items == 1
    with catalog(write=False) as uow:
        titles = {item.id: item.title for item in uow.people.items()}
    assert (titles["api"], titles["file"]) == (title, title)


@pytest.mark.parametrize(("forgotten", "others"), [(NFD, [NFC, f"{NFC} "]), (" 9042 ", [])])
def test_tombstone_from_before_the_rule_is_found(
    catalog: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    tombstone: Callable[[Subject], str],
    forgotten: str,
    others: list[str],
) -> None:
    request_id = tombstone(Subject(scope=Scope.USER, user_id=forgotten))
    for spelling in (forgotten, *others):
        with catalog() as uow:
            with pytest.raises(GoneError):
                read_user(uow, pseudonyms, spelling)
            with pytest.raises(ForgottenPersonError):
                add_interactions(uow, pseudonyms, [rating(spelling)])
            assert forget(uow, pseudonyms, spelling).id == request_id
        rows = [rating(spelling)]
        assert imported(catalog, pseudonyms, interactions=rows).skipped == {"forgotten": 1}
    with catalog() as uow:
        assert record_consent(uow, pseudonyms, [forgotten, *others][-1]) == 1
        assert add_interactions(uow, pseudonyms, [rating(forgotten)]) == ["stored"]


def test_tombstone_of_another_spelling_does_not_stand_for_the_deletion_of_stored_data(
    catalog: UnitOfWorkFactory, pseudonyms: Pseudonyms, tombstone: Callable[[Subject], str]
) -> None:
    completed_id = tombstone(Subject(scope=Scope.USER, user_id=" 9042 "))
    with catalog() as uow:
        add_interactions(uow, pseudonyms, [rating("9042")])
        request = forget(uow, pseudonyms, " 9042 ")
    assert request.id != completed_id
    assert request.subject == Subject(scope=Scope.USER, user_id="9042")
