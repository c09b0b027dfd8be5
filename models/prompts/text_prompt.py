"""Write and tokenize text prompts for any tokenizer of transformers.

All candidates of a user share the text before the candidate's title. A prompt is tokenized as a
whole, because separately tokenized pieces may give other tokens. The module returns lists of
tokens, so that a gateway without torch can write prompts for a serving engine.
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

#: Pairs of answer words, by preference. The leading blank comes first because byte-level tokenizers
#: continue a sentence with it; for T5 both spellings are the same token.
ANSWERS: Final = ((" Yes", " No"), ("Yes", "No"), (" yes", " no"), ("yes", "no"))
#: Prompts per tokenizer call; limits memory, because tokenizers return lists of Python integers.
TOKENIZER_BATCH: Final = 1024


class NoAnswerTokensError(ValueError):
    """The tokenizer has no single, distinct tokens for Yes and No: choose another backbone."""


class PromptTooLongError(ValueError):
    """The prompt exceeds the backbone's limit even without history: choose another backbone."""


class TextTokens:
    """Write requests as tokens of one tokenizer.

    `keep_end_token`: keep the end-of-text token that a tokenizer appends. Encoders need that token;
    a causal model must continue the text with its answer. `limit`: maximum number of tokens of a
    prompt; longer prompts lose their oldest ratings. `wording`: a key of `templates.WORDINGS`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        keep_end_token: bool,
        limit: int | None,
        wording: str = PUBLISHED,
    ) -> None:
        """Look up the answer tokens; raises NoAnswerTokensError or UnknownWordingError."""
        if wording not in WORDINGS:
            raise UnknownWordingError(wording)
        self.wording = wording
        self._tokenizer = tokenizer
        self._keep_end_token = keep_end_token
        self._limit = limit
        self.answers = answer_tokens(tokenizer)

    def request_tokens(
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
        titles = [title_of(candidate.title, candidate.item_index) for candidate in candidates]
        return list(
            self.rows(
                [
                    PromptContent(attributes=attributes, history=rated, title=title)
                    for title in titles
                ]
            )
        )

    def manifest(self) -> dict[str, Any]:
        """Return every setting that changes the tokens, and the answer tokens, as JSON values."""
        return {
            "style": "text",
            "wording": self.wording,
            "tokenizer_sha256": digest(self._tokenizer),
            "answers": list(self.answers),
        }

    def rows(self, contents: Sequence[PromptContent]) -> Iterator[list[int]]:
        """Yield the tokens of each prompt; raises PromptTooLongError."""
        for start in range(0, len(contents), TOKENIZER_BATCH):
            batch = contents[start : start + TOKENIZER_BATCH]
            rows = self._tokenize([content.text(self.wording) for content in batch])
            for content, row in zip(batch, rows, strict=True):
                yield self._shorten(content, row)

    def _shorten(self, content: PromptContent, row: list[int]) -> list[int]:
        """Return `row`, tokenized again with less history and title until the limit is kept."""
        while self._limit is not None and len(row) > self._limit:
            if content.history:
                content = replace(content, history=content.history[1:])
            elif len(content.title) > 1:  # A title may need a token per byte.
                content = replace(content, title=content.title[: len(content.title) // 2])
            else:
                raise PromptTooLongError(PromptTooLongError.__doc__)
            (row,) = self._tokenize([content.text(self.wording)])
        return row

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        # `split_special_tokens`: a special token that is spelled out in a title is plain text.
        encoded = self._tokenizer(texts, verbose=False, split_special_tokens=True)
        rows: list[list[int]] = encoded["input_ids"]
        end = self._tokenizer.eos_token_id
        return (
            rows if self._keep_end_token else [row[:-1] if row[-1] == end else row for row in rows]
        )


def answer_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Return the tokens of Yes and No; raises NoAnswerTokensError if one word needs several."""
    special = set(tokenizer.all_special_ids)
    for pair in ANSWERS:
        yes, no = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in pair)
        if len(yes) == len(no) == 1 and yes != no and not {*yes, *no} & special:
            return yes[0], no[0]
    raise NoAnswerTokensError(NoAnswerTokensError.__doc__)


def digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 of a tokenizer's full definition, or else of its vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
