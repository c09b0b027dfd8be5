"""Scores with torch, in this process."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from app.domain.errors import InvalidInputError, NoReleaseError
from app.serving.scorers.prefix_cache import PrefixCache
from app.serving.scorers.steps import Steps
from models import checkpoints
from models.devices import Machine, UnknownDeviceError, choose_device, use

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from app.domain.releases import Release
    from app.serving.scorers.base import ScoringRequest
    from app.settings import Settings
    from models.manifests import Manifest
    from models.recommender import Recommender
    from models.shared_prefix import PackedReader, Prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringPolicy:
    """How much a release may keep and do at once; `Settings` says what each is."""

    prefix_cache_bytes: int
    step_tokens: int
    steps_at_once: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            prefix_cache_bytes=settings.prefix_cache_bytes,
            step_tokens=settings.step_tokens,
            steps_at_once=settings.steps_at_once,
        )


class TorchScorer:
    """Takes over the only reference to a recommender."""

    lost = False

    def __init__(self, recommender: Recommender, policy: ScoringPolicy) -> None:
        """Look at what the model can do now, before anybody waits for an answer."""
        recommender.reader()
        self._recommender: Recommender | None = recommender
        self._cache = PrefixCache(policy.prefix_cache_bytes)
        self._steps = Steps(tokens=policy.step_tokens, at_once=policy.steps_at_once)

    @property
    def recommender(self) -> Recommender:
        """Return the recommender; raises NoReleaseError once it is freed."""
        if self._recommender is None:
            raise NoReleaseError
        return self._recommender

    def score(self, request: ScoringRequest) -> NDArray[np.float32]:
        if not request.candidates:
            return np.empty(0, dtype=np.float32)
        recommender = self.recommender
        prompts = recommender.prompt.request(
            request.attributes, request.history, request.candidates
        )
        shared = recommender.shared(prompts)
        reader = recommender.reader() if shared else None
        if reader is None:
            logits = self._steps.alone(lambda: recommender.score_logits(prompts))
        else:
            prefix = self._prefix(reader, request, prompts.tokens[0, :shared])
            logits = self._steps.score(reader, prefix, prompts.rests(len(prefix)))
        scores: NDArray[np.float32] = logits.softmax(1)[:, 0].numpy()
        return scores

    def score_all(self, requests: Sequence[ScoringRequest]) -> list[NDArray[np.float32]]:
        return [self.score(request) for request in requests]

    def forget(self, user_id: str | None) -> None:
        """Drop the states of this person's prefixes; a score under way puts none back."""
        self._cache.forget(user_id)

    def close(self) -> None:
        """Drop the weights. Modules refer to each other in circles, hence the collection."""
        self._steps.close()
        self._cache.forget(None)
        self._recommender = None
        gc.collect()

    def _prefix(
        self, reader: PackedReader, request: ScoringRequest, tokens: torch.Tensor
    ) -> Prefix:
        """Return what the model makes of the shared tokens, or made of most of them before."""
        found, moment = self._cache.find(request.user_id, tokens, len(request.candidates))
        if found is None:
            found = self._steps.alone(lambda: reader.read(tokens))
            self._cache.keep(request.user_id, found, moment)
        return found


class TorchScorers:
    """Holds nothing outside of its scorers."""

    def __init__(self, settings: Settings) -> None:
        """Set torch's own threads and its device, for the whole process."""
        torch.set_num_threads(settings.torch_threads)
        try:
            use(Machine(device=choose_device(settings.device)))
        except UnknownDeviceError as error:
            raise InvalidInputError(str(error)) from error
        self._policy = ScoringPolicy.of(settings)

    def load(self, release: Release, directory: Path, manifest: Manifest) -> TorchScorer:
        """Read the weights into memory; the digest and the golden prompts are checked."""
        del release, manifest  # The recommender is all in its directory.
        return TorchScorer(checkpoints.load(directory), self._policy)

    def held(self) -> set[str]:
        return set()

    def unload(self, release_id: str) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """There are no connections."""
