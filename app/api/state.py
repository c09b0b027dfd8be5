"""The components that the routes of one application share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.api.attention import AttentionReader
    from app.api.following import Following
    from app.services.pseudonyms import Pseudonyms
    from app.serving.recommend.service import RecommendService
    from app.serving.replica.replica import Replica
    from app.serving.retrieval.first_stage import FirstStage
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWorkFactory


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The components of one running gateway."""

    settings: Settings
    uow: UnitOfWorkFactory
    pseudonyms: Pseudonyms
    first_stage: FirstStage
    replica: Replica
    recommender: RecommendService
    attention: AttentionReader
    following: Following
