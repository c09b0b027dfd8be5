"""The compact prompt: who the user is, the last ten ratings, and the candidate last.

    BOS  attributes…  (item rating)×10 │ CANDIDATE  item  attributes…  ANSWER
    └──────────── prefix ────────────┘   └──────────── suffix ─────────────┘

The prefix is what all candidates of a user share. Absent parts are PAD with an attention mask of
zero and take up no position, so a padded prompt and an unpadded one give the same logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from models.samples import HISTORY_LENGTH
from models.vocabulary import ANSWER, BOS, CANDIDATE, FIRST_RATING, PAD, UNKNOWN_ITEM

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from models.datasets.interactions import Interactions
    from models.samples import Samples
    from models.vocabulary import Vocabulary

#: Places for an item's attribute values; MovieLens films have 2.2 genres on average.
ATTRIBUTE_PLACES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoded:
    """B prompts of T tokens: `tokens` [B, T] int64; a PAD takes part in nothing.

    Attention mask and positions follow from the tokens.
    """

    tokens: torch.Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def mask(self) -> torch.Tensor:
        """Return [B, T] int64, one where there is a token."""
        return (self.tokens != PAD).long()

    @property
    def positions(self) -> torch.Tensor:
        """Return [B, T] int64 positions that count real tokens only."""
        return (self.mask.cumsum(1) - 1).clamp_min(0)

    def take(self, rows: torch.Tensor) -> Encoded:
        """Return these prompts only."""
        return Encoded(tokens=self.tokens[rows])


class CompactPrompt:
    """Encodes samples and requests for one vocabulary and catalogue."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Remember the vocabulary; nothing else is needed."""
        self.vocabulary = vocabulary

    def samples(self, samples: Samples, data: Interactions) -> Encoded:
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
        return Encoded(tokens=torch.from_numpy(np.concatenate(columns, axis=1).astype(np.int64)))

    def prefix(
        self, attributes: Mapping[str, str], history: Sequence[tuple[int, float]]
    ) -> torch.Tensor:
        """Encode one user, [1, P] int64 without padding; history is (slot, stars), oldest first."""
        tokens = [BOS, *(token for token in self.vocabulary.user(attributes) if token != PAD)]
        for slot, stars in history[-HISTORY_LENGTH:]:
            tokens += [self.vocabulary.item(slot), FIRST_RATING - 1 + round(stars * 2)]
        return torch.tensor([tokens])

    def suffixes(
        self, candidates: Sequence[tuple[int, Mapping[str, Sequence[str]]]]
    ) -> torch.Tensor:
        """Encode N candidates (slot, attributes) as [N, S] int64, PAD where attributes lack."""
        rows = [
            [
                CANDIDATE,
                self.vocabulary.item(slot),
                *self.vocabulary.item_attributes(attributes, ATTRIBUTE_PLACES),
                ANSWER,
            ]
            for slot, attributes in candidates
        ]
        return torch.tensor(rows)

    def _items(self, slots: NDArray[np.int32]) -> NDArray[np.int64]:
        known = (slots >= 0) & (slots < self.vocabulary.slots)
        return np.where(known, self.vocabulary.first_item + slots.astype(np.int64), UNKNOWN_ITEM)
