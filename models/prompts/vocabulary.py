"""Define the compact backbones' vocabulary: one token per item index, rating and attribute value.

The vocabulary comes from the catalog plus spare item indices, never from ratings: a vocabulary that
grew with the ratings would itself reveal them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from models.data.interactions import Interactions

PAD, BOS, CANDIDATE, ANSWER, YES, NO, UNKNOWN_ITEM, UNKNOWN_ATTRIBUTE = range(8)
FIRST_RATING: Final = 8
#: Number of rating tokens: 0.5 to 5 stars in half stars.
RATINGS: Final = 10
FIRST_ATTRIBUTE: Final = FIRST_RATING + RATINGS
#: A user attribute value of fewer users gets no token, because the token would identify them. The
#: same holds for item attribute values that only ratings brought, by the users of those items.
MINIMUM_USERS_PER_VALUE: Final = 10


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Token ids in this order: special tokens, ratings, attribute values, items.

    `item_capacity` is the number of item tokens, spare ones included. `user_attributes` are the
    attribute names that a prompt includes; `values` are "name:value" strings.
    """

    item_capacity: int
    user_attributes: tuple[str, ...]
    values: tuple[str, ...]

    @classmethod
    def from_catalog(cls, data: Interactions, *, spare: float = 0.1) -> Self:
        """Build the vocabulary of a catalog and of the attributes of users with ratings.

        `spare` is the share of additional item tokens for items that are added later (at least 64).
        Items at the end without text and ratings are not counted: deleted ratings alone named them.
        """
        user_indices = np.unique(data.user)
        items = _number_of_items(data)
        counts = Counter(
            (name, value)
            for index in user_indices.tolist()
            for name, value in data.users[index].attributes.items()
        )
        common = [pair for pair, users in counts.items() if users >= MINIMUM_USERS_PER_VALUE]
        return cls(
            item_capacity=items + max(64, int(items * spare)),
            user_attributes=tuple(sorted({name for name, _ in common})),
            values=tuple(
                sorted(_item_values(data) | {f"{name}:{value}" for name, value in common})
            ),
        )

    @property
    def size(self) -> int:
        """Return the number of tokens."""
        return self.first_item + self.item_capacity

    @property
    def first_item(self) -> int:
        """Return the token of item index 0."""
        return FIRST_ATTRIBUTE + len(self.values)

    @cached_property
    def _attribute_tokens(self) -> dict[str, int]:
        return {value: FIRST_ATTRIBUTE + index for index, value in enumerate(self.values)}

    def item(self, item_index: int) -> int:
        """Return the token of an item index; UNKNOWN_ITEM outside of the vocabulary."""
        return (
            self.first_item + item_index if 0 <= item_index < self.item_capacity else UNKNOWN_ITEM
        )

    def attribute(self, name: str, value: str) -> int:
        """Return the token of an attribute value; UNKNOWN_ATTRIBUTE where there is none."""
        return self._attribute_tokens.get(f"{name}:{value}", UNKNOWN_ATTRIBUTE)

    def user(self, attributes: Mapping[str, str]) -> list[int]:
        """Return one token per name in `user_attributes`; PAD where the user has no value."""
        return [
            self.attribute(name, attributes[name]) if attributes.get(name) else PAD
            for name in self.user_attributes
        ]

    def item_attributes(self, attributes: Mapping[str, Sequence[str]], places: int) -> list[int]:
        """Return `places` tokens for an item's attribute values, cut or filled with PAD."""
        tokens = [
            self.attribute(name, value) for name in sorted(attributes) for value in attributes[name]
        ][:places]
        return tokens + [PAD] * (places - len(tokens))

    def manifest(self) -> dict[str, Any]:
        """Return the vocabulary as JSON values."""
        return {
            "slots": self.item_capacity,
            "user_attributes": list(self.user_attributes),
            "values": list(self.values),
        }

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """Rebuild from `manifest()`."""
        return cls(
            item_capacity=int(manifest["slots"]),
            user_attributes=tuple(manifest["user_attributes"]),
            values=tuple(manifest["values"]),
        )


def _item_values(data: Interactions) -> set[str]:
    """Return the attribute values of catalog items, and the common ones of other items."""
    from_catalog: set[str] = set()
    users_of: dict[str, set[int]] = {}
    raters = _some_raters(data)
    for index, item in enumerate(data.items):
        values = [f"{name}:{value}" for name, all_ in item.attributes.items() for value in all_]
        if not item.from_ratings:
            from_catalog.update(values)
        else:
            for value in values:
                users_of.setdefault(value, set()).update(raters(index))
    return from_catalog | {
        value for value, users in users_of.items() if len(users) >= MINIMUM_USERS_PER_VALUE
    }


def _some_raters(data: Interactions) -> Callable[[int], list[int]]:
    """Return a function from an item index to as many of its users as make a value common."""
    order = np.argsort(data.item, kind="stable")
    starts = np.searchsorted(data.item[order], np.arange(len(data.items) + 1))

    def raters(item: int) -> list[int]:
        end = min(starts[item + 1], starts[item] + MINIMUM_USERS_PER_VALUE)
        users: list[int] = data.user[order[starts[item] : end]].tolist()
        return users

    return raters


def _number_of_items(data: Interactions) -> int:
    """Return the number of item indices up to the last item with a text or a rating."""
    rated = int(data.item.max()) + 1 if len(data.item) else 0
    count = len(data.items)
    while count > rated and not (data.items[count - 1].title or data.items[count - 1].attributes):
        count -= 1
    return count
