"""Distances between the Yes/No answers of two models, over all rows and per user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit, rel_entr

from models.data.metrics import log_losses

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def _probabilities(margins: Floats) -> Floats:
    """Return [2, ...] probabilities of Yes and No."""
    return np.stack([expit(margins), expit(-margins)])


def jensen_shannon_rows(first: Floats, second: Floats) -> Floats:
    """Return the Jensen-Shannon divergence (nats) of each pair of [..., M] margins."""
    p, q = _probabilities(first), _probabilities(second)
    middle = (p + q) / 2
    return np.asarray((rel_entr(p, middle) + rel_entr(q, middle)).sum(0) / 2)


def jensen_shannon(first: Floats, second: Floats) -> float:
    """Return the mean Jensen-Shannon divergence (nats) over [M] margins."""
    return float(jensen_shannon_rows(first, second).mean())


def symmetrized_kl(first: Floats, second: Floats) -> float:
    """Return the mean of (KL(p ‖ q) + KL(q ‖ p)) / 2 in nats over [M] margins.

    The E2URec paper (arXiv 2403.03536) calls this distance "JSD".
    """
    p, q = _probabilities(first), _probabilities(second)
    return float((rel_entr(p, q) + rel_entr(q, p)).sum(0).mean() / 2)


def euclidean(first: Floats, second: Floats) -> float:
    """Return the mean L2 distance between the answers' distributions over [M] margins."""
    return float(np.linalg.norm(_probabilities(first) - _probabilities(second), axis=0).mean())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PerUser:
    """The distance of one run from Retrain, per forgotten user.

    `users` [U] are user indices in ascending order, `rows` [U] their numbers of forget rows. `jsd`
    [U] (nats) and `loss_gap` [U] (nats, positive where Retrain has the lower loss) are means over
    the user's rows and over the Retrain runs. Users with few rows are noisy; compare with the same
    figures of one Retrain run against the others.
    """

    users: NDArray[np.int64]
    rows: NDArray[np.int64]
    jsd: Floats
    loss_gap: Floats

    def summary(self) -> dict[str, float]:
        """Return mean, 95th percentile and maximum over users of the JSD and of |loss gap|."""
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
        """Return the plotted figures as JSON values, without user ids."""
        return {
            "rows": self.rows.tolist(),
            "jsd": self.jsd.tolist(),
            "loss_gap": self.loss_gap.tolist(),
        }


def per_user(own: Floats, retrained: Floats, labels: Floats, users: NDArray[np.integer]) -> PerUser:
    """Compare [F] margins of one run with [K, F] of the Retrain runs, user by user.

    `labels` [F] are 0 or 1, `users` [F] the user index of each row. `retrained` must not contain
    the run itself. Raises ValueError if there are no rows.
    """
    if not len(users):
        raise ValueError("there are no forget rows to compare by user")
    user_indices, position, rows = np.unique(users, return_inverse=True, return_counts=True)

    def means(values: Floats) -> Floats:
        return np.asarray(np.bincount(position, weights=values) / rows)

    distances = jensen_shannon_rows(np.broadcast_to(own, retrained.shape), retrained).mean(0)
    losses = log_losses(np.broadcast_to(labels, retrained.shape), retrained).mean(0)
    return PerUser(
        users=user_indices.astype(np.int64),
        rows=rows.astype(np.int64),
        jsd=means(distances),
        loss_gap=means(log_losses(labels, own) - losses),
    )
