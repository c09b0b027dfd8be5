"""The first stage follows the change log: deletions at once, byte for byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.domain.catalog import Interaction
from app.services.forget import cancel_forget
from app.services.interactions import add_interactions
from app.services.recommendation_inputs import read_inputs
from app.serving.retrieval.first_stage import FirstStage
from models.prompts.scoring_inputs import HistoryEvent
from tests.support.gateway_world import ITEMS, USERS, World, ask

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def candidates(world: World) -> FirstStage:
    made = FirstStage(world.uow, world.pseudonyms)
    made.rebuild()
    return made


def fresh(world: World) -> bytes:
    """Return the state that is built from nothing."""
    made = FirstStage(world.uow, world.pseudonyms)
    made.rebuild()
    return made.fingerprint()


def propose(world: World, candidates: FirstStage, user_id: str = "u0") -> list[str]:
    with world.uow(write=False) as uow:
        inputs = read_inputs(uow, world.pseudonyms, user_id)
        proposal = candidates.propose(
            uow, inputs, ask(user_id, ITEMS, exclude_seen=False), 0, ITEMS + 1
        )
    return [item.id for item in proposal.items]


def rate(world: World, user_id: str, item_id: str) -> None:
    with world.uow() as uow:
        rating = Interaction(user_id=user_id, item_id=item_id, rating=5.0, timestamp=2000)
        add_interactions(uow, world.pseudonyms, [rating])


def forget_user(world: World) -> None:
    world.forget("u3")


def forget_pair(world: World) -> None:
    world.forget("u3", "i0")


def forget_item(world: World) -> None:
    world.forget(item_id="i3")


def new_rating(world: World) -> None:
    rate(world, "new", "i4")


def cancelled(world: World) -> None:
    request = world.forget("u3")
    with world.uow() as uow:
        cancel_forget(uow, request)


CHANGES = [forget_user, forget_item, new_rating, cancelled]


@pytest.mark.parametrize("change", CHANGES)
def test_following_gives_the_bytes_of_building_anew(
    world: World, candidates: FirstStage, change: Callable[[World], None]
) -> None:
    change(world)
    before = candidates._state
    candidates.follow()
    assert candidates._state is before  # Changed in place, not rebuilt.
    assert candidates.fingerprint() == fresh(world)


@pytest.mark.parametrize("change", CHANGES)
def test_a_request_catches_up_by_itself(
    world: World, candidates: FirstStage, change: Callable[[World], None]
) -> None:
    change(world)
    propose(world, candidates)
    assert candidates.fingerprint() == fresh(world)


def test_a_forgotten_pair_is_taken_out(world: World, candidates: FirstStage) -> None:
    with world.uow(write=False) as uow:
        item_id = uow.people.history("u3")[0].item_id
    world.forget("u3", item_id)
    candidates.follow()
    assert candidates.fingerprint() == fresh(world)


def test_the_history_is_proposed_with_its_titles(world: World, candidates: FirstStage) -> None:
    """Prompts in words need them: slots mean nothing to a language model."""
    with world.uow(write=False) as uow:
        inputs = read_inputs(uow, world.pseudonyms, "u1")
        proposal = candidates.propose(uow, inputs, ask("u1", ITEMS, exclude_seen=False), 0, ITEMS)
        items = {item.id: item for item in uow.people.items()}
    assert proposal.history == tuple(
        HistoryEvent(items[one.item_id].item_index, one.rating, items[one.item_id].title)
        for one in inputs.history
    )
    assert all(event.title for event in proposal.history)


def test_a_forgotten_item_is_never_proposed(world: World, candidates: FirstStage) -> None:
    assert "i3" in propose(world, candidates)
    world.forget(item_id="i3")
    assert "i3" not in propose(world, candidates)
    with world.uow() as uow:
        uow.people.retire_item("i3")
        uow.state.bump("items")
    proposed = propose(world, candidates)
    assert len(proposed) == ITEMS - 1
    assert not any(each.startswith("retired") for each in proposed)


def test_a_nameless_deletion_is_counted_anew_before_anything_is_proposed(
    world: World, candidates: FirstStage
) -> None:
    people = len(candidates)
    world.forget("u3")
    with world.uow() as uow:  # The deletion completes before this replica has looked.
        uow.state.forget_user_in_log("u3")
        uow.people.delete_user("u3")
        uow.state.bump("completed")
    propose(world, candidates)
    assert len(candidates) == people - 1
    assert candidates.fingerprint() == fresh(world)


def test_nameless_ratings_wait_for_the_rebuild_off_the_path_but_deletions_do_not(
    world: World, candidates: FirstStage
) -> None:
    with world.uow() as uow:
        uow.people.upsert_interactions(
            [Interaction(user_id="u5", item_id="i29", rating=5.0, timestamp=9)]
        )
        uow.state.bump("interactions")
    world.forget("u3")
    state = candidates._state
    propose(world, candidates)
    assert candidates._state is state
    assert len(candidates) == len(USERS) - 1
    candidates.follow()
    assert candidates.fingerprint() == fresh(world)


def test_new_items_can_be_proposed(world: World, candidates: FirstStage) -> None:
    with world.uow() as uow:
        uow.people.upsert_items([("new", "New", {"genre": ["Drama"]})])
        uow.state.bump("items")
    assert "new" in propose(world, candidates)
