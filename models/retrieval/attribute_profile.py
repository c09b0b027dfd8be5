"""Score items by the attributes that they share with the items a user liked.

Only the catalog's attributes are stored. A user's profile is computed from the history of each
query, so there is nothing to unlearn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


class AttributeProfile:
    """A sparse table of attribute values by item index."""

    def __init__(self, attributes: Mapping[int, Mapping[str, Sequence[str]]] | None = None) -> None:
        """Store item index → attribute name → values."""
        value_ids: dict[tuple[str, str], int] = {}
        item_indices: list[int] = []
        item_value_ids: list[int] = []
        for item_index, names in (attributes or {}).items():
            for name, values in names.items():
                for value in values:
                    item_indices.append(item_index)
                    item_value_ids.append(value_ids.setdefault((name, value), len(value_ids)))
        order = np.argsort(np.array(item_indices, np.int64), kind="stable")
        self._item_indices = np.array(item_indices, np.int64)[order]
        self._value_ids = np.array(item_value_ids, np.int64)[order]
        self._value_count = len(value_ids)
        self._values_per_item = np.maximum(np.bincount(self._item_indices), 1)

    def fit(self, liked: Sequence[int], size: int) -> NDArray[np.float64]:
        """Return [size] scores from 0 to 1 by item index.

        For each value of an item, take the share of the liked items that have that value; the score
        is the mean over the item's values.
        """
        scores = np.zeros(size)
        if not len(liked) or not self._value_count:
            return scores
        starts = np.searchsorted(self._item_indices, liked, side="left")
        ends = np.searchsorted(self._item_indices, liked, side="right")
        liked_value_ids = [
            self._value_ids[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)
        ]
        counts = np.bincount(np.concatenate(liked_value_ids), minlength=self._value_count)
        share = counts / len(liked)
        fits = np.bincount(self._item_indices, share[self._value_ids]) / self._values_per_item
        length = min(size, len(fits))
        scores[:length] = fits[:length]
        return scores
