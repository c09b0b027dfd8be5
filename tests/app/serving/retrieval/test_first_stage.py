"""Test that the first stage follows the change log and applies deletions at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.domain.catalog import Interaction, ItemOrigin
from app.services.forget import cancel_forget
from app.services.interactions import add_interactions
from app.services.orphaned_items import OrphanedItems, retire_orphans
from app.services.recommendation_inputs import read_inputs
from app.serving.retrieval.first_stage import FirstStage
from models.data.samples import HISTORY_LENGTH
from models.prompts.scoring_inputs import HistoryEvent
from tests.support.first_stages import index_bytes, propose, proposed, rebuilt
from tests.support.gateway_world import ITEMS, USERS, World, ask
from tests.support.statements import is_whole_table, statements

if TYPE_CHECKING:
    from collections.abc import Callable


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
def test_following_the_log_gives_the_bytes_of_a_rebuild(
    world: World, first_stage: FirstStage, change: Callable[[World], None]
) -> None:
    change(world)
    with statements(world) as executed:
        first_stage.follow()
    assert not [sql for sql in executed if is_whole_table(sql)]  # Changed, not rebuilt.
    assert index_bytes(first_stage) == index_bytes(rebuilt(world))


@pytest.mark.parametrize("change", [forget_user, forget_item])
def test_a_query_applies_deletions_by_itself(
    world: World, first_stage: FirstStage, change: Callable[[World], None]
) -> None:
    propose(world, first_stage)
    change(world)
    rebuilt = FirstStage(world.uow, world.pseudonyms)
    rebuilt.rebuild()
    assert propose(world, first_stage) == propose(world, rebuilt)


def test_a_forgotten_pair_is_removed(world: World, first_stage: FirstStage) -> None:
    with world.uow(write=False) as uow:
        item_id = uow.people.history("u3")[0].item_id
    world.forget("u3", item_id)
    first_stage.follow()
    assert index_bytes(first_stage) == index_bytes(rebuilt(world))


def test_the_proposal_contains_the_history_with_titles(
    world: World, first_stage: FirstStage
) -> None:
    """Text prompts need titles: item indices mean nothing to a language model."""
    with world.uow(write=False) as uow:
        inputs = read_inputs(uow, world.pseudonyms, "u1")
        proposal = proposed(uow, first_stage, inputs, ask("u1", ITEMS, exclude_seen=False), ITEMS)
        items = {item.id: item for item in uow.people.items()}
    assert proposal.history == tuple(
        HistoryEvent(items[event.item_id].item_index, event.rating, items[event.item_id].title)
        for event in inputs.history[-HISTORY_LENGTH:]
    )
    assert all(event.title for event in proposal.history)


def test_a_forgotten_item_is_never_proposed(world: World, first_stage: FirstStage) -> None:
    assert "i3" in propose(world, first_stage)
    world.forget(item_id="i3")
    assert "i3" not in propose(world, first_stage)
    with world.uow() as uow:
        uow.people.retire_item("i3")
        uow.state.bump("items")
    item_ids = propose(world, first_stage)
    assert len(item_ids) == ITEMS - 1
    assert not any(item_id.startswith("retired") for item_id in item_ids)


def test_an_orphaned_item_of_a_forgotten_user_is_proposed_by_no_replica(
    world: World, first_stage: FirstStage
) -> None:
    """Both queries and the background refresh read the change of the catalog."""
    other = FirstStage(world.uow, world.pseudonyms)
    with world.uow() as uow:
        uow.people.upsert_items([("u3s-own", "u3s-own", {})], ItemOrigin.RATINGS)
        uow.state.bump("items")
    rate(world, "u3", "u3s-own")
    other.rebuild()
    assert "u3s-own" in propose(world, first_stage)
    world.forget("u3")
    with world.uow() as uow:
        uow.state.forget_user_in_log("u3")
        uow.people.delete_user("u3")
        assert retire_orphans(uow, ["u3s-own", "i0"]) == OrphanedItems(
            retired=frozenset({"u3s-own"})
        )
    other.follow()
    for replica in (first_stage, other):
        proposed = propose(world, replica)
        assert len(proposed) == ITEMS
        assert not [item_id for item_id in proposed if item_id.startswith(("u3s", "retired"))]
        replica.follow()
        assert index_bytes(replica) == index_bytes(rebuilt(world))


def test_a_deletion_without_user_id_causes_a_rebuild_before_a_proposal(
    world: World, first_stage: FirstStage
) -> None:
    user_count = len(first_stage)
    world.forget("u3")
    with world.uow() as uow:  # The deletion completes before this replica reads the log.
        uow.state.forget_user_in_log("u3")
        uow.people.delete_user("u3")
        uow.state.bump("completed")
    propose(world, first_stage)
    assert len(first_stage) == user_count - 1
    assert index_bytes(first_stage) == index_bytes(rebuilt(world))


def test_ratings_without_user_id_wait_for_the_background_rebuild_but_deletions_do_not(
    world: World, first_stage: FirstStage
) -> None:
    with world.uow() as uow:
        uow.people.upsert_interactions(
            [Interaction(user_id="u5", item_id="i29", rating=5.0, timestamp=9)],
            uow.state.bump("interactions"),
        )
    world.forget("u3")
    before = index_bytes(first_stage)
    propose(world, first_stage)
    assert index_bytes(first_stage) == before
    assert len(first_stage) == len(USERS) - 1
    first_stage.follow()
    assert index_bytes(first_stage) == index_bytes(rebuilt(world))


def test_new_items_can_be_proposed(world: World, first_stage: FirstStage) -> None:
    with world.uow() as uow:
        uow.people.upsert_items([("new", "New", {"genre": ["Drama"]})])
        uow.state.bump("items")
    assert "new" in propose(world, first_stage)
