"""Can an attacker tell who was trained on? Loss-based membership inference, with its uncertainty.

Reported, never a gate: on one user its interval is so wide that it passes a no-op.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from models.data.metrics import auc

if TYPE_CHECKING:
    from numpy.typing import NDArray


def membership_auc(
    members: NDArray[np.float64], strangers: NDArray[np.float64], *, resamples: int = 200
) -> dict[str, Any]:
    """Return the AUC of "the loss is low" for members against strangers, two-sided.

    `members` [F] and `strangers` [C] are log losses. 0.5 means that they cannot be told apart; the
    95 % interval is a bootstrap over rows; `advantage` is the distance from 0.5, either way.
    """
    labels = np.r_[np.ones(len(members)), np.zeros(len(strangers))]
    value = auc(labels, -np.r_[members, strangers])
    generator = np.random.default_rng(0)
    values = [
        auc(
            labels,
            -np.r_[
                generator.choice(members, len(members)), generator.choice(strangers, len(strangers))
            ],
        )
        for _ in range(resamples)
    ]
    low, high = np.quantile(values, [0.025, 0.975])
    return {
        "auc": value,
        "interval": [float(low), float(high)],
        "advantage": abs(value - 0.5),
    }
