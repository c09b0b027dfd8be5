"""Encode users and items as one token per fact: the prompt of the compact backbones.

    BOS  attributes…  (item rating)×10 │ CANDIDATE  item  attributes…  ANSWER
    └──────────── prefix ────────────┘   └──────────── suffix ─────────────┘

All candidates of a user share the prefix. Absent parts are PAD: they are masked and have no
position, so that a padded and an unpadded prompt give the same logits. `Prompt` is the interface
of all prompt styles; `models.prompts.text_encoding` has the style in natural language.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

import numpy as np
import torch

from models.data.samples import HISTORY_LENGTH
from models.prompts.prompt_batch import PromptBatch
from models.prompts.vocabulary import (
    ANSWER,
    BOS,
    CANDIDATE,
    FIRST_RATING,
    NO,
    PAD,
    RATINGS,
    UNKNOWN_ITEM,
    YES,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from models.data.interactions import Interactions
    from models.data.samples import Samples
    from models.prompts.scoring_inputs import Candidate, HistoryEvent
    from models.prompts.vocabulary import Vocabulary

#: Tokens per item for its attribute values; MovieLens films have 2.2 genres on average.
ATTRIBUTE_PLACES: Final = 3
GOLDEN_PROMPTS: Final = 8


class Prompt(Protocol):
    """Encode samples and scoring requests in one prompt style."""

    @property
    def item_tokens(self) -> bool:
        """Return whether each item is a token; then no prompt contains a Yes or No token."""

    @property
    def answers(self) -> tuple[int, int]:
        """Return the tokens of Yes and No."""

    def samples(self, samples: Samples, data: Interactions) -> PromptBatch:
        """Encode M samples of `data` as M prompts."""

    def request(
        self,
        attributes: Mapping[str, str],
        history: Sequence[HistoryEvent],
        candidates: Sequence[Candidate],
    ) -> PromptBatch:
        """Encode N candidates of one user as N prompts; `history` is oldest first."""

    def golden(self) -> PromptBatch:
        """Encode fixed prompts without user data, whose logits a checkpoint stores and checks."""

    def manifest(self) -> dict[str, Any]:
        """Return every setting that changes the tokens, as JSON values."""


class CompactPrompt:
    """Encode samples and requests for one vocabulary and catalog."""

    item_tokens: ClassVar[bool] = True
    answers: ClassVar[tuple[int, int]] = (YES, NO)

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Take the vocabulary and start an empty cache of item suffixes."""
        self.vocabulary = vocabulary
        #: Per item index: attributes, and the suffix as int64 bytes. Comparing the attributes
        #: detects an item that has changed.
        self._suffix_cache: dict[int, tuple[Mapping[str, Sequence[str]], bytes]] = {}

    def samples(self, samples: Samples, data: Interactions) -> PromptBatch:
        """Encode M samples of `data` as [M, T] tokens."""
        # Only users and items that occur are encoded: a catalog is much larger than a user's rows.
        user_indices, user_rows = np.unique(samples.user, return_inverse=True)
        users = np.array(
            [self.vocabulary.user(data.users[index].attributes) for index in user_indices.tolist()],
            dtype=np.int64,
        ).reshape(len(user_indices), len(self.vocabulary.user_attributes))
        item_indices, item_rows = np.unique(samples.candidate, return_inverse=True)
        attributes = np.array(
            [
                self.vocabulary.item_attributes(data.items[index].attributes, ATTRIBUTE_PLACES)
                for index in item_indices.tolist()
            ],
            dtype=np.int64,
        ).reshape(len(item_indices), ATTRIBUTE_PLACES)
        count = len(samples)
        history = np.empty((count, 2 * HISTORY_LENGTH), dtype=np.int64)
        absent = samples.history < 0
        history[:, 0::2] = np.where(absent, PAD, self._items(samples.history))
        history[:, 1::2] = np.where(absent, PAD, FIRST_RATING - 1 + samples.history_rating)
        columns = (
            np.full((count, 1), BOS),
            users[user_rows],
            history,
            np.full((count, 1), CANDIDATE),
            self._items(samples.candidate)[:, None],
            attributes[item_rows],
            np.full((count, 1), ANSWER),
        )
        return PromptBatch(
            tokens=torch.from_numpy(np.concatenate(columns, axis=1).astype(np.int64))
        )

    def request(
        self,
        attributes: Mapping[str, str],
        history: Sequence[HistoryEvent],
        candidates: Sequence[Candidate],
    ) -> PromptBatch:
        """Encode N candidates of one user as [N, T] tokens: the prefix, then the suffix."""
        prefix = self.prefix(attributes, [(event.item_index, event.rating) for event in history])
        suffixes = self.suffixes(
            [(candidate.item_index, candidate.attributes) for candidate in candidates]
        )
        return PromptBatch(tokens=torch.cat([prefix.expand(len(suffixes), -1), suffixes], dim=1))

    def golden(self) -> PromptBatch:
        """Encode prompts of random items and ratings, drawn from a fixed seed."""
        vocabulary = self.vocabulary
        generator = torch.Generator().manual_seed(0)
        shape = (GOLDEN_PROMPTS, 5)
        items = (
            torch.randint(vocabulary.item_capacity, shape, generator=generator)
            + vocabulary.first_item
        )
        ratings = torch.randint(RATINGS, shape, generator=generator) + FIRST_RATING
        history = torch.stack([items, ratings], dim=2).flatten(1)
        candidate = torch.randint(
            vocabulary.item_capacity, (GOLDEN_PROMPTS, 1), generator=generator
        )
        begin, middle, end = (
            torch.full((GOLDEN_PROMPTS, 1), token) for token in (BOS, CANDIDATE, ANSWER)
        )
        columns = [begin, history, middle, candidate + vocabulary.first_item, end]
        return PromptBatch(tokens=torch.cat(columns, dim=1))

    def manifest(self) -> dict[str, Any]:
        """Return the style; the vocabulary's own manifest has all other settings."""
        return {"style": "compact"}

    def prefix(
        self, attributes: Mapping[str, str], history: Sequence[tuple[int, float]]
    ) -> torch.Tensor:
        """Encode one user as [1, P] int64 without padding.

        `history` is (item index, stars), oldest first; the last HISTORY_LENGTH entries count.
        """
        tokens = [BOS, *(token for token in self.vocabulary.user(attributes) if token != PAD)]
        for item_index, stars in history[-HISTORY_LENGTH:]:
            tokens += [self.vocabulary.item(item_index), FIRST_RATING - 1 + round(stars * 2)]
        return torch.tensor([tokens])

    def suffixes(
        self, candidates: Sequence[tuple[int, Mapping[str, Sequence[str]]]]
    ) -> torch.Tensor:
        """Encode N candidates (item index, attributes) as [N, S] int64, PAD for absent values."""
        rows = bytearray().join([self._suffix(*candidate) for candidate in candidates])
        width = ATTRIBUTE_PLACES + 3
        if not rows:
            return torch.empty(0, width, dtype=torch.int64)
        return torch.frombuffer(rows, dtype=torch.int64).view(-1, width)

    def _suffix(self, item_index: int, attributes: Mapping[str, Sequence[str]]) -> bytes:
        """Return an item's suffix as int64 bytes, from the cache where possible.

        Only item indices of the vocabulary are cached, which bounds the cache.
        """
        cached = self._suffix_cache.get(item_index)
        if cached is not None and cached[0] == attributes:
            return cached[1]
        places = self.vocabulary.item_attributes(attributes, ATTRIBUTE_PLACES)
        row = [CANDIDATE, self.vocabulary.item(item_index), *places, ANSWER]
        suffix = np.array(row, dtype=np.int64).tobytes()
        if 0 <= item_index < self.vocabulary.item_capacity:
            self._suffix_cache[item_index] = (copy.deepcopy(attributes), suffix)
        return suffix

    def _items(self, item_indices: NDArray[np.int32]) -> NDArray[np.int64]:
        known = (item_indices >= 0) & (item_indices < self.vocabulary.item_capacity)
        return np.where(
            known, self.vocabulary.first_item + item_indices.astype(np.int64), UNKNOWN_ITEM
        )
