"""The catalogue in memory, and which of its items an attribute filter lets through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from app.domain.errors import InvalidInputError
from models.prompts.scoring_inputs import Candidate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from app.domain.catalog import Item
    from app.domain.recommendations import AttributeFilter

#: How many attributes a problem names.
_NAMED: Final = 20


class CatalogSnapshot:
    """An immutable snapshot of the items; what filters need is worked out when first asked for."""

    def __init__(self, items: Sequence[Item] = ()) -> None:
        """Take the whole catalogue, retired items included."""
        self.by_item_index = {item.item_index: item for item in items}
        self.by_id = {item.id: item for item in items if not item.retired}
        self._candidates: dict[int, Candidate] = {}
        self.size = 1 + max(self.by_item_index, default=-1)
        #: By slot, whether an item is on offer; None where all are.
        self._offered: NDArray[np.bool_] | None = None
        withdrawn = [item.item_index for item in items if not item.available]
        if withdrawn:
            self._offered = np.ones(self.size, np.bool_)
            self._offered[withdrawn] = False
        self._item_indices: dict[str, dict[str, NDArray[np.int64]]] | None = None

    def candidate(self, item: Item) -> Candidate:
        """Return what a model is asked of this item; it is made once."""
        known = self._candidates.get(item.item_index)
        if known is None:
            known = Candidate(item.item_index, item.attributes, item.title)
            self._candidates[item.item_index] = known
        return known

    def item_indices_of(self, item_ids: Iterable[str]) -> set[int]:
        """Return the slots of those ids that are on the shelf."""
        return {self.by_id[each].item_index for each in item_ids if each in self.by_id}

    def passing(self, wanted: AttributeFilter) -> NDArray[np.bool_] | None:
        """Return by slot whether an item is on offer and passes; None where all are and do.

        Raises InvalidInputError for an attribute that no item has. Not to be written to.
        """
        if not wanted:
            return self._offered
        passing = np.ones(self.size, np.bool_) if self._offered is None else self._offered.copy()
        for name, values in wanted.include.items():
            passing &= self._having(name, values)
        for name, values in wanted.exclude.items():
            passing &= ~self._having(name, values)
        return passing

    def _having(self, name: str, values: frozenset[str]) -> NDArray[np.bool_]:
        """Return by slot whether an item has one of these values; a value may be nobody's."""
        known = self._attributes()
        if name not in known:
            names = ", ".join(sorted(known)[:_NAMED]) or "none at all"
            raise InvalidInputError(f"No item has the attribute asked for. There is: {names}.")
        having = np.zeros(self.size, np.bool_)
        for value in values & known[name].keys():
            having[known[name][value]] = True
        return having

    def _attributes(self) -> Mapping[str, Mapping[str, NDArray[np.int64]]]:
        if self._item_indices is None:
            found: dict[str, dict[str, list[int]]] = {}
            for item in self.by_id.values():
                for name, values in item.attributes.items():
                    for value in values:
                        found.setdefault(name, {}).setdefault(value, []).append(item.item_index)
            self._item_indices = {
                name: {value: np.array(item_indices) for value, item_indices in values.items()}
                for name, values in found.items()
            }
        return self._item_indices
