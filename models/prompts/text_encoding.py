"""Encode text prompts as tensors; `models.prompts.text_prompt` writes and tokenizes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from models.prompts.prompt_batch import PromptBatch
from models.prompts.templates import PromptContent, title_of
from models.prompts.text_prompt import TextTokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from models.data.interactions import Interactions
    from models.data.samples import Samples
    from models.prompts.scoring_inputs import Candidate, HistoryEvent


class TextPrompt(TextTokens):
    """Encode samples and requests for one tokenizer."""

    item_tokens: ClassVar[bool] = False

    def samples(self, samples: Samples, data: Interactions) -> PromptBatch:
        """Encode M samples of `data`; raises PromptTooLongError."""
        return self.encode([_content(samples, data, row) for row in range(len(samples))])

    def request(
        self,
        attributes: Mapping[str, str],
        history: Sequence[HistoryEvent],
        candidates: Sequence[Candidate],
    ) -> PromptBatch:
        """Encode N candidates of one user; raises PromptTooLongError."""
        return _padded(self.request_tokens(attributes, history, candidates))

    def golden(self) -> PromptBatch:
        """Encode two fixed prompts about made-up films."""
        history = tuple((f"Film {number}", 2 + number) for number in range(5))
        return self.encode(
            [
                PromptContent(attributes={}, history=history, title="Another Film"),
                PromptContent(
                    attributes={"gender": "F"}, history=history[:2], title="A Third (1999)"
                ),
            ]
        )

    def encode(self, contents: Sequence[PromptContent]) -> PromptBatch:
        """Return the prompts, padded on the right; raises PromptTooLongError."""
        # Lists of Python integers take much memory, so each row becomes an array immediately.
        return _padded([np.array(row, dtype=np.int32) for row in self.rows(contents)])


def _padded(
    rows: Sequence[Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int32]]],
) -> PromptBatch:
    width = max(map(len, rows), default=0)
    tokens = np.zeros((len(rows), width), dtype=np.int64)
    present = np.zeros((len(rows), width), dtype=bool)
    for index, row in enumerate(rows):
        tokens[index, : len(row)], present[index, : len(row)] = row, True
    return PromptBatch(tokens=torch.from_numpy(tokens), present=torch.from_numpy(present))


def _content(samples: Samples, data: Interactions, row: int) -> PromptContent:
    item_indices, ratings = samples.history[row].tolist(), samples.history_rating[row].tolist()
    candidate = int(samples.candidate[row])
    return PromptContent(
        attributes=data.users[int(samples.user[row])].attributes,
        history=tuple(
            (title_of(data.items[item_index].title, item_index), rating)
            for item_index, rating in zip(item_indices, ratings, strict=True)
            if item_index >= 0
        ),
        title=title_of(data.items[candidate].title, candidate),
    )
