"""Build first stages, and read their index and their proposals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.services.recommendation_inputs import read_inputs
from app.serving.retrieval import proposals
from app.serving.retrieval.first_stage import FirstStage
from app.serving.retrieval.proposals import AskerItems
from tests.support.gateway_world import ITEMS, ask

if TYPE_CHECKING:
    from app.domain.recommendations import RecommendationQuery
    from app.services.recommendation_inputs import Inputs
    from app.serving.retrieval.proposals import ProposedItems
    from app.storage.unit_of_work import UnitOfWork
    from tests.support.gateway_world import World


def rebuilt(world: World) -> FirstStage:
    """Return a first stage with an index that is built from the present data."""
    first_stage = FirstStage(world.uow, world.pseudonyms)
    first_stage.rebuild()
    return first_stage


def index_bytes(first_stage: FirstStage) -> bytes:
    """Return the canonical bytes of the index."""
    assert first_stage._view is not None
    return first_stage._view.state.index.state()


def propose(world: World, first_stage: FirstStage, user_id: str = "u0") -> list[str]:
    """Return the ids of all proposed items, best first."""
    query = ask(user_id, ITEMS, exclude_seen=False)
    with world.uow(write=False) as uow:
        inputs = read_inputs(uow, world.pseudonyms, user_id)
        proposal = proposed(uow, first_stage, inputs, query, ITEMS + 1)
    return [item.id for item in proposal.items]


def proposed(
    uow: UnitOfWork, first_stage: FirstStage, inputs: Inputs, query: RecommendationQuery, stop: int
) -> ProposedItems:
    """Return the items of the first `stop` ranks from the view of this snapshot."""
    view = first_stage.current(uow, inputs.data_version)
    return proposals.propose(view, AskerItems.from_inputs(view, inputs), query, 0, stop)
