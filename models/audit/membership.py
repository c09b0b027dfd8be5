"""Measure loss-based membership inference, with its uncertainty.

The audit reports the figures but does not decide by them: on one user the interval is so wide that
an unchanged release would pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from models.data.metrics import auc

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Bootstrap samples of the interval.
RESAMPLES: Final = 200


def membership_auc(
    members: NDArray[np.float64], non_members: NDArray[np.float64]
) -> dict[str, Any]:
    """Return the AUC of "the loss is low" for members against non-members.

    `members` [F] and `non_members` [C] are log losses (nats). At an AUC of 0.5 they cannot be told
    apart. The 95 % interval is a bootstrap over rows; `advantage` is |AUC − 0.5|.
    """
    labels = np.r_[np.ones(len(members)), np.zeros(len(non_members))]
    value = auc(labels, -np.r_[members, non_members])
    generator = np.random.default_rng(0)

    def resample(losses: NDArray[np.float64]) -> NDArray[np.float64]:
        return generator.choice(losses, len(losses))

    values = [
        auc(labels, -np.r_[resample(members), resample(non_members)]) for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(values, [0.025, 0.975])
    return {"auc": value, "interval": [float(low), float(high)], "advantage": abs(value - 0.5)}
