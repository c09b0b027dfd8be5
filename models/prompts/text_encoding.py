"""Prompts in words as tensors: `models.prompts.text_prompt` tokenises, this pads.

Knows torch; nothing of how a prompt reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from models.prompts.prompt_batch import Encoded
from models.prompts.templates import Question, title_of
from models.prompts.text_prompt import TextTokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from models.data.interactions import Interactions
    from models.data.samples import Samples
    from models.prompts.scoring_inputs import Candidate, HistoryEvent


class TextPrompt(TextTokens):
    """Encodes samples and requests for one tokenizer."""

    item_tokens: ClassVar[bool] = False

    def samples(self, samples: Samples, data: Interactions) -> Encoded:
        """Encode M samples of `data`; raises PromptTooLongError."""
        return self.encode([_sampled(samples, data, row) for row in range(len(samples))])

    def request(
        self,
        attributes: Mapping[str, str],
        history: Sequence[HistoryEvent],
        candidates: Sequence[Candidate],
    ) -> Encoded:
        """Encode N candidates of one user; raises PromptTooLongError."""
        return _padded(self.requested(attributes, history, candidates))

    def golden(self) -> Encoded:
        """Encode two prompts about films that there are not."""
        history = tuple((f"Film {number}", 2 + number) for number in range(5))
        return self.encode(
            [
                Question(attributes={}, history=history, title="Another Film"),
                Question(attributes={"gender": "F"}, history=history[:2], title="A Third (1999)"),
            ]
        )

    def encode(self, questions: Sequence[Question]) -> Encoded:
        """Return the prompts of these questions, padded on the right; raises PromptTooLongError."""
        # Lists of Python integers take much memory: as arrays at once.
        return _padded([np.array(row, dtype=np.int32) for row in self.rows(questions)])


def _padded(rows: Sequence[Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int32]]]) -> Encoded:
    width = max(map(len, rows), default=0)
    tokens = np.zeros((len(rows), width), dtype=np.int64)
    present = np.zeros((len(rows), width), dtype=bool)
    for index, row in enumerate(rows):
        tokens[index, : len(row)], present[index, : len(row)] = row, True
    return Encoded(tokens=torch.from_numpy(tokens), present=torch.from_numpy(present))


def _sampled(samples: Samples, data: Interactions, row: int) -> Question:
    slots, ratings = samples.history[row].tolist(), samples.history_rating[row].tolist()
    candidate = int(samples.candidate[row])
    return Question(
        attributes=data.users[int(samples.user[row])].attributes,
        history=tuple(
            (title_of(data.items[slot].title, slot), rating)
            for slot, rating in zip(slots, ratings, strict=True)
            if slot >= 0
        ),
        title=title_of(data.items[candidate].title, candidate),
    )
