"""How well an item's attributes fit one person: the share of the person's own likes that have them.

Nothing is counted over people. The profile is made anew of one history for every question, and all
that is kept is the catalogue's own attributes, so there is nothing in it to unlearn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


class AttributeProfile:
    """A sparse table of V attribute values by slot."""

    def __init__(self, attributes: Mapping[int, Mapping[str, Sequence[str]]] | None = None) -> None:
        """Take slot → attribute name → values."""
        values: dict[tuple[str, str], int] = {}
        item_indices: list[int] = []
        held: list[int] = []
        for item_index, names in (attributes or {}).items():
            for name, each in names.items():
                for value in each:
                    item_indices.append(item_index)
                    held.append(values.setdefault((name, value), len(values)))
        order = np.argsort(np.array(item_indices, np.int64), kind="stable")
        self._item_indices = np.array(item_indices, np.int64)[order]
        self._values = np.array(held, np.int64)[order]
        self._count = len(values)
        self._per_item_index = np.maximum(np.bincount(self._item_indices), 1)

    def fit(self, liked: Sequence[int], size: int) -> NDArray[np.float64]:
        """Return [size] by slot the mean share of these likes that has an item's values, 0 to 1."""
        found = np.zeros(size)
        if not len(liked) or not self._count:
            return found
        starts = np.searchsorted(self._item_indices, liked, side="left")
        ends = np.searchsorted(self._item_indices, liked, side="right")
        own = [self._values[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
        share = np.bincount(np.concatenate(own), minlength=self._count) / len(liked)
        fits = np.bincount(self._item_indices, share[self._values]) / self._per_item_index
        length = min(size, len(fits))
        found[:length] = fits[:length]
        return found
