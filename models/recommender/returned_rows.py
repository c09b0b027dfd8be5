"""Compute in closed form where the embedding rows of items return to when their samples leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from models.recommender.ensemble import input_table
from models.recommender.factory import build
from models.recommender.token_rows import TokenRows

if TYPE_CHECKING:
    from models.data.forget_split import ForgetSplit
    from models.data.samples import Samples
    from models.recommender.base import Recommender


@torch.no_grad()
def returned_rows(recommender: Recommender, prepared: ForgetSplit) -> TokenRows:
    """Return the rows of all items that lose samples, moved toward their initial values.

    A row e becomes e₀ + κ · (e − e₀) for the initial value e₀ and the share κ of the item's
    training samples that stay: what the samples taught the row leaves in proportion. Empty for text
    prompts, which have no item rows. Items beyond the vocabulary's capacity have no row.
    """
    if not recommender.prompt.item_tokens:
        return TokenRows.empty()
    capacity = recommender.vocabulary.item_capacity
    removed = removed_samples(prepared).candidate
    lost = np.bincount(removed[removed < capacity], minlength=capacity)
    candidates = prepared.parts.train.candidate
    kept = np.bincount(candidates[candidates < capacity], minlength=capacity)
    items = np.flatnonzero(lost)
    share = torch.from_numpy(kept[items] / (kept + lost)[items]).float()[:, None]
    tokens = recommender.vocabulary.first_item + torch.from_numpy(items)
    current = input_table(recommender)[tokens].cpu()
    initial = input_table(build(recommender.vocabulary, recommender.config))[tokens].cpu()
    return TokenRows(tokens=tokens, values=initial + share * (current - initial))


def removed_samples(prepared: ForgetSplit) -> Samples:
    """Return the forget samples that are removed, without those that only lose some history."""
    retained, forget = prepared.parts.train, prepared.forget
    items = max(len(prepared.retained.items), 1)
    retained_pairs = retained.user.astype(np.int64) * items + retained.candidate
    forget_pairs = forget.user.astype(np.int64) * items + forget.candidate
    return forget.take(~np.isin(forget_pairs, retained_pairs))
