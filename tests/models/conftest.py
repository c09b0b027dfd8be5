"""Fixtures of the model tests: planted data, a trained release, and one thread for all tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from models.audit.calibration import Calibration, ExpectedLossIncrease, calibrate
from models.backbones.compact import CompactConfig
from models.data.forget_split import ForgetIndices, ForgetSplit, split_for_forgetting
from models.data.interactions import Interactions, ItemRecord, UserRecord
from models.prompts.vocabulary import Vocabulary
from models.training.trainer import TrainConfig, fit
from models.unlearning.base import UnlearningTask
from tests.support import planted_tastes
from tests.support.planted_tastes import CALIBRATION, FORGOTTEN, HOLDOUT, RECIPE

if TYPE_CHECKING:
    from models.recommender.base import Recommender


USERS = 120
ITEMS = 150
#: Number of items, at the end of the catalog, without ratings.
NEVER_RATED = 10
START = 1_000_000


@pytest.fixture(scope="session")
def planted() -> Interactions:
    return make_planted()


@pytest.fixture(scope="session")
def holdout() -> frozenset[int]:
    return frozenset(range(0, USERS, 12))


@pytest.fixture(scope="session")
def prepared(planted: Interactions, holdout: frozenset[int]) -> ForgetSplit:
    return split_for_forgetting(planted, ForgetIndices(), holdout)


@pytest.fixture(scope="session")
def vocabulary(planted: Interactions) -> Vocabulary:
    return Vocabulary.from_catalog(planted)


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
    vocabulary: Vocabulary,
    prepared: ForgetSplit,
    train_config: TrainConfig,
) -> Recommender:
    """Train once per session; tests that change weights must copy the recommender first."""
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
    """Return one or two genres: the first is the planted kind, and every fifth film is also War."""
    kind = "Drama" if item % 2 else "Comedy"
    return (kind, "War") if item % 5 == 0 else (kind,)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A release with its expected loss increases, and a batch to forget."""

    data: Interactions
    recommender: Recommender
    calibration: Calibration
    #: The data before forgetting, and the data with the batch forgotten.
    whole: ForgetSplit
    batch: ForgetSplit

    @property
    def expected(self) -> dict[str, ExpectedLossIncrease]:
        """Return the expected loss increases by kind of row."""
        return self.calibration.expected

    def task(self, seed: int = 0) -> UnlearningTask:
        return UnlearningTask(
            recommender=self.recommender,
            prepared=self.batch,
            expected=self.expected,
            memorization=self.calibration.memorization,
            recipe=RECIPE,
            seed=seed,
        )


def nothing(fraction: float) -> None:
    """Ignore the progress."""


@pytest.fixture(scope="session")
def interactions() -> Interactions:
    return planted_tastes.planted()


@pytest.fixture(scope="session")
def world(interactions: Interactions) -> World:
    whole = split_for_forgetting(interactions, ForgetIndices(), HOLDOUT)
    vocabulary = Vocabulary.from_catalog(interactions)
    recommender = fit(vocabulary, whole, RECIPE, nothing)
    calibration = calibrate(
        interactions,
        recommender,
        whole,
        HOLDOUT,
        CALIBRATION,
        lambda rows: fit(vocabulary, rows, RECIPE, nothing),
    )
    recommender.model.requires_grad_(requires_grad=False)
    return World(
        data=interactions,
        recommender=recommender,
        calibration=calibration,
        whole=whole,
        batch=split_for_forgetting(
            interactions, ForgetIndices(users=FORGOTTEN), HOLDOUT, whole.bounds
        ),
    )
