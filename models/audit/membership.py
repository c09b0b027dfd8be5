"""Measure loss-based membership inference, with its uncertainty.

The audit reports the figures but does not decide by them: on one user the interval is so wide that
an unchanged release would pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from models.data.metrics import auc

if TYPE_CHECKING:
    from numpy.typing import NDArray


def membership_auc(
    members: NDArray[np.float64], others: NDArray[np.float64], *, resamples: int = 200
) -> dict[str, Any]:
    """Return the AUC of "the loss is low" for members against other rows.

    `members` [F] and `others` [C] are log losses (nats). An AUC of 0.5 means that they cannot be
    told apart. The 95 % interval is a bootstrap over rows; `advantage` is |AUC − 0.5|.
    """
    labels = np.r_[np.ones(len(members)), np.zeros(len(others))]
    value = auc(labels, -np.r_[members, others])
    generator = np.random.default_rng(0)

    def resample(losses: NDArray[np.float64]) -> NDArray[np.float64]:
        return generator.choice(losses, len(losses))

    values = [auc(labels, -np.r_[resample(members), resample(others)]) for _ in range(resamples)]
    low, high = np.quantile(values, [0.025, 0.975])
    return {"auc": value, "interval": [float(low), float(high)], "advantage": abs(value - 0.5)}
