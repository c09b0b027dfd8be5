"""Generate a small data set with two opposite tastes, for tests of training and audits."""

from __future__ import annotations

import numpy as np

from models.audit.calibration import CalibrationConfig
from models.backbones.compact import CompactConfig
from models.data.interactions import Interactions, ItemRecord, UserRecord
from models.training.trainer import TrainConfig

USERS, ITEMS = 150, 120
#: User indices that are never trained on.
HOLDOUT = frozenset(range(130, 150))
#: User indices to forget.
FORGOTTEN = frozenset(range(16))
#: A high learning rate and several epochs make the model memorize its training rows.
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
    """Return 40 to 60 ratings per user: even users prefer even items, odd users odd items.

    A quality per item and logistic noise are added.
    """
    rng = np.random.default_rng(seed)
    quality = rng.normal(size=ITEMS)
    user, item, rating, timestamp = [], [], [], []
    for user_index in range(USERS):
        chosen = rng.permutation(ITEMS)[: rng.integers(40, 61)]
        taste = np.where((chosen + user_index) % 2 == 0, 1.5, -1.5)
        liked = taste + quality[chosen] + rng.logistic(scale=0.7, size=len(chosen)) > 0
        user += [user_index] * len(chosen)
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
