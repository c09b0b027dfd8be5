"""Compute the effect of a deletion on embedding rows in closed form, without training.

In a small model, an item's row holds most of what was learned from the item's ratings. Two changes
follow from counts and labels: each affected row moves toward its initial value by the share of the
item's samples that are removed, and then so far along the margin's gradient that the item's mean
label no longer contains them. Used by `e2urec-fast`; figures in docs/methods.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import torch

from models.prompts.prompt_batch import PromptBatch
from models.recommender.ensemble import input_table
from models.recommender.factory import build
from models.recommender.token_rows import TokenRows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.data.forget_split import ForgetSplit
    from models.data.samples import Samples
    from models.prompts.compact_prompt import CompactPrompt
    from models.recommender.base import Recommender

#: Prior of a history's mean rating, in half stars, and its weight in ratings.
PRIOR_HALF_STARS: Final = 7.0
PRIOR_RATINGS: Final = 2
#: Maximum number of items whose gradients are averaged.
GRADIENT_ITEMS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ItemChange:
    """The effect of a deletion on I items, in ascending order of `item_indices` [I] int64.

    `kept` [I] float64: the share of an item's training samples that remain. `effect` [I] float64:
    the change of the item's mean residual (a probability), shrunk toward 0 by `damping` samples.
    """

    item_indices: NDArray[np.int64]
    kept: NDArray[np.float64]
    effect: NDArray[np.float64]

    @classmethod
    def from_split(cls, prepared: ForgetSplit, item_capacity: int, damping: float) -> ItemChange:
        """Compare each item's training samples with and without the removed samples.

        Items from index `item_capacity` on have no row and are ignored.
        """
        retained = prepared.parts.train
        removed = removed_samples(prepared)
        removed = removed.take(removed.candidate < item_capacity)
        like_model = _LikeModel(retained)
        has_row = retained.candidate < item_capacity
        candidates = retained.candidate[has_row]
        count = np.bincount(candidates, minlength=item_capacity)
        removed_count = np.bincount(removed.candidate, minlength=item_capacity)
        residuals = (retained.label - like_model.predict(retained))[has_row]
        residual_sum = np.bincount(candidates, weights=residuals, minlength=item_capacity)
        removed_sum = np.bincount(
            removed.candidate,
            weights=removed.label - like_model.predict(removed),
            minlength=item_capacity,
        )
        after = residual_sum / (count + damping)
        before = (residual_sum + removed_sum) / (count + removed_count + damping)
        changed = np.flatnonzero(removed_count)
        return cls(
            item_indices=changed,
            kept=(count / np.maximum(count + removed_count, 1))[changed],
            effect=np.where(count > 0, after - before, 0.0)[changed],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FirstStep:
    """The step of the rows of R items that lose samples: `start` + step size x `direction`.

    `tokens` [R]. `start` [R, D]: each row, moved toward its initial value by the share of removed
    samples. `direction` [R, D]: the move along the margin's gradient that alone would change the
    margin by the item's `effect`. Other weights reflect the item's mean as well, so that margins
    change by less; the caller measures which step size is needed.
    """

    tokens: torch.Tensor
    start: torch.Tensor
    direction: torch.Tensor

    @classmethod
    def from_split(
        cls, recommender: Recommender, prepared: ForgetSplit, damping: float
    ) -> FirstStep:
        """Compute the step from counts, labels and one gradient; empty for text prompts."""
        if not recommender.prompt.item_tokens:
            rows = TokenRows.empty()
            return cls(tokens=rows.tokens, start=rows.values, direction=rows.values)
        change = ItemChange.from_split(prepared, recommender.vocabulary.item_capacity, damping)
        tokens = recommender.vocabulary.first_item + torch.from_numpy(change.item_indices)
        with torch.no_grad():
            current = input_table(recommender)[tokens].cpu()
            initial = _initial_rows(recommender, tokens)
            share = torch.from_numpy(change.kept).float()[:, None]
            start = initial + share * (current - initial)
        if not len(tokens):
            return cls(tokens=tokens, start=start, direction=torch.zeros_like(start))
        gradient = _margin_gradient(recommender, prepared, change.item_indices, start)
        effect = torch.from_numpy(change.effect).float()[:, None]
        squared_norm = gradient.square().sum().clamp_min(torch.finfo(torch.float32).eps)
        return cls(tokens=tokens, start=start, direction=effect * gradient / squared_norm)

    def rows(self, step_size: float) -> TokenRows:
        """Return the item rows after a step of this size."""
        return TokenRows(tokens=self.tokens, values=self.start + step_size * self.direction)


def removed_samples(prepared: ForgetSplit) -> Samples:
    """Return the forget samples that are removed, without those that only lose some history."""
    retained, forget = prepared.parts.train, prepared.forget
    items = max(len(prepared.retained.items), 1)
    retained_pairs = retained.user.astype(np.int64) * items + retained.candidate
    forget_pairs = forget.user.astype(np.int64) * items + forget.candidate
    return forget.take(~np.isin(forget_pairs, retained_pairs))


class _LikeModel:
    """Predict P(liked) from the mean stars of the history, with a parabola fit to `samples`."""

    def __init__(self, samples: Samples) -> None:
        if len(samples):
            self._fit = np.polyfit(self._stars(samples), samples.label, 2)
        else:
            self._fit = np.array([0.5])

    def predict(self, samples: Samples) -> NDArray[np.float64]:
        return np.clip(np.polyval(self._fit, self._stars(samples)), 0.03, 0.97)

    @staticmethod
    def _stars(samples: Samples) -> NDArray[np.float64]:
        count = (samples.history >= 0).sum(1)
        total = samples.history_rating.sum(1)
        smoothed: NDArray[np.float64] = (total + PRIOR_HALF_STARS * PRIOR_RATINGS) / (
            count + PRIOR_RATINGS
        )
        return smoothed / 2


def _margin_gradient(
    recommender: Recommender,
    prepared: ForgetSplit,
    item_indices: NDArray[np.int64],
    values: torch.Tensor,
) -> torch.Tensor:
    """Return [D]: the gradient of the margin by an item's row, without history, mean over items.

    The mean serves all items, because differences between items are mostly noise (docs/methods.md).
    """
    prompt = cast("CompactPrompt", recommender.prompt)
    selected = np.unique(
        np.linspace(0, len(item_indices) - 1, min(len(item_indices), GRADIENT_ITEMS)).astype(
            np.int64
        )
    )
    rows = values[torch.from_numpy(selected)].to(recommender.device)
    items = prepared.retained.items
    suffixes = prompt.suffixes(
        [
            (item_index, items[item_index].attributes)
            for item_index in item_indices[selected].tolist()
        ]
    )
    prefix = prompt.prefix({}, []).expand(len(suffixes), -1)
    inputs: list[torch.Tensor] = []

    def replace(_module: torch.nn.Module, _tokens: object, embedded: torch.Tensor) -> torch.Tensor:
        if inputs:  # A decoder looks up its own tokens in the same table.
            return embedded
        replaced = embedded.detach().clone()
        replaced[:, prefix.shape[1] + 1] = rows
        inputs.append(replaced.requires_grad_())
        return inputs[0]

    embedding = recommender.model.get_input_embeddings()  # type: ignore[operator]
    handle = embedding.register_forward_hook(replace)
    try:
        with torch.enable_grad():
            tokens = torch.cat([prefix, suffixes], dim=1)
            yes, no = recommender.answer_logits(PromptBatch(tokens=tokens)).unbind(1)
            margin = (yes - no).sum()
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(margin, inputs[0])
    return gradient[:, prefix.shape[1] + 1].mean(0).cpu()


def _initial_rows(recommender: Recommender, tokens: torch.Tensor) -> torch.Tensor:
    initial = build(recommender.vocabulary, recommender.config)
    return input_table(initial).detach()[tokens].cpu()
