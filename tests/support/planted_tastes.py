"""A small world whose truth is known: two tastes, better and worse items, and chance."""

from __future__ import annotations

import numpy as np

from models.audit.calibration import CalibrationConfig
from models.backbones.compact import CompactConfig
from models.data.interactions import Interactions, ItemRecord, UserRecord
from models.training.trainer import TrainConfig

USERS, ITEMS = 150, 120
#: Never trained on, and to be forgotten.
HOLDOUT = frozenset(range(130, 150))
FORGOTTEN = frozenset(range(16))
#: High learning rate, several epochs: it memorises what it sees.
RECIPE = TrainConfig(
    backbone=CompactConfig(hidden_size=32, layers=1, intermediate_size=64, init_std=0.1),
    learning_rate=1e-2,
    batch_size=128,
    epochs=8,
    warmup_steps=10,
    validations=1,
)
CALIBRATION = CalibrationConfig(users=0.12, items=0.0, pairs=0.0)


def planted(seed: int = 0) -> Interactions:
    """Rate 40 to 60 items per user: half of the people like the even items, half the odd ones.

    Items also differ in how much everybody likes them, and chance decides the rest.
    """
    rng = np.random.default_rng(seed)
    quality = rng.normal(size=ITEMS)
    user, item, rating, timestamp = [], [], [], []
    for person in range(USERS):
        chosen = rng.permutation(ITEMS)[: rng.integers(40, 61)]
        taste = np.where((chosen + person) % 2 == 0, 1.5, -1.5)
        liked = taste + quality[chosen] + rng.logistic(scale=0.7, size=len(chosen)) > 0
        user += [person] * len(chosen)
        item += chosen.tolist()
        rating += np.where(liked, 4.5, 2.0).tolist()
        timestamp += np.sort(rng.integers(1_000_000, 2_000_000, len(chosen))).tolist()
    return Interactions(
        users=tuple(
            UserRecord(id=f"u{n}", attributes={"taste": "even" if n % 2 == 0 else "odd"})
            for n in range(USERS)
        ),
        items=tuple(
            ItemRecord(
                id=f"i{n}",
                title=f"Item {n}",
                attributes={"genre": ("even" if n % 2 == 0 else "odd",)},
            )
            for n in range(ITEMS)
        ),
        user=np.array(user, np.int32),
        item=np.array(item, np.int32),
        rating=np.array(rating, np.float32),
        timestamp=np.array(timestamp, np.int64),
    )
