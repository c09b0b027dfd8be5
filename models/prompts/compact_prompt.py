"""How people and items become tokens: what every prompt gives, and the compact prompt.

    BOS  attributes…  (item rating)×10 │ CANDIDATE  item  attributes…  ANSWER
    └──────────── prefix ────────────┘   └──────────── suffix ─────────────┘

The prefix is what all candidates of a user share. Absent parts are PAD with an attention mask of
zero and take up no position, so a padded prompt and an unpadded one give the same logits. The other
style, in words, is `models.prompts.text_prompt`.
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

#: `Encoded` lives in a file of its own; everybody knows it from here.
__all__ = ["ATTRIBUTE_PLACES", "CompactPrompt", "Prompt", "PromptBatch"]

#: Places for an item's attribute values; MovieLens films have 2.2 genres on average.
ATTRIBUTE_PLACES: Final = 3
GOLDEN_PROMPTS: Final = 8


class Prompt(Protocol):
    """A style of prompt: the same samples and requests, in tokens of its own."""

    @property
    def item_tokens(self) -> bool:
        """Say whether items are tokens. Then no prompt ever contains a Yes or No token."""

    @property
    def answers(self) -> tuple[int, int]:
        """Return the tokens of Yes and No."""

    def samples(self, samples: Samples, data: Interactions) -> PromptBatch:
        """Encode M samples of `data`."""

    def request(
        self,
        attributes: Mapping[str, str],
        history: Sequence[HistoryEvent],
        candidates: Sequence[Candidate],
    ) -> PromptBatch:
        """Encode N candidates of one user, what they share first; history is oldest first."""

    def golden(self) -> PromptBatch:
        """Encode some prompts of nobody, whose answers a release is checked by."""

    def manifest(self) -> dict[str, Any]:
        """Return what must be the same for the same prompts, as JSON values."""


class CompactPrompt:
    """Encodes samples and requests for one vocabulary and catalogue."""

    item_tokens: ClassVar[bool] = True
    answers: ClassVar[tuple[int, int]] = (YES, NO)

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Remember the vocabulary, and from then on how items of its slots were written."""
        self.vocabulary = vocabulary
        #: Per slot the attributes, and the suffix as int64 bytes: an item that changed is compared.
        self._written: dict[int, tuple[Mapping[str, Sequence[str]], bytes]] = {}

    def samples(self, samples: Samples, data: Interactions) -> PromptBatch:
        """Encode M samples of `data` as [M, T] tokens."""
        # Only who and what occurs is looked up: a catalogue is much larger than one person's rows.
        present, user = np.unique(samples.user, return_inverse=True)
        users = np.array(
            [self.vocabulary.user(data.users[index].attributes) for index in present.tolist()],
            dtype=np.int64,
        ).reshape(len(present), len(self.vocabulary.user_attributes))
        rated, item = np.unique(samples.candidate, return_inverse=True)
        attributes = np.array(
            [
                self.vocabulary.item_attributes(data.items[index].attributes, ATTRIBUTE_PLACES)
                for index in rated.tolist()
            ],
            dtype=np.int64,
        ).reshape(len(rated), ATTRIBUTE_PLACES)
        count = len(samples)
        history = np.empty((count, 2 * HISTORY_LENGTH), dtype=np.int64)
        absent = samples.history < 0
        history[:, 0::2] = np.where(absent, PAD, self._items(samples.history))
        history[:, 1::2] = np.where(absent, PAD, FIRST_RATING - 1 + samples.history_rating)
        columns = (
            np.full((count, 1), BOS),
            users[user],
            history,
            np.full((count, 1), CANDIDATE),
            self._items(samples.candidate)[:, None],
            attributes[item],
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
        """Encode N candidates of one user as [N, T] tokens: the prefix, then each its suffix."""
        prefix = self.prefix(attributes, [(event.item_index, event.rating) for event in history])
        suffixes = self.suffixes([(one.item_index, one.attributes) for one in candidates])
        return PromptBatch(tokens=torch.cat([prefix.expand(len(suffixes), -1), suffixes], dim=1))

    def golden(self) -> PromptBatch:
        """Make prompts of random items and ratings, which are nobody's."""
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
        ends = [torch.full((GOLDEN_PROMPTS, 1), token) for token in (BOS, CANDIDATE, ANSWER)]
        columns = [ends[0], history, ends[1], candidate + vocabulary.first_item, ends[2]]
        return PromptBatch(tokens=torch.cat(columns, dim=1))

    def manifest(self) -> dict[str, Any]:
        """Return the style; all else is in the vocabulary's manifest."""
        return {"style": "compact"}

    def prefix(
        self, attributes: Mapping[str, str], history: Sequence[tuple[int, float]]
    ) -> torch.Tensor:
        """Encode one user, [1, P] int64 without padding; history is (slot, stars), oldest first."""
        tokens = [BOS, *(token for token in self.vocabulary.user(attributes) if token != PAD)]
        for item_index, stars in history[-HISTORY_LENGTH:]:
            tokens += [self.vocabulary.item(item_index), FIRST_RATING - 1 + round(stars * 2)]
        return torch.tensor([tokens])

    def suffixes(
        self, candidates: Sequence[tuple[int, Mapping[str, Sequence[str]]]]
    ) -> torch.Tensor:
        """Encode N candidates (slot, attributes) as [N, S] int64, PAD where attributes lack."""
        rows = bytearray().join([self._suffix(*candidate) for candidate in candidates])
        width = ATTRIBUTE_PLACES + 3
        if not rows:
            return torch.empty(0, width, dtype=torch.int64)
        return torch.frombuffer(rows, dtype=torch.int64).view(-1, width)

    def _suffix(self, item_index: int, attributes: Mapping[str, Sequence[str]]) -> bytes:
        """Return an item's tokens. Slots beyond the vocabulary are not kept: there is no end."""
        kept = self._written.get(item_index)
        if kept is not None and kept[0] == attributes:
            return kept[1]
        places = self.vocabulary.item_attributes(attributes, ATTRIBUTE_PLACES)
        row = [CANDIDATE, self.vocabulary.item(item_index), *places, ANSWER]
        written = np.array(row, dtype=np.int64).tobytes()
        if 0 <= item_index < self.vocabulary.item_capacity:
            self._written[item_index] = (copy.deepcopy(attributes), written)
        return written

    def _items(self, item_indices: NDArray[np.int32]) -> NDArray[np.int64]:
        known = (item_indices >= 0) & (item_indices < self.vocabulary.item_capacity)
        return np.where(
            known, self.vocabulary.first_item + item_indices.astype(np.int64), UNKNOWN_ITEM
        )
