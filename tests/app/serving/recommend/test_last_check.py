"""The last check of an answer compares all ratings that the scores were computed from."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from app.domain.catalog import Interaction
from app.domain.errors import UnavailableError
from app.services.interactions import add_interactions
from models.data.samples import HISTORY_LENGTH
from tests.support.gateway_world import World, ask

if TYPE_CHECKING:
    from app.serving.recommend.service import RecommendService

_LAST_CHECK = 9


@pytest.mark.parametrize("of_item", [False, True])
def test_newer_ratings_do_not_hide_a_forgotten_rating_behind_the_scores(
    world: World, service: RecommendService, *, of_item: bool
) -> None:
    """New ratings push a rating out of the history that the last proposal uses.

    The scores are older than these ratings, and the rating is forgotten before the last check.
    """
    checks = itertools.count(1)
    with world.uow() as uow:
        others = [f"v{n}" for n in range(_LAST_CHECK)]
        uow.people.ensure_users(others)
        uow.state.bump("interactions", others)
        rated = {event.item_id for event in uow.people.history("u1")}
    rate(world, "i0", rating=1.0, timestamp=8000)
    new_items = [f"i{n}" for n in range(1, 30) if f"i{n}" not in rated][:HISTORY_LENGTH]

    def interfere() -> None:
        number = next(checks)
        if number == 2:
            for item_id in new_items:
                rate(world, item_id, rating=1.0, timestamp=9000)
        if number < _LAST_CHECK:
            world.forget(f"v{number}")
        elif of_item:
            world.forget(item_id="i0")
        else:
            world.forget("u1", "i0")

    with pytest.raises(UnavailableError, match="forgotten faster"):
        service.answer(ask("u1", 5), before_recheck=interfere)
    assert next(checks) == _LAST_CHECK + 1


def rate(world: World, item_id: str, rating: float, timestamp: int) -> None:
    with world.uow() as uow:
        row = Interaction(user_id="u1", item_id=item_id, rating=rating, timestamp=timestamp)
        add_interactions(uow, world.pseudonyms, [row])
