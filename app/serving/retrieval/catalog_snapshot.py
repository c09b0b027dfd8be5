"""Hold the catalog in memory and apply attribute filters to it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from app.domain.errors import InvalidInputError
from models.prompts.scoring_inputs import Candidate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from app.domain.catalog import Item
    from app.domain.recommendations import AttributeFilter

#: The number of attribute names that an error message lists.
_MAX_NAMES: Final = 20


class CatalogSnapshot:
    """An immutable snapshot of all items, with filter masks computed on first use."""

    def __init__(self, items: Sequence[Item] = ()) -> None:
        """Take the whole catalog, including retired items."""
        self.by_item_index = {item.item_index: item for item in items}
        self.by_id = {item.id: item for item in items if not item.retired}
        self._candidates: dict[int, Candidate] = {}
        #: The length of masks over item indices.
        self.size = 1 + max(self.by_item_index, default=-1)
        #: [size] mask of available items; None if all items are available.
        self._available: NDArray[np.bool_] | None = None
        unavailable = [item.item_index for item in items if not item.available]
        if unavailable:
            self._available = np.ones(self.size, np.bool_)
            self._available[unavailable] = False

    def candidate(self, item: Item) -> Candidate:
        """Return the scorer's input for this item, created on first use."""
        candidate = self._candidates.get(item.item_index)
        if candidate is None:
            candidate = Candidate(
                item.item_index, item.attributes_for_models, item.title_for_models
            )
            self._candidates[item.item_index] = candidate
        return candidate

    def item_indices_of(self, item_ids: Iterable[str]) -> set[int]:
        """Return the item indices of these ids, without retired and unknown items."""
        return {self.by_id[item_id].item_index for item_id in item_ids if item_id in self.by_id}

    def mask(self, attribute_filter: AttributeFilter) -> NDArray[np.bool_] | None:
        """Return a [size] mask of available items that pass; None if all items do.

        The mask must not be modified. Raises InvalidInputError for an attribute that no item has.
        """
        if not attribute_filter:
            return self._available
        mask = np.ones(self.size, np.bool_) if self._available is None else self._available.copy()
        for name, values in attribute_filter.include.items():
            mask &= self._mask_of_values(name, values)
        for name, values in attribute_filter.exclude.items():
            mask &= ~self._mask_of_values(name, values)
        return mask

    def _mask_of_values(self, name: str, values: frozenset[str]) -> NDArray[np.bool_]:
        """Return a [size] mask of items with one of these values; unknown values match no item."""
        attributes = self._attributes
        if name not in attributes:
            names = ", ".join(sorted(attributes)[:_MAX_NAMES]) or "none"
            raise InvalidInputError(
                f"No item has the requested attribute. Known attributes: {names}."
            )
        mask = np.zeros(self.size, np.bool_)
        for value in values & attributes[name].keys():
            mask[attributes[name][value]] = True
        return mask

    @cached_property
    def _attributes(self) -> Mapping[str, Mapping[str, NDArray[np.int64]]]:
        """Attribute name → value → item indices."""
        attributes: dict[str, dict[str, list[int]]] = {}
        for item in self.by_id.values():
            for name, values in item.attributes.items():
                for value in values:
                    attributes.setdefault(name, {}).setdefault(value, []).append(item.item_index)
        return {
            name: {value: np.array(item_indices) for value, item_indices in values.items()}
            for name, values in attributes.items()
        }
