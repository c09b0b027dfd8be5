"""Build small interaction tables: with planted tastes, or from explicit rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from models.data.interactions import Interactions, ItemRecord, UserRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

USERS: Final = 240
ITEMS: Final = 60
RATINGS_PER_USER: Final = 30
HOLDOUT: Final = frozenset(range(0, USERS, 8))


def planted_interactions(
    users: int = USERS, items: int = ITEMS, per_user: int = RATINGS_PER_USER, seed: int = 7
) -> Interactions:
    """Return ratings from the user's leniency and taste, the item's fame and kind, and noise."""
    generator = np.random.default_rng(seed)
    taste, kind = generator.normal(size=(users, 2)), generator.normal(size=(items, 2))
    leniency, fame = generator.normal(size=users), generator.normal(scale=0.7, size=items)
    rows = []
    for user in range(users):
        chosen = generator.choice(items, per_user, replace=False)
        times = generator.integers(0, 10_000) + np.sort(generator.integers(0, 5_000, per_user))
        preference = leniency[user] + 0.5 * kind[chosen] @ taste[user] + fame[chosen]
        stars = 3.25 + preference + generator.normal(scale=0.5, size=per_user)
        rating = np.clip(np.round(stars * 2) / 2, 0.5, 5)
        rows.append(np.stack([np.full(per_user, user), chosen, rating, times], axis=1))
    user_column, item_column, rating_column, time_column = np.concatenate(rows).T
    return Interactions(
        users=tuple(
            UserRecord(id=f"u{n}", attributes={"group": "ab"[n % 2]}) for n in range(users)
        ),
        items=tuple(
            ItemRecord(
                id=f"i{n}",
                title=f"Item {n}",
                attributes={"genre": ("Drama",) if kind[n, 0] > 0 else ("Comedy", "Crime")},
            )
            for n in range(items)
        ),
        user=user_column.astype(np.int32),
        item=item_column.astype(np.int32),
        rating=rating_column.astype(np.float32),
        timestamp=time_column.astype(np.int64),
    )


def table(rows: Iterable[tuple[int, int, float, int]], users: int, items: int) -> Interactions:
    """Return a table of (user, item, rating, timestamp) rows; records have no attributes."""
    columns = np.array(list(rows), dtype=np.float64).reshape(-1, 4).T
    return Interactions(
        users=tuple(UserRecord(id=f"u{n}") for n in range(users)),
        items=tuple(ItemRecord(id=f"i{n}", title=f"Item {n}") for n in range(items)),
        user=columns[0].astype(np.int32),
        item=columns[1].astype(np.int32),
        rating=columns[2].astype(np.float32),
        timestamp=columns[3].astype(np.int64),
    )
