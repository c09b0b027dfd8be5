"""Compute scores with torch in this process."""

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
    from app.serving.scorers.scorer import ScoringRequest
    from app.settings import Settings
    from models.checkpoints.manifest import Manifest
    from models.inference.shared_prefix import Prefix, Reader
    from models.prompts.prompt_batch import PromptBatch
    from models.recommender.base import Recommender

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringPolicy:
    """Limits of one release's scorer; see the settings of the same names."""

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


class _SharedPrompts(NamedTuple):
    """A request, its N prompts, and the [h] tokens that all its prompts start with."""

    request: ScoringRequest
    prompts: PromptBatch
    shared: torch.Tensor


class TorchScorer:
    """Score with a recommender; the scorer owns the only reference to the recommender."""

    lost = False

    def __init__(self, recommender: Recommender, policy: ScoringPolicy) -> None:
        """Create the recommender's reader now, so that the first request does not wait for it."""
        self._reader = recommender.reader()
        self._recommender: Recommender | None = recommender
        self.precision: str | None = _precision_of(recommender)
        self._cache = PrefixCache(policy.prefix_cache_bytes)
        self._batcher = RequestBatcher(
            max_tokens=policy.step_tokens, max_concurrent=policy.steps_at_once
        )
        #: Whether a request with all its work takes the place of a batch. A reader that does not
        #: join requests has short passes, and threads that prepare prompts beside a pass would
        #: slow each other down.
        self._is_request_alone = self._reader is not None and not self._reader.batches_requests

    @property
    def recommender(self) -> Recommender:
        """Return the recommender; raises NoReleaseError after `close`."""
        if self._recommender is None:
            raise NoReleaseError
        return self._recommender

    def score(self, request: ScoringRequest) -> NDArray[np.float32]:
        return self.score_all([request])[0]

    def score_all(self, requests: Sequence[ScoringRequest]) -> list[NDArray[np.float32]]:
        """Read all uncached histories in one pass, then score all candidates."""
        work = partial(self._score, self.recommender, self._reader, requests)
        return self._batcher.run_alone(work) if self._is_request_alone else work()

    def forget(self, user_id: str | None) -> None:
        """Drop the cached states of this user's history; running requests add none afterwards."""
        self._cache.forget(user_id)

    def close(self) -> None:
        """Free the weights and all cached states before returning.

        If a batch is running, its references keep the weights until the batch ends. This does not
        happen in the gateway, because a model is freed only after its last reader has left.
        """
        is_idle = self._batcher.close()
        self._cache.forget(None)
        recommender, self._recommender, self._reader = self._recommender, None, None
        if recommender is not None and is_idle:
            free_weights(recommender)

    def _score(
        self,
        recommender: Recommender,
        reader: Reader | None,
        requests: Sequence[ScoringRequest],
    ) -> list[NDArray[np.float32]]:
        """Return [N] float32 P(Yes) per request."""
        logits: list[torch.Tensor] = [torch.empty(0, 2) for _ in requests]
        with_prefix: dict[int, _SharedPrompts] = {}
        for index, request in enumerate(requests):
            if not request.candidates:
                continue
            prompts = recommender.prompt.request(
                request.attributes, request.history, request.candidates
            )
            shared = recommender.shared_length(prompts) if reader else 0
            if shared:
                with_prefix[index] = _SharedPrompts(request, prompts, prompts.tokens[0, :shared])
            else:
                logits[index] = self._run_alone(partial(recommender.score_logits, prompts))
        if reader is not None and with_prefix:
            prefix_logits = self._score_after_prefixes(reader, list(with_prefix.values()))
            for index, request_logits in zip(with_prefix, prefix_logits, strict=True):
                logits[index] = request_logits
        return [request_logits.softmax(1)[:, 0].numpy() for request_logits in logits]

    def _score_after_prefixes(
        self, reader: Reader, requests: Sequence[_SharedPrompts]
    ) -> list[torch.Tensor]:
        """Return the [N, 2] logits of each request, computed after its cached or new prefix."""
        rows = [
            reader.rows(prefix, request.prompts)
            for request, prefix in zip(requests, self._prefixes(reader, requests), strict=True)
        ]
        if reader.batches_requests:
            return self._batcher.score(reader, rows)
        return [torch.cat(reader.answer(request_rows)) for request_rows in rows]

    def _run_alone(self, work: Callable[[], T]) -> T:
        """Run work in place of a batch, or directly if this request already takes that place."""
        return work() if self._is_request_alone else self._batcher.run_alone(work)

    def _prefixes(self, reader: Reader, requests: Sequence[_SharedPrompts]) -> list[Prefix]:
        """Return a prefix for each request: from the cache if possible, otherwise read together."""
        prefixes: list[Prefix | None] = []
        generations: list[int | None] = []
        for request, prompts, shared in requests:
            prefix, generation = None, None
            if request.keep:
                prefix, generation = self._cache.find(request.user_id, shared, len(prompts))
            prefixes.append(prefix)
            generations.append(generation)
        missing = [index for index, prefix in enumerate(prefixes) if prefix is None]
        if missing:
            unread = [requests[index].shared for index in missing]
            read = self._run_alone(lambda: reader.encode_prefixes(unread))
            for index, prefix in zip(missing, read, strict=True):
                prefixes[index], generation = prefix, generations[index]
                if generation is not None:
                    self._cache.keep(requests[index].request.user_id, prefix, generation)
        return [prefix for prefix in prefixes if prefix is not None]


def _precision_of(recommender: Recommender) -> str:
    """Return the data types of the weights, such as `float32` or `bfloat16+float32`."""
    dtypes = {parameter.dtype for parameter in recommender.model.parameters()}
    return "+".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))


class TorchBackend:
    """Load releases into this process; nothing is held outside its scorers."""

    def __init__(self, settings: Settings) -> None:
        """Set torch's thread count and device for the whole process."""
        torch.set_num_threads(settings.torch_threads)
        try:
            use(Machine(device=choose_device(settings.device)))
        except UnknownDeviceError as error:
            raise InvalidInputError(str(error)) from error
        self._policy = ScoringPolicy.of(settings)

    def load(self, release: Release, directory: Path, manifest: Manifest) -> TorchScorer:
        """Map the weights into memory; verify their digest and the golden prompts."""
        del release  # The directory and the manifest contain everything.
        return TorchScorer(
            checkpoints.load(directory, manifest=manifest, mapped=True), self._policy
        )

    def loaded_release_ids(self) -> set[str]:
        return set()

    def unload(self, release_id: str) -> None:
        """Do nothing: no release is held outside this process."""

    def close(self) -> None:
        """Do nothing: there are no connections."""
