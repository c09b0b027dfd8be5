"""Distances between two models' Yes/No answers, each named as what it is. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit, rel_entr

from models.data.metrics import log_losses

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def _answers(margins: Floats) -> Floats:
    return np.stack([expit(margins), expit(-margins)])


def jensen_shannon_rows(first: Floats, second: Floats) -> Floats:
    """Return the Jensen-Shannon divergence (nats) of each pair of [..., M] margins."""
    one, two = _answers(first), _answers(second)
    middle = (one + two) / 2
    return np.asarray((rel_entr(one, middle) + rel_entr(two, middle)).sum(0) / 2)


def jensen_shannon(first: Floats, second: Floats) -> float:
    """Return the mean Jensen-Shannon divergence (nats) over [M] margins."""
    return float(jensen_shannon_rows(first, second).mean())


def symmetrized_kl(first: Floats, second: Floats) -> float:
    """Return the mean of (KL(a ‖ b) + KL(b ‖ a)) / 2 in nats; the paper calls this "JSD"."""
    one, two = _answers(first), _answers(second)
    return float((rel_entr(one, two) + rel_entr(two, one)).sum(0).mean() / 2)


def euclidean(first: Floats, second: Floats) -> float:
    """Return the mean L2 distance between the answer distributions."""
    return float(np.linalg.norm(_answers(first) - _answers(second), axis=0).mean())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PerUser:
    """One value per forgotten user: how far one run is from retraining *for this person*.

    `users` [U] are their indices, ascending, `rows` [U] their numbers of forget rows. `jsd` [U]
    (nats) and `loss_gap` [U] (nats, signed: positive where retraining knows the rows better) are
    means over the user's rows and over the Retrain runs. Users of few rows are noisy: the same
    figures of one Retrain run against the others say what is normal.
    """

    users: NDArray[np.int64]
    rows: NDArray[np.int64]
    jsd: Floats
    loss_gap: Floats

    def summary(self) -> dict[str, float]:
        """Return mean, 95th percentile and worst user of the JSD and of the gap's size."""
        return {
            f"user_{name}_{statistic}": float(value)
            for name, values in (("jsd", self.jsd), ("loss_gap", np.abs(self.loss_gap)))
            for statistic, value in (
                ("mean", values.mean()),
                ("p95", np.quantile(values, 0.95)),
                ("worst", values.max()),
            )
        }

    def arrays(self) -> dict[str, list[float]]:
        """Return what plots need as JSON values; no ids."""
        return {
            "rows": self.rows.tolist(),
            "jsd": self.jsd.tolist(),
            "loss_gap": self.loss_gap.tolist(),
        }


def per_user(own: Floats, retrained: Floats, labels: Floats, users: NDArray[np.integer]) -> PerUser:
    """Compare [F] margins of one run with [K, F] of the Retrain runs, user by user.

    `labels` [F] are 0 or 1, `users` [F] say whose rows they are. For a Retrain run itself, leave it
    out of `retrained`. Raises ValueError where there are no rows.
    """
    if not len(users):
        raise ValueError("there are no forget rows to compare by user")
    found, position, rows = np.unique(users, return_inverse=True, return_counts=True)

    def means(values: Floats) -> Floats:
        return np.asarray(np.bincount(position, weights=values) / rows)

    distances = jensen_shannon_rows(np.broadcast_to(own, retrained.shape), retrained).mean(0)
    losses = log_losses(np.broadcast_to(labels, retrained.shape), retrained).mean(0)
    return PerUser(
        users=found.astype(np.int64),
        rows=rows.astype(np.int64),
        jsd=means(distances),
        loss_gap=means(log_losses(labels, own) - losses),
    )
