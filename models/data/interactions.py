"""The one table that every data set becomes: who rated what, how, and when.

Knows arrays and ids; knows nothing of files, samples or models.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRecord:
    """One item of the catalogue; `attributes` maps a name to its values, e.g. genre → Comedy."""

    id: str
    title: str
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRecord:
    """One person; attributes that are not known are left out."""

    id: str
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Interactions:
    """N ratings over a catalogue; the index of an item is its slot in the vocabulary.

    `user` and `item` [N] int32 index `users` and `items`; `rating` [N] float32 is 0.5 to 5 stars;
    `timestamp` [N] int64 is Unix seconds. At most one row per (user, item).
    """

    users: tuple[UserRecord, ...]
    items: tuple[ItemRecord, ...]
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    rating: NDArray[np.float32]
    timestamp: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Raise ValueError where the columns do not fit together."""
        lengths = {len(self.user), len(self.item), len(self.rating), len(self.timestamp)}
        if len(lengths) != 1:
            raise ValueError(f"columns differ in length: {sorted(lengths)}")
        for name, column, size in (
            ("user", self.user, len(self.users)),
            ("item", self.item, len(self.items)),
        ):
            if len(column) and not (column.min() >= 0 and column.max() < size):
                raise ValueError(f"column {name} points outside its {size} records")

    @classmethod
    def unrated(cls, items: Sequence[ItemRecord] = ()) -> Self:
        """Return a catalogue that nobody has rated anything of."""
        return cls(
            users=(),
            items=tuple(items),
            user=np.empty(0, np.int32),
            item=np.empty(0, np.int32),
            rating=np.empty(0, np.float32),
            timestamp=np.empty(0, np.int64),
        )

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Interactions:
        """Return the table with these rows only; users and items keep their indices."""
        return Interactions(
            users=self.users,
            items=self.items,
            user=self.user[rows],
            item=self.item[rows],
            rating=self.rating[rows],
            timestamp=self.timestamp[rows],
        )

    def sorted_rows(self) -> NDArray[np.int64]:
        """Return the row order (user, timestamp, item) that histories are read in."""
        return np.lexsort((self.item, self.timestamp, self.user))
