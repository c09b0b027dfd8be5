"""Splits what is held into what to forget and what to keep. Knows indices; nothing of tokens.

The forget rows are all training samples that have a forgotten interaction as candidate *or in
their history*; retained samples are built from the retained interactions alone, so their histories
no longer contain what was forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from models.data.samples import Samples, build_samples
from models.data.splits import Parts, RowLimits, TimeSplit, split

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.data.interactions import Interactions

#: Kinds of forget rows, by what they are forgotten for; a row that is several counts as the first.
KINDS: Final = ("user", "item", "pair")
NO_LIMITS: Final = RowLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetIndices:
    """What to forget, as indices into an Interactions table."""

    users: frozenset[int] = frozenset()
    items: frozenset[int] = frozenset()
    pairs: frozenset[tuple[int, int]] = frozenset()

    def rows(self, data: Interactions) -> NDArray[np.bool_]:
        """Return [N] bool: the interactions that go."""
        gone = np.isin(data.user, np.fromiter(self.users, np.int32))
        gone |= np.isin(data.item, np.fromiter(self.items, np.int32))
        for user, item in self.pairs:
            gone |= (data.user == user) & (data.item == item)
        return gone


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ForgetSplit:
    """`parts` hold retained rows only; `forget` [F] are the training rows that know what goes.

    `forget_kind` [F] int64 indexes KINDS. `retained` is the table without what is forgotten.
    `forget_valid` counts the validation rows that know what goes.
    """

    retained: Interactions
    parts: Parts
    forget: Samples
    forget_kind: NDArray[np.int64]
    forget_valid: int
    bounds: TimeSplit

    def unused_item_indices(self) -> NDArray[np.int64]:
        """Return the slots of items that no retained training sample contains."""
        used = np.zeros(len(self.retained.items), dtype=bool)
        used[self.parts.train.candidate] = True
        used[self.parts.train.history[self.parts.train.history >= 0]] = True
        return np.flatnonzero(~used)


def split_for_forgetting(
    data: Interactions,
    forget: ForgetIndices,
    holdout: frozenset[int],
    bounds: TimeSplit | None = None,
    limits: RowLimits = NO_LIMITS,
) -> ForgetSplit:
    """Separate retained from forgotten; without `bounds` the product's 90/5/5 split is made.

    Only then `limits` count: bounds say themselves how many rows they leave.

    Raises TooSmallToSplitError where too little is retained to choose and audit on.
    """
    retained = data.take(~forget.rows(data))
    samples = build_samples(retained)
    if bounds is None:
        bounds = TimeSplit.by_shares(samples, train=0.9, valid=0.05)
        bounds = bounds.limited(split(samples, bounds, holdout), limits)
    before = split(build_samples(data), bounds, holdout)
    kind = _kinds(before.train, forget)
    rows = np.flatnonzero(kind >= 0)
    return ForgetSplit(
        retained=retained,
        parts=split(samples, bounds, holdout),
        forget=before.train.take(rows),
        forget_kind=kind[rows],
        forget_valid=int((_kinds(before.valid, forget) >= 0).sum()),
        bounds=bounds,
    )


def _kinds(samples: Samples, forget: ForgetIndices) -> NDArray[np.int64]:
    """Return [M] indices of KINDS, -1 where a sample knows nothing of what goes."""
    kind = np.full(len(samples), -1)
    kind[samples.touches_pairs(forget.pairs)] = KINDS.index("pair")
    kind[samples.touches_items(forget.items)] = KINDS.index("item")
    kind[np.isin(samples.user, np.fromiter(forget.users, np.int32))] = KINDS.index("user")
    return kind
