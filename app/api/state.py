"""The components that the routes of one application share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.services.ports import UnitOfWorkFactory
    from app.services.pseudonyms import Pseudonyms
    from app.serving.recommend.service import RecommendService
    from app.serving.replica.replica import Replica
    from app.serving.retrieval.first_stage import Candidates
    from app.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The components of one running gateway."""

    settings: Settings
    uow: UnitOfWorkFactory
    pseudonyms: Pseudonyms
    candidates: Candidates
    replica: Replica
    recommender: RecommendService
