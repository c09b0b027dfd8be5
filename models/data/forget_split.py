"""Split a data set into samples to forget and retained samples.

The forget rows are the training samples with a forgotten interaction as candidate *or in their
history*. Retained samples are built from the retained interactions only, so no history contains a
forgotten interaction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from models.data.interactions import ItemRecord
from models.data.samples import Samples, build_samples
from models.data.splits import Parts, RowLimits, TimeSplit, split_by_time

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.data.interactions import Interactions

#: Reasons to forget a sample. A sample with several reasons counts under the first.
KINDS: Final = ("user", "item", "pair")
NO_LIMITS: Final = RowLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetIndices:
    """The users, items and (user, item) pairs to forget, as indices into Interactions."""

    users: frozenset[int] = frozenset()
    items: frozenset[int] = frozenset()
    pairs: frozenset[tuple[int, int]] = frozenset()

    def rows(self, data: Interactions) -> NDArray[np.bool_]:
        """Return [N] bool: whether an interaction is forgotten."""
        forgotten = np.isin(data.user, np.fromiter(self.users, np.int32))
        forgotten |= np.isin(data.item, np.fromiter(self.items, np.int32))
        for user, item in self.pairs:
            forgotten |= (data.user == user) & (data.item == item)
        return forgotten


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ForgetSplit:
    """The retained data and the samples to forget.

    - `retained`: the interactions that are not forgotten.
    - `parts`: samples built from `retained`, split by time.
    - `forget` [F]: training samples with a forgotten candidate or history.
    - `forget_kind` [F] int64: index into KINDS.
    - `forget_valid_samples`: validation samples with a forgotten candidate or history.
    - `bounds`: the time split of `parts` and `forget`.
    - `forgotten_items`: the indices of items that are forgotten altogether.
    """

    retained: Interactions
    parts: Parts
    forget: Samples
    forget_kind: NDArray[np.int64]
    forget_valid_samples: Samples
    bounds: TimeSplit
    forgotten_items: frozenset[int] = frozenset()

    @property
    def forget_valid(self) -> int:
        """Return the number of validation samples with a forgotten candidate or history."""
        return len(self.forget_valid_samples)

    def catalog(self) -> Interactions:
        """Return the retained data without the texts of items that leave with the forgotten rows.

        These are forgotten items, and items that only forgotten ratings named. They keep their
        indices. Vocabularies are built from these records. `retained` keeps the texts, because the
        prompts of forget rows need them.
        """
        is_rated = np.zeros(len(self.retained.items), dtype=bool)
        is_rated[self.retained.item] = True
        items = tuple(
            ItemRecord(id=item.id, title="")
            if index in self.forgotten_items or (item.from_ratings and not is_rated[index])
            else item
            for index, item in enumerate(self.retained.items)
        )
        return replace(self.retained, items=items)

    def unused_item_indices(self) -> NDArray[np.int64]:
        """Return the indices of items that occur in no retained training sample, ascending."""
        used = np.zeros(len(self.retained.items), dtype=bool)
        used[self.parts.train.candidate] = True
        used[self.parts.train.history[self.parts.train.history >= 0]] = True
        return np.flatnonzero(~used)


def split_for_forgetting(
    data: Interactions,
    forget: ForgetIndices,
    holdout_users: frozenset[int],
    bounds: TimeSplit | None = None,
    limits: RowLimits = NO_LIMITS,
) -> ForgetSplit:
    """Separate the samples to forget from the retained samples.

    Without `bounds`, the retained samples are split 90/5/5 by time, reduced to about `limits` rows;
    given bounds already contain their reduction, so `limits` is ignored.

    Raises TooSmallToSplitError if a part of a new split would have too few samples.
    """
    retained = data.take(~forget.rows(data))
    samples = build_samples(retained)
    if bounds is None:
        bounds = TimeSplit.by_shares(samples, train=0.9, valid=0.05)
        bounds = bounds.limited(split_by_time(samples, bounds, holdout_users), limits)
    before = split_by_time(build_samples(data), bounds, holdout_users)
    kind = _kinds(before.train, forget)
    rows = np.flatnonzero(kind >= 0)
    return ForgetSplit(
        retained=retained,
        parts=split_by_time(samples, bounds, holdout_users),
        forget=before.train.take(rows),
        forget_kind=kind[rows],
        forget_valid_samples=before.valid.take(are_forgotten(before.valid, forget)),
        bounds=bounds,
        forgotten_items=forget.items,
    )


def are_forgotten(samples: Samples, forget: ForgetIndices) -> NDArray[np.bool_]:
    """Return [M] bool: whether a sample has a forgotten candidate or history."""
    forgotten: NDArray[np.bool_] = _kinds(samples, forget) >= 0
    return forgotten


def _kinds(samples: Samples, forget: ForgetIndices) -> NDArray[np.int64]:
    """Return [M] indices into KINDS, -1 for samples without forgotten interactions."""
    kind = np.full(len(samples), -1)
    kind[samples.touches_pairs(forget.pairs)] = KINDS.index("pair")
    kind[samples.touches_items(forget.items)] = KINDS.index("item")
    kind[np.isin(samples.user, np.fromiter(forget.users, np.int32))] = KINDS.index("user")
    return kind
