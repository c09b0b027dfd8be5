"""Read, replace and reset the embedding rows of single tokens.

A row can reveal that its token occurred in forgotten data, so that unlearning resets the rows of
tokens that retained data does not contain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from models.prompts.vocabulary import FIRST_ATTRIBUTE
from models.recommender.ensemble import input_table
from models.recommender.factory import build
from models.recommender.trainable import copy_recommender

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.data.forget_split import ForgetSplit
    from models.recommender.base import Recommender


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenRows:
    """R embedding rows: `tokens` [R] int64 and their new `values` [R, D] float32."""

    tokens: torch.Tensor
    values: torch.Tensor

    @classmethod
    def empty(cls) -> TokenRows:
        """Return no rows."""
        return cls(tokens=torch.empty(0, dtype=torch.long), values=torch.empty(0, 1))


@torch.no_grad()
def with_rows(recommender: Recommender, rows: TokenRows) -> Recommender:
    """Return a copy of the recommender with these embedding rows replaced."""
    changed = copy_recommender(recommender)
    if len(rows.tokens):
        table = input_table(changed)
        table[rows.tokens] = rows.values.to(table.device)
    return changed


def unused_tokens(recommender: Recommender, prepared: ForgetSplit) -> list[int]:
    """Return the item and attribute tokens that no retained training prompt contains.

    Attributes count because an author whom only one user read identifies the book. Returns [] for
    text prompts, which have no item tokens.
    """
    if not recommender.prompt.item_tokens:
        return []
    unused = torch.ones(recommender.vocabulary.size, dtype=torch.bool)
    unused[:FIRST_ATTRIBUTE] = False
    unused[recommender.prompt.samples(prepared.parts.train, prepared.retained).tokens] = False
    tokens: list[int] = unused.nonzero().flatten().tolist()
    return tokens


@torch.no_grad()
def reset_rows(recommender: Recommender, tokens: Sequence[int]) -> None:
    """Reset the embedding rows of these tokens to their initial values, in place."""
    rows = torch.tensor(tokens, dtype=torch.long)
    tables = recommender.item_tables()
    initial = build(recommender.vocabulary, recommender.config).item_tables() if tables else []
    for table, initial_table in zip(tables, initial, strict=True):
        table[rows] = initial_table[rows]
