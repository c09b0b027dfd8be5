"""The prompt in words, for any tokenizer of transformers; the templates are in `templates`.

Everything before the candidate's title is the same for all candidates of a user; prompts are
tokenised whole, because pieces that are tokenised apart may give other tokens than the whole. Gives
lists of tokens and no tensors: a gateway without torch writes these prompts as well.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from models.data.samples import HISTORY_LENGTH
from models.prompts.templates import (
    PUBLISHED,
    WORDINGS,
    PromptContent,
    UnknownWordingError,
    title_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

    from models.prompts.scoring_inputs import Candidate, HistoryEvent

#: With a leading blank first: that is how an answer goes on after a sentence. T5 reads both alike.
ANSWERS: Final = ((" Yes", " No"), ("Yes", "No"), (" yes", " no"), ("yes", "no"))
#: So many prompts are tokenised at once: lists of Python integers take much memory.
TOKENIZED_AT_ONCE: Final = 1024


class NoAnswerTokensError(ValueError):
    """The tokenizer has no single, distinct tokens for Yes and No: choose another backbone."""


class PromptTooLongError(ValueError):
    """The prompt is longer than the backbone reads, even without history: choose another one."""


class TextTokens:
    """Writes requests as tokens of one tokenizer.

    A prompt of a causal model ends where the answer begins; an encoder's is closed as its tokenizer
    closes texts. Prompts of more than `limit` tokens lose their oldest ratings. `wording` is one of
    `wording.WORDINGS`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        closed: bool,
        limit: int | None,
        wording: str = PUBLISHED,
    ) -> None:
        """Find the answers' tokens; raises NoAnswerTokensError or UnknownWordingError."""
        if wording not in WORDINGS:
            raise UnknownWordingError(wording)
        self.wording = wording
        self._tokenizer = tokenizer
        self._closed = closed
        self._limit = limit
        self.answers = answer_tokens(tokenizer)

    def requested(
        self,
        attributes: Mapping[str, str],
        history: Sequence[HistoryEvent],
        candidates: Sequence[Candidate],
    ) -> list[list[int]]:
        """Return the tokens of N candidates' prompts for one user; raises PromptTooLongError."""
        rated = tuple(
            (title_of(event.title, event.item_index), round(event.rating * 2))
            for event in history[-HISTORY_LENGTH:]
        )
        titles = [title_of(one.title, one.item_index) for one in candidates]
        return list(
            self.rows(
                [PromptContent(attributes=attributes, history=rated, title=one) for one in titles]
            )
        )

    def manifest(self) -> dict[str, Any]:
        """Return all that must be the same for the same prompts, and which tokens answer them."""
        return {
            "style": "text",
            "wording": self.wording,
            "tokenizer_sha256": digest(self._tokenizer),
            "answers": list(self.answers),
        }

    def rows(self, contents: Sequence[PromptContent]) -> Iterator[list[int]]:
        """Yield the tokens of each question; raises PromptTooLongError."""
        for start in range(0, len(contents), TOKENIZED_AT_ONCE):
            few = contents[start : start + TOKENIZED_AT_ONCE]
            found = self._tokenize([content.text(self.wording) for content in few])
            for content, row in zip(few, found, strict=True):
                yield self._fitting(content, row)

    def _fitting(self, content: PromptContent, row: list[int]) -> list[int]:
        while self._limit is not None and len(row) > self._limit:
            if content.history:
                content = replace(content, history=content.history[1:])
            elif len(content.title) > 1:  # Some titles have a token for every byte.
                content = replace(content, title=content.title[: len(content.title) // 2])
            else:
                raise PromptTooLongError(PromptTooLongError.__doc__)
            (row,) = self._tokenize([content.text(self.wording)])
        return row

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        # A title that spells a special token out is text like any other.
        found = self._tokenizer(texts, verbose=False, split_special_tokens=True)
        rows: list[list[int]] = found["input_ids"]
        end = self._tokenizer.eos_token_id
        # Some tokenizers close every text; after its end a causal model would answer nothing.
        return rows if self._closed else [row[:-1] if row[-1] == end else row for row in rows]


def answer_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Return the tokens of Yes and No; raises NoAnswerTokensError where they are not single."""
    special = set(tokenizer.all_special_ids)
    for pair in ANSWERS:
        yes, no = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in pair)
        if len(yes) == len(no) == 1 and yes != no and not {*yes, *no} & special:
            return yes[0], no[0]
    raise NoAnswerTokensError(NoAnswerTokensError.__doc__)


def digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 of a tokenizer: all of it where transformers shows it, or its words."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
