"""Scores with torch, in this process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

import torch

from app.domain.errors import InvalidInputError, NoReleaseError
from app.serving.scorers.prefix_cache import PrefixCache
from app.serving.scorers.request_batching import RequestBatcher
from models.checkpoints import checkpoint as checkpoints
from models.recommender.trainable import free_weights
from models.runtime.devices import Machine, UnknownDeviceError, choose_device, use

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from app.domain.releases import Release
    from app.serving.scorers.base import ScoringRequest
    from app.settings import Settings
    from models.checkpoints.manifest import Manifest
    from models.inference.shared_prefix import Prefix, Reader
    from models.prompts.prompt_batch import PromptBatch
    from models.recommender.base import Recommender

T = TypeVar("T")


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


class _Asked(NamedTuple):
    """A request, its N prompts, and the [h] tokens that they share."""

    request: ScoringRequest
    prompts: PromptBatch
    shared: torch.Tensor


class TorchScorer:
    """Takes over the only reference to a recommender."""

    lost = False

    def __init__(self, recommender: Recommender, policy: ScoringPolicy) -> None:
        """Look at what the model can do now, before anybody waits for an answer."""
        self._reader = recommender.reader()
        self._recommender: Recommender | None = recommender
        self._cache = PrefixCache(policy.prefix_cache_bytes)
        self._steps = RequestBatcher(tokens=policy.step_tokens, at_once=policy.steps_at_once)
        #: Whether a request is one step with all that belongs to it: where passes are short and
        #: nobody joins them, threads that prepare beside them would hold each other up.
        self._steps_alone = self._reader is not None and not self._reader.batches_requests

    @property
    def recommender(self) -> Recommender:
        """Return the recommender; raises NoReleaseError once it is freed."""
        if self._recommender is None:
            raise NoReleaseError
        return self._recommender

    def score(self, request: ScoringRequest) -> NDArray[np.float32]:
        return self.score_all([request])[0]

    def score_all(self, requests: Sequence[ScoringRequest]) -> list[NDArray[np.float32]]:
        """Read the histories that are not known at once, and then all candidates."""
        work = partial(self._scores, self.recommender, self._reader, requests)
        return self._steps.alone(work) if self._steps_alone else work()

    def _scores(
        self,
        recommender: Recommender,
        reader: Reader | None,
        requests: Sequence[ScoringRequest],
    ) -> list[NDArray[np.float32]]:
        found: list[torch.Tensor] = [torch.empty(0, 2) for _ in requests]
        behind: dict[int, _Asked] = {}
        for number, request in enumerate(requests):
            if not request.candidates:
                continue
            prompts = recommender.prompt.request(
                request.attributes, request.history, request.candidates
            )
            shared = recommender.shared_length(prompts) if reader else 0
            if shared:
                behind[number] = _Asked(request, prompts, prompts.tokens[0, :shared])
            else:
                found[number] = self._alone(partial(recommender.score_logits, prompts))
        if reader is not None and behind:
            answers = self._behind(reader, list(behind.values()))
            for number, logits in zip(behind, answers, strict=True):
                found[number] = logits
        return [each.softmax(1)[:, 0].numpy() for each in found]

    def _behind(self, reader: Reader, asked: Sequence[_Asked]) -> list[torch.Tensor]:
        """Return the logits of requests behind their prefixes."""
        rows = [
            reader.rows(prefix, each.prompts)
            for each, prefix in zip(asked, self._prefixes(reader, asked), strict=True)
        ]
        if reader.batches_requests:
            return self._steps.score(reader, rows)
        return [torch.cat(reader.answer(few)) for few in rows]

    def _alone(self, work: Callable[[], T]) -> T:
        """Do work in a step of its own, or in that which it is in already."""
        return work() if self._steps_alone else self._steps.alone(work)

    def forget(self, user_id: str | None) -> None:
        """Drop the states of this person's prefixes; a score under way puts none back."""
        self._cache.forget(user_id)

    def close(self) -> None:
        """Free the weights, and all that was made with them, before this returns.

        Where a step is under way, which its twin's readers rule out, they go when it has ended.
        """
        idle = self._steps.close()
        self._cache.forget(None)
        recommender, self._recommender, self._reader = self._recommender, None, None
        if recommender is not None and idle:
            free_weights(recommender)

    def _prefixes(self, reader: Reader, asked: Sequence[_Asked]) -> list[Prefix]:
        """Return what the model makes of the shared tokens, or made of most of them before."""
        found, moments = [], []
        for each in asked:
            kept, moment = None, None
            if each.request.keep:
                kept, moment = self._cache.find(
                    each.request.user_id, each.shared, len(each.prompts)
                )
            found.append(kept)
            moments.append(moment)
        missing = [number for number, kept in enumerate(found) if kept is None]
        if missing:
            unread = [asked[number].shared for number in missing]
            read = self._alone(lambda: reader.encode_prefixes(unread))
            for number, prefix in zip(missing, read, strict=True):
                found[number], moment = prefix, moments[number]
                if moment is not None:
                    self._cache.keep(asked[number].request.user_id, prefix, moment)
        return [prefix for prefix in found if prefix is not None]


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
        """Map the weights into memory; the digest and the golden prompts are checked."""
        del release  # The recommender is all in its directory.
        return TorchScorer(
            checkpoints.load(directory, manifest=manifest, mapped=True), self._policy
        )

    def held(self) -> set[str]:
        return set()

    def unload(self, release_id: str) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """There are no connections."""
