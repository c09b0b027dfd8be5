"""Scores with torch, in this process."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import torch

from app.domain.errors import NoReleaseError
from models import checkpoints
from models.devices import Machine, choose_device, use

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from app.domain.releases import Release
    from app.serving.scorers.base import ScoringRequest
    from app.settings import Settings
    from models.manifests import Manifest
    from models.recommender import Recommender


class TorchScorer:
    """Takes over the only reference to a recommender."""

    lost = False

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


class TorchScorers:
    """Holds nothing outside of its scorers."""

    def __init__(self, settings: Settings) -> None:
        """Set torch's own threads and its device, for the whole process."""
        torch.set_num_threads(settings.torch_threads)
        use(Machine(device=choose_device(settings.device)))

    def load(self, release: Release, directory: Path, manifest: Manifest) -> TorchScorer:
        """Read the weights into memory; the digest and the golden prompts are checked."""
        del release, manifest  # The recommender is all in its directory.
        return TorchScorer(checkpoints.load(directory))

    def held(self) -> set[str]:
        return set()

    def unload(self, release_id: str) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """There are no connections."""
