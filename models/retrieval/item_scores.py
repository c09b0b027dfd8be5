"""Values of all items that every query of one index version shares, and the choice of the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from models.retrieval.item_counts import RATED, ItemCounts

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

#: Added to the likes of an item before dividing by them, because few likes are unreliable.
SHRINKAGE: Final = 10.0
#: The weight of the most popular item's popularity in the score of `propose`.
POPULARITY_WEIGHT: Final = 0.1
#: Ratings added to those of every item, half of them likes, to compute its share of likes.
PRIOR_RATINGS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ItemScores:
    """Arrays [size] by item index, computed once per index version. They must not be modified."""

    #: log(1 + likes) × share of likes, scaled; float64.
    popularity: NDArray[np.float64]
    #: 1 / √(likes + SHRINKAGE); float64.
    rarity: NDArray[np.float64]
    #: Whether the item may be proposed; bool.
    usable: NDArray[np.bool_]
    #: The weight of each time bucket.
    weights: NDArray[np.float64]
    half_life: float

    @classmethod
    def of(
        cls, items: ItemCounts, half_life: float, catalog_size: int, retired: Collection[int]
    ) -> Self:
        """Compute the values from decayed counts; `retired` item indices are not usable."""
        (rated, liked), weights = items.decayed(half_life)
        share = (liked + PRIOR_RATINGS / 2) / (rated + PRIOR_RATINGS)
        popularity = np.log1p(liked) * share
        top = popularity.max(initial=0.0)
        popularity *= POPULARITY_WEIGHT / top if top > 0 else 0.0
        usable = items.total[RATED] > 0
        usable[:catalog_size] = True
        exclude(usable, np.fromiter(retired, np.int64))
        return cls(
            popularity=popularity,
            rarity=1.0 / np.sqrt(liked + SHRINKAGE),
            usable=usable,
            weights=weights,
            half_life=half_life,
        )


def exclude(usable: NDArray[np.bool_], item_indices: NDArray[np.integer]) -> None:
    """Set the mask to False for these item indices; those outside of the mask are ignored."""
    if len(item_indices):
        usable[item_indices[(item_indices >= 0) & (item_indices < len(usable))]] = False


def highest(
    item_indices: NDArray[np.int64], score: NDArray[np.float64], limit: int
) -> NDArray[np.int64]:
    """Return the `limit` items with the highest scores, best first.

    `item_indices` must ascend; equal scores are ordered by item index.
    """
    values = score[item_indices]
    if limit < len(item_indices):
        if limit == 0:
            return item_indices[:0]
        lowest = np.partition(values, len(values) - limit)[len(values) - limit]
        above = values > lowest
        # Of the items that share the lowest score, those with smaller item indices are kept.
        tied = np.flatnonzero(values == lowest)[: limit - int(above.sum())]
        kept = np.union1d(np.flatnonzero(above), tied)
        item_indices, values = item_indices[kept], values[kept]
    # The sort is stable, so equal scores keep the ascending order of item indices.
    return item_indices[np.argsort(-values, kind="stable")]
