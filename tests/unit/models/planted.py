"""A small world with a planted structure that a model can learn, and one model trained on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from models.backbones import CompactConfig
from models.datasets.interactions import Interactions, ItemRecord, UserRecord
from models.preparation import ForgetIndices, Prepared, prepare
from models.training import CalibrationConfig, ExpectedRise, TrainConfig, calibrate, fit
from models.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterable

    from models.recommender import Recommender

USERS: Final = 240
ITEMS: Final = 60
RATINGS_EACH: Final = 30
COHORT: Final = frozenset(range(0, USERS, 8))

#: Small enough to train in seconds, and long enough to remember single people: where leaving
#: somebody out changed nothing, no test of forgetting could fail.
TINY: Final = TrainConfig(
    backbone=CompactConfig(hidden_size=16, intermediate_size=32),
    epochs=4,
    learning_rate=5e-3,
    batch_size=64,
)


def ignore(fraction: float) -> None:
    """Report progress to nobody."""


def planted_interactions(
    users: int = USERS, items: int = ITEMS, each: int = RATINGS_EACH, seed: int = 7
) -> Interactions:
    """Return ratings made of a person's leniency and taste, an item's kind and fame, and noise."""
    generator = np.random.default_rng(seed)
    taste, kind = generator.normal(size=(users, 2)), generator.normal(size=(items, 2))
    lenient, fame = generator.normal(size=users), generator.normal(scale=0.7, size=items)
    rows = []
    for user in range(users):
        chosen = generator.choice(items, each, replace=False)
        when = generator.integers(0, 10_000) + np.sort(generator.integers(0, 5_000, each))
        liking = lenient[user] + 0.5 * kind[chosen] @ taste[user] + fame[chosen]
        stars = 3.25 + liking + generator.normal(scale=0.5, size=each)
        rating = np.clip(np.round(stars * 2) / 2, 0.5, 5)
        rows.append(np.stack([np.full(each, user), chosen, rating, when], axis=1))
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
    """Return a table of (user, item, rating, timestamp) rows over a bare catalogue."""
    columns = np.array(list(rows), dtype=np.float64).reshape(-1, 4).T
    return Interactions(
        users=tuple(UserRecord(id=f"u{n}") for n in range(users)),
        items=tuple(ItemRecord(id=f"i{n}", title=f"Item {n}") for n in range(items)),
        user=columns[0].astype(np.int32),
        item=columns[1].astype(np.int32),
        rating=columns[2].astype(np.float32),
        timestamp=columns[3].astype(np.int64),
    )


@dataclass(frozen=True, kw_only=True)
class World:
    """The planted data, a recommender that was trained on it, and what leaving out changes."""

    data: Interactions
    prepared: Prepared
    recommender: Recommender
    expected: dict[str, ExpectedRise]

    @property
    def vocabulary(self) -> Vocabulary:
        return self.recommender.vocabulary

    def forgetting(
        self,
        users: Iterable[int] = (),
        items: Iterable[int] = (),
        pairs: Iterable[tuple[int, int]] = (),
    ) -> Prepared:
        """Return the world prepared for forgetting these, with the bounds it was trained with."""
        forget = ForgetIndices(
            users=frozenset(users), items=frozenset(items), pairs=frozenset(pairs)
        )
        return prepare(self.data, forget, COHORT, self.prepared.bounds)


def make_world() -> World:
    """Train the tiny recommender and its shadow; takes seconds, so share it."""
    data = planted_interactions()
    prepared = prepare(data, ForgetIndices(), COHORT)
    recommender = fit(Vocabulary.from_catalogue(data), prepared, TINY, ignore)
    leave_out = CalibrationConfig(users=0.15)
    expected = calibrate(data, recommender, prepared, COHORT, TINY, leave_out, ignore)
    return World(data=data, prepared=prepared, recommender=recommender, expected=expected)


def short(config: TrainConfig = TINY) -> TrainConfig:
    """Return a recipe of one epoch."""
    return replace(config, epochs=1)
