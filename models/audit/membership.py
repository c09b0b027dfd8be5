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

    from models.audit.drift import RowLosses

#: Bootstrap samples of the interval.
RESAMPLES: Final = 200


def membership_auc(members: RowLosses, non_members: RowLosses) -> dict[str, Any]:
    """Return the AUC of "the loss is low" for the rows of members against those of non-members.

    At an AUC of 0.5 they cannot be told apart. The 95 % interval is a bootstrap of whole people,
    because the rows of a person depend on each other; for a single person on a side, of this
    person's rows. `advantage` is |AUC − 0.5|.
    """
    value = _auc(members.losses, non_members.losses)
    generator = np.random.default_rng(0)
    sides = [_by_unit(members), _by_unit(non_members)]

    def resample(units: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        chosen = generator.integers(0, len(units), len(units)) if units else ()
        return np.concatenate([units[index] for index in chosen] or [np.empty(0)])

    values = [_auc(*map(resample, sides)) for _ in range(RESAMPLES)]
    low, high = np.quantile(values, [0.025, 0.975])
    return {"auc": value, "interval": [float(low), float(high)], "advantage": abs(value - 0.5)}


def _auc(members: NDArray[np.float64], non_members: NDArray[np.float64]) -> float:
    labels = np.r_[np.ones(len(members)), np.zeros(len(non_members))]
    return auc(labels, -np.r_[members, non_members])


def _by_unit(rows: RowLosses) -> list[NDArray[np.float64]]:
    """Return the losses of each person; of a single person, each loss alone."""
    order = np.argsort(rows.users, kind="stable")
    people = np.split(rows.losses[order], np.flatnonzero(np.diff(rows.users[order])) + 1)
    return people if len(people) > 1 else list(rows.losses[:, None])
