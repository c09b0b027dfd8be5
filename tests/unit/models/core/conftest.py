"""A planted world of two tastes, and a recommender that was trained on it once for these tests.

Everybody likes comedies; of the dramas, users with odd numbers like every one and those with even
numbers none; a tenth of the ratings are noise. An item's own mean knows half of this at best: only
the stars in a user's history tell whether they like dramas. Unlike the world next door, some items
are rated by nobody, and users differ in how much they rated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from models.backbones import CompactConfig
from models.datasets.interactions import Interactions, ItemRecord, UserRecord
from models.preparation import ForgetIndices, Prepared, prepare
from models.training import TrainConfig, fit
from models.vocabulary import Vocabulary

if TYPE_CHECKING:
    from models.recommender import Recommender

USERS = 120
ITEMS = 150
#: The last items of the catalogue are never rated by anybody.
NEVER_RATED = 10
START = 1_000_000


@pytest.fixture(scope="session")
def planted() -> Interactions:
    return make_planted()


@pytest.fixture(scope="session")
def cohort() -> frozenset[int]:
    return frozenset(range(0, USERS, 12))


@pytest.fixture(scope="session")
def prepared(planted: Interactions, cohort: frozenset[int]) -> Prepared:
    return prepare(planted, ForgetIndices(), cohort)


@pytest.fixture(scope="session")
def vocabulary(planted: Interactions) -> Vocabulary:
    return Vocabulary.from_catalogue(planted)


@pytest.fixture(scope="session")
def train_config() -> TrainConfig:
    return TrainConfig(
        backbone=CompactConfig(hidden_size=32, layers=2, heads=2, intermediate_size=64),
        learning_rate=5e-3,
        batch_size=64,
        epochs=3,
        warmup_steps=20,
    )


@pytest.fixture(scope="session")
def trained(
    one_thread: None,  # noqa: ARG001 -- training must come after it
    vocabulary: Vocabulary,
    prepared: Prepared,
    train_config: TrainConfig,
) -> Recommender:
    """Trained once; tests that change weights copy it first."""
    return fit(vocabulary, prepared, train_config, lambda _: None)


def make_planted() -> Interactions:
    generator = np.random.default_rng(7)
    columns: list[tuple[int, int, float, int]] = []
    for user in range(USERS):
        count = int(generator.integers(30, 61))
        items = generator.choice(ITEMS - NEVER_RATED, count, replace=False)
        likes = ((items % 2 == 0) | (user % 2 == 1)) ^ (generator.random(count) < 0.1)
        stars = np.where(
            likes, generator.integers(7, 11, count) / 2, generator.integers(1, 7, count) / 2
        )
        times = START + generator.integers(0, 100_000, count)
        columns += zip([user] * count, items.tolist(), stars.tolist(), times.tolist(), strict=True)
    order = generator.permutation(len(columns))
    user_column, item, rating, timestamp = zip(*(columns[row] for row in order), strict=True)
    return Interactions(
        users=tuple(
            UserRecord(id=f"u{user}", attributes={"occupation": f"job{user % 3}"})
            for user in range(USERS)
        ),
        items=tuple(
            ItemRecord(id=f"i{item}", title=f"Film {item}", attributes={"genre": _genres(item)})
            for item in range(ITEMS)
        ),
        user=np.array(user_column, np.int32),
        item=np.array(item, np.int32),
        rating=np.array(rating, np.float32),
        timestamp=np.array(timestamp, np.int64),
    )


def _genres(item: int) -> tuple[str, ...]:
    """Return one or two genres; the first is the planted kind, every fifth film is also War."""
    kind = "Drama" if item % 2 else "Comedy"
    return (kind, "War") if item % 5 == 0 else (kind,)
