"""Rows of the embedding that belong to single tokens, and what a deletion owes them.

An item's row is where a small model keeps most of what few ratings taught it. Two changes follow
from counts and labels alone, without training: a row goes back toward its initial value by the
share of its samples that leave, and it moves so far that the item's own mean counts without them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import torch

from models.prompts.prompt_batch import PromptBatch
from models.prompts.vocabulary import FIRST_ATTRIBUTE, NO, YES
from models.recommender.ensemble import input_table
from models.recommender.factory import build

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from models.data.forget_split import ForgetSplit
    from models.data.samples import Samples
    from models.prompts.compact_prompt import CompactPrompt
    from models.recommender.base import Recommender

#: What a history without stars counts as, and for how many ratings that opinion stands.
PRIOR_HALF_STARS: Final = 7.0
PRIOR_RATINGS: Final = 2
#: So many items are asked which way their rows move the margin.
ASKED: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenRows:
    """R rows of the embedding: `tokens` [R] int64 and their new `values` [R, D] float32."""

    tokens: torch.Tensor
    values: torch.Tensor

    @torch.no_grad()
    def put(self, recommender: Recommender) -> None:
        """Overwrite these rows of a recommender, in place."""
        if len(self.tokens):
            table = input_table(recommender)
            table[self.tokens] = self.values.to(table.device)

    def __add__(self, other: TokenRows) -> TokenRows:
        """Return both; no token may be in both."""
        return TokenRows(
            tokens=torch.cat([self.tokens, other.tokens]),
            values=torch.cat([self.values, other.values]),
        )


def unused_tokens(recommender: Recommender, prepared: ForgetSplit) -> list[int]:
    """Return the tokens of items and of attribute values that no retained training prompt has.

    An author whom one person read is as much a fingerprint as the book. None where items are words.
    """
    if not recommender.prompt.item_tokens:
        return []
    unused = torch.ones(recommender.vocabulary.size, dtype=torch.bool)
    unused[:FIRST_ATTRIBUTE] = False
    unused[recommender.prompt.samples(prepared.parts.train, prepared.retained).tokens] = False
    tokens: list[int] = unused.nonzero().flatten().tolist()
    return tokens


def reset_item_rows(recommender: Recommender, item_indices: Sequence[int]) -> None:
    """Give the embedding rows of these item slots their initial values back, in place."""
    vocabulary = recommender.vocabulary
    reset_rows(
        recommender,
        [
            vocabulary.item(item_index)
            for item_index in item_indices
            if 0 <= item_index < vocabulary.item_capacity
        ],
    )


@torch.no_grad()
def reset_rows(recommender: Recommender, tokens: Sequence[int]) -> None:
    """Give the embedding rows of these tokens their initial values back, in place.

    Rows whose token no retained sample contains must not show that any ever did.
    """
    rows = torch.tensor(tokens, dtype=torch.long)
    tables = recommender.item_tables()
    initial = build(recommender.vocabulary, recommender.config).item_tables() if tables else []
    for table, fresh in zip(tables, initial, strict=True):
        table[rows] = fresh[rows]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ItemChange:
    """What a deletion does to I items, in rising order of `slots` [I] int64.

    `kept` [I] float64 is the share of an item's training samples that stay; `effect` [I] float64
    the change of its mean residual (in probability), shrunk toward 0 by `damping` samples.
    """

    item_indices: NDArray[np.int64]
    kept: NDArray[np.float64]
    effect: NDArray[np.float64]

    @classmethod
    def of(cls, prepared: ForgetSplit, item_indices: int, damping: float) -> ItemChange:
        """Count and average the retained training samples with and without those that leave."""
        stay = prepared.parts.train
        leave = leaving(prepared)
        leave = leave.take(leave.candidate < item_indices)
        expect = _expected_like(stay)
        left = stay.candidate < item_indices
        count = np.bincount(stay.candidate[left], minlength=item_indices)
        gone = np.bincount(leave.candidate, minlength=item_indices)
        residual = (stay.label - expect(stay))[left]
        total = np.bincount(stay.candidate[left], weights=residual, minlength=item_indices)
        lost = np.bincount(
            leave.candidate, weights=leave.label - expect(leave), minlength=item_indices
        )
        after = total / (count + damping)
        before = (total + lost) / (count + gone + damping)
        touched = np.flatnonzero(gone)
        return cls(
            item_indices=touched,
            kept=(count / np.maximum(count + gone, 1))[touched],
            effect=np.where(count > 0, after - before, 0.0)[touched],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FirstStep:
    """Where the rows of the items that are rated less go, as the rest of the data would have them.

    `kept` [R, D] is each row gone back toward its initial value by the share that leaves; `way`
    [R, D] is the way along the gradient of the margin that the item's mean asks for. An item's
    row is only one of the places where its mean is known, so that margins move by a part of `way`;
    how often it is gone is the caller's to measure. Figures: docs/methods.md.
    """

    tokens: torch.Tensor
    kept: torch.Tensor
    way: torch.Tensor

    @classmethod
    def of(cls, recommender: Recommender, prepared: ForgetSplit, damping: float) -> FirstStep:
        """Compute it from counts, labels and one gradient; nothing moves where items are words."""
        if not recommender.prompt.item_tokens:
            none = torch.empty(0, 1)
            return cls(tokens=torch.empty(0, dtype=torch.long), kept=none, way=none)
        change = ItemChange.of(prepared, recommender.vocabulary.item_capacity, damping)
        tokens = recommender.vocabulary.first_item + torch.from_numpy(change.item_indices)
        with torch.no_grad():
            now = input_table(recommender)[tokens].cpu()
            initial = _initial(recommender, tokens)
            share = torch.from_numpy(change.kept).float()[:, None]
            kept = initial + share * (now - initial)
        if not len(tokens):
            return cls(tokens=tokens, kept=kept, way=torch.zeros_like(kept))
        gradient = _gradient(recommender, prepared, change.item_indices, kept)
        wanted = torch.from_numpy(change.effect).float()[:, None]
        length = gradient.square().sum().clamp_min(torch.finfo(torch.float32).eps)
        return cls(tokens=tokens, kept=kept, way=wanted * gradient / length)

    def rows(self, step_size: float) -> TokenRows:
        """Return the rows that have gone `reach` times along their way."""
        return TokenRows(tokens=self.tokens, values=self.kept + step_size * self.way)


@torch.no_grad()
def shrunk_answers(recommender: Recommender, factor: float) -> TokenRows:
    """Return the rows of the two answers, drawn together so that each margin shrinks to `factor`.

    No prompt contains an answer, so nothing else changes. Where items are words, the answers are
    words of prompts as well, and stay as they are.
    """
    if not recommender.prompt.item_tokens:
        return TokenRows(tokens=torch.empty(0, dtype=torch.long), values=torch.empty(0, 1))
    tokens = torch.tensor([YES, NO])
    now = input_table(recommender)[tokens].cpu()
    middle = now.mean(0, keepdim=True)
    return TokenRows(tokens=tokens, values=middle + factor * (now - middle))


def leaving(prepared: ForgetSplit) -> Samples:
    """Return the forget samples that are gone, not only shortened in their history."""
    stay, forget = prepared.parts.train, prepared.forget
    items = max(len(prepared.retained.items), 1)
    kept = stay.user.astype(np.int64) * items + stay.candidate
    asked = forget.user.astype(np.int64) * items + forget.candidate
    return forget.take(~np.isin(asked, kept))


class _expected_like:  # noqa: N801 -- a function that remembers its fit
    """P(liked) of samples from the mean stars in their history: a parabola through `samples`."""

    def __init__(self, samples: Samples) -> None:
        if len(samples):
            self._fit = np.polyfit(self._stars(samples), samples.label, 2)
        else:
            self._fit = np.array([0.5])

    def __call__(self, samples: Samples) -> NDArray[np.float64]:
        return np.clip(np.polyval(self._fit, self._stars(samples)), 0.03, 0.97)

    @staticmethod
    def _stars(samples: Samples) -> NDArray[np.float64]:
        count = (samples.history >= 0).sum(1)
        total = samples.history_rating.sum(1)
        smoothed: NDArray[np.float64] = (total + PRIOR_HALF_STARS * PRIOR_RATINGS) / (
            count + PRIOR_RATINGS
        )
        return smoothed / 2


def _gradient(
    recommender: Recommender,
    prepared: ForgetSplit,
    item_indices: NDArray[np.int64],
    values: torch.Tensor,
) -> torch.Tensor:
    """Return the [D] mean over items of the margin's gradient by their rows, no history before.

    One for all: what is left of single items' gradients is mostly noise (docs/methods.md).
    """
    prompt = cast("CompactPrompt", recommender.prompt)
    chosen = np.unique(
        np.linspace(0, len(item_indices) - 1, min(len(item_indices), ASKED)).astype(np.int64)
    )
    rows = values[torch.from_numpy(chosen)].to(recommender.device)
    items = prepared.retained.items
    suffixes = prompt.suffixes(
        [(item_index, items[item_index].attributes) for item_index in item_indices[chosen].tolist()]
    )
    prefix = prompt.prefix({}, []).expand(len(suffixes), -1)
    seen: list[torch.Tensor] = []

    def replace(_module: torch.nn.Module, _inputs: object, found: torch.Tensor) -> torch.Tensor:
        if seen:  # A decoder looks up its own tokens in the same table.
            return found
        embedded = found.detach().clone()
        embedded[:, prefix.shape[1] + 1] = rows
        seen.append(embedded.requires_grad_())
        return seen[0]

    embedding = recommender.model.get_input_embeddings()  # type: ignore[operator]
    handle = embedding.register_forward_hook(replace)
    try:
        with torch.enable_grad():
            tokens = torch.cat([prefix, suffixes], dim=1)
            yes, no = recommender.answer_logits(PromptBatch(tokens=tokens)).unbind(1)
            margin = (yes - no).sum()
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(margin, seen[0])
    return gradient[:, prefix.shape[1] + 1].mean(0).cpu()


def _initial(recommender: Recommender, tokens: torch.Tensor) -> torch.Tensor:
    initial = build(recommender.vocabulary, recommender.config)
    return input_table(initial).detach()[tokens].cpu()
