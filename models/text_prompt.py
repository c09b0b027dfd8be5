"""The prompt in words: E2URec's "simple" template over any tokenizer of transformers.

Wording as published (arXiv 2403.03536, its data_preprocess scripts), down to the history that is
printed as a Python list from 0. What is not known of a person is left out. Everything before the
candidate's title is the same for all candidates of a user; prompts are tokenised whole, because
pieces that are tokenised apart may give other tokens than the whole. Gives lists of tokens and
no tensors: a gateway without torch writes these prompts as well.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from models.samples import HISTORY_LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

    from models.requests import Candidate, HistoryEvent

#: With a leading blank first: that is how an answer goes on after a sentence. T5 reads both alike.
ANSWERS: Final = ((" Yes", " No"), ("Yes", "No"), (" yes", " no"), ("yes", "no"))
#: Longer titles are cut, so that one title cannot push out the question.
TITLE_LENGTH: Final = 200
#: So many prompts are tokenised at once: lists of Python integers take much memory.
TOKENISED_AT_ONCE: Final = 1024
_GENDERS: Final = {"F": "female", "M": "male"}


class NoAnswerTokensError(ValueError):
    """The tokenizer has no single, distinct tokens for Yes and No: choose another backbone."""


class PromptTooLongError(ValueError):
    """The prompt is longer than the backbone reads, even without history: choose another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What one prompt says: the person, up to ten (title, half stars), oldest first, and a title.

    `attributes` may hold gender ("F" or "M"), occupation and age.
    """

    attributes: Mapping[str, str]
    history: tuple[tuple[str, int], ...]
    title: str

    def text(self) -> str:
        """Write the prompt."""
        gender = _GENDERS.get(self.attributes.get("gender", ""))
        he, his = {"female": ("she", "Her"), "male": ("he", "His")}.get(
            gender or "", ("the user", "The user's")
        )
        profile = [f"The user is a {gender}."] if gender else []
        for name, word in (("occupation", "job"), ("age", "age")):
            if self.attributes.get(name):
                profile.append(f"{his} {word} is {self.attributes[name]}.")
        rated = [
            f"{number}. {title} ({_stars(half_stars)})"
            for number, (title, half_stars) in enumerate(self.history)
        ]
        return (
            (" ".join(profile) + "\n" if profile else "")
            + f"{he[0].upper()}{he[1:]} watched the following movies in order in the past, "
            f"and rated them:\n{rated}\n"
            f"Based on the movies {he} has watched, deduce if {he} will like the movie "
            f"***{self.title}***.\n"
            "Note that more stars the user rated the movie, the user liked the movie more.\n"
            "You should ONLY tell me yes or no."
        )


def _stars(half_stars: int) -> str:
    return f"{half_stars / 2:g} star{'s' if half_stars > 2 else ''}"  # noqa: PLR2004 -- one star


def shown_title(title: str, slot: int) -> str:
    """Return what a prompt says of an item: the start of its title, or its number without one."""
    return title[:TITLE_LENGTH] if title else f"number {slot}"


class TextTokens:
    """Writes requests as tokens of one tokenizer.

    A prompt of a causal model ends where the answer begins; an encoder's is closed as its tokenizer
    closes texts. Prompts of more than `limit` tokens lose their oldest ratings.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, closed: bool, limit: int | None
    ) -> None:
        """Find the answers' tokens; raises NoAnswerTokensError."""
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
            (shown_title(event.title, event.slot), round(event.rating * 2))
            for event in history[-HISTORY_LENGTH:]
        )
        titles = [shown_title(one.title, one.slot) for one in candidates]
        return list(
            self.rows([Question(attributes=attributes, history=rated, title=one) for one in titles])
        )

    def manifest(self) -> dict[str, Any]:
        """Return the style, the tokenizer's digest and the answers: other tokens, other prompts."""
        return {
            "style": "text",
            "tokenizer_sha256": digest(self._tokenizer),
            "answers": list(self.answers),
        }

    def rows(self, questions: Sequence[Question]) -> Iterator[list[int]]:
        """Yield the tokens of each question; raises PromptTooLongError."""
        for start in range(0, len(questions), TOKENISED_AT_ONCE):
            few = questions[start : start + TOKENISED_AT_ONCE]
            found = self._tokenise([question.text() for question in few])
            for question, row in zip(few, found, strict=True):
                yield self._fitting(question, row)

    def _fitting(self, question: Question, row: list[int]) -> list[int]:
        while self._limit is not None and len(row) > self._limit:
            if not question.history:
                raise PromptTooLongError(PromptTooLongError.__doc__)
            question = replace(question, history=question.history[1:])
            (row,) = self._tokenise([question.text()])
        return row

    def _tokenise(self, texts: list[str]) -> list[list[int]]:
        rows: list[list[int]] = self._tokenizer(texts, verbose=False)["input_ids"]
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
