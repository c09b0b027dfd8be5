"""Answers are prepared from memory with two statements, and equal those from the database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.domain.catalog import Interaction, User
from app.domain.errors import GoneError
from app.domain.recommendations import RecommendationQuery, Visitor
from app.services.forget import cancel_forget
from app.services.interactions import add_interactions
from app.services.users import store_users
from app.serving.recommend.ranking import PreparedQuery
from app.serving.retrieval.histories import RESTRICTED
from tests.support.gateway_world import ITEMS, USERS, World, ask
from tests.support.statements import statements

if TYPE_CHECKING:
    from app.serving.recommend.service import RecommendService
    from app.serving.replica.replica import Replica


def prepared(service: RecommendService, query: RecommendationQuery) -> PreparedQuery:
    (read,) = service.query_reader.read([query])
    assert isinstance(read, PreparedQuery)
    return read


def from_database(
    world: World, service: RecommendService, query: RecommendationQuery
) -> PreparedQuery:
    with world.uow(write=False) as uow:
        read = service.query_reader._prepare(uow, query)
    assert isinstance(read, PreparedQuery)
    return read


def check_equal_to_database(
    world: World, service: RecommendService, query: RecommendationQuery
) -> PreparedQuery:
    """Check that the query is prepared from memory, as it would be from the database."""
    with statements(world, only_this_thread=True) as executed:
        read = prepared(service, query)
    assert len(executed) == 1
    expected = from_database(world, service, query)
    assert read.proposal.items == expected.proposal.items
    assert read.proposal.history == expected.proposal.history
    assert read.proposal.history_ids == expected.proposal.history_ids
    assert read.proposal.usable.item_ids() == expected.proposal.usable.item_ids()
    assert service.query_reader.tag_of(read, "rel") == service.query_reader.tag_of(expected, "rel")
    return read


def rate(world: World, user_id: str, item_id: str, rating: float = 5.0) -> None:
    with world.uow() as uow:
        row = Interaction(user_id=user_id, item_id=item_id, rating=rating, timestamp=2000)
        add_interactions(uow, world.pseudonyms, [row])


def test_an_answer_takes_two_statements(world: World, service: RecommendService) -> None:
    for query in (ask("u1", 5), RecommendationQuery(person=Visitor(history=(("i3", 5.0),)))):
        with statements(world, only_this_thread=True) as executed:
            service.answer(query)
        assert len(executed) == 2
    with statements(world, only_this_thread=True) as executed:
        service.answer_all([ask(user_id, 5) for user_id in USERS])
    assert len(executed) == 2


@pytest.mark.parametrize("user_id", USERS)
def test_answers_from_memory_equal_those_from_the_database(
    world: World, service: RecommendService, user_id: str
) -> None:
    check_equal_to_database(world, service, ask(user_id, ITEMS))
    check_equal_to_database(world, service, ask(user_id, ITEMS, exclude_seen=False))


def test_the_askers_own_writes_are_read_from_the_database_until_the_index_has_them(
    world: World, service: RecommendService, replica: Replica
) -> None:
    replica.stop()  # Nothing follows the log in the background.
    rate(world, "u1", "i29", 1.0)
    with world.uow() as uow:
        store_users(uow, world.pseudonyms, [User(id="u1", attributes={"age": "25"})])
    with statements(world, only_this_thread=True) as executed:
        read = prepared(service, ask("u1", ITEMS))
    assert len(executed) > 1
    assert read.proposal.history_ids[-1] == "i29"
    assert "i29" not in {item.id for item in read.proposal.items}
    assert read.inputs.user.attributes == {"age": "25"}
    # Another user is not concerned.
    check_equal_to_database(world, service, ask("u2", ITEMS))
    replica.first_stage.follow()
    again = check_equal_to_database(world, service, ask("u1", ITEMS))
    assert again.proposal.history == read.proposal.history
    assert again.inputs.user == read.inputs.user


def test_a_forgotten_rating_is_used_by_no_answer(
    world: World, service: RecommendService, replica: Replica
) -> None:
    before = prepared(service, ask("u1", ITEMS))
    forgotten = before.proposal.history_ids[-1]
    world.forget("u1", forgotten)
    for _ in range(2):
        read = prepared(service, ask("u1", ITEMS))
        assert forgotten not in read.proposal.usable.used_ids
        assert forgotten not in {item.id for item in read.proposal.items}
        replica.first_stage.follow()
    view = replica.first_stage.view
    assert view is not None
    assert view.state.histories.get("u1") is RESTRICTED


def test_a_forgotten_item_is_in_no_history_and_no_proposal(
    world: World, service: RecommendService, replica: Replica
) -> None:
    item_id = prepared(service, ask("u1", ITEMS)).proposal.history_ids[-1]
    request_id = world.forget(item_id=item_id)
    for _ in range(2):
        read = prepared(service, ask("u1", ITEMS, exclude_seen=False))
        assert item_id not in read.proposal.usable.item_ids()
        assert item_id not in {item.id for item in read.proposal.items}
        replica.first_stage.follow()
    check_equal_to_database(world, service, ask("u1", ITEMS, exclude_seen=False))
    with world.uow() as uow:
        cancel_forget(uow, request_id)
    for _ in range(2):
        read = prepared(service, ask("u1", ITEMS, exclude_seen=False))
        assert item_id in read.proposal.usable.item_ids()
        assert item_id in {item.id for item in read.proposal.items}
        replica.first_stage.follow()
    check_equal_to_database(world, service, ask("u1", ITEMS, exclude_seen=False))


def test_a_forgotten_user_is_gone_and_leaves_the_memory(
    world: World, service: RecommendService, replica: Replica
) -> None:
    world.forget("u1")
    with statements(world, only_this_thread=True) as executed, pytest.raises(GoneError):
        service.answer(ask("u1", 5))
    assert executed
    replica.first_stage.follow()
    view = replica.first_stage.view
    assert view is not None
    assert view.state.histories.get("u1") is None


def test_a_changed_catalog_takes_effect_at_once(world: World, service: RecommendService) -> None:
    item_id = prepared(service, ask("u1", 5)).proposal.items[0].id
    with world.uow() as uow:
        uow.people.set_available([item_id], available=False)
        uow.state.bump("items")
    assert item_id not in {item.id for item in prepared(service, ask("u1", 5)).proposal.items}
    check_equal_to_database(world, service, ask("u1", ITEMS))
