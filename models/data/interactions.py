"""Hold users, items and ratings as arrays: the form that every data set is converted to."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRecord:
    """An item of the catalog; `attributes` maps names to values, for example genre → (Comedy,)."""

    id: str
    title: str
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Whether only ratings name the item in a data set: no catalog file lists the item.
    from_ratings: bool = False
    #: The id of the only user whose rows describe the item; None if a catalog file or rows of two
    #: users describe it. Such a text may be about this user.
    described_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRecord:
    """A user; `attributes` has no entry for an unknown attribute."""

    id: str
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Interactions:
    """A table of N ratings, with at most one row per user and item.

    `user` and `item` [N] int32 are indices into `users` and `items`; the vocabulary uses the same
    item indices. `rating` [N] float32 is 0.5 to 5 stars; `timestamp` [N] int64 is in Unix seconds.
    """

    users: tuple[UserRecord, ...]
    items: tuple[ItemRecord, ...]
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    rating: NDArray[np.float32]
    timestamp: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Raise ValueError for columns of different lengths or indices without a record."""
        lengths = {len(self.user), len(self.item), len(self.rating), len(self.timestamp)}
        if len(lengths) != 1:
            raise ValueError(f"The columns have different lengths: {sorted(lengths)}.")
        for name, column, size in (
            ("user", self.user, len(self.users)),
            ("item", self.item, len(self.items)),
        ):
            if len(column) and not (column.min() >= 0 and column.max() < size):
                raise ValueError(f"Column {name} has indices outside 0 to {size - 1}.")

    @classmethod
    def unrated(cls, items: Sequence[ItemRecord] = ()) -> Self:
        """Return a catalog without users and ratings."""
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
        """Return a table of the selected rows; users and items keep their indices."""
        return replace(
            self,
            user=self.user[rows],
            item=self.item[rows],
            rating=self.rating[rows],
            timestamp=self.timestamp[rows],
        )

    def sorted_rows(self) -> NDArray[np.int64]:
        """Return [N] row indices ordered by (user, timestamp, item), the order of histories."""
        return np.lexsort((self.item, self.timestamp, self.user))
