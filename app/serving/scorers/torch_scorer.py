"""Scores with torch, in this process."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from app.domain.errors import NoReleaseError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from app.serving.scorers.base import ScoringRequest
    from models.recommender import Recommender


class TorchScorer:
    """Takes over the only reference to a recommender."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender: Recommender | None = recommender

    @property
    def recommender(self) -> Recommender:
        """Return the recommender; raises NoReleaseError once it is freed."""
        if self._recommender is None:
            raise NoReleaseError
        return self._recommender

    def score(self, request: ScoringRequest) -> NDArray[np.float32]:
        return self.recommender.score(request.attributes, request.history, request.candidates)

    def forget(self, user_id: str) -> None:
        """Nothing is kept of anybody."""

    def close(self) -> None:
        """Drop the weights. Modules refer to each other in circles, hence the collection."""
        self._recommender = None
        gc.collect()
