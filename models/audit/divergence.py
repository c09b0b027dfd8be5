"""Distances between two models' Yes/No answers, each named as what it is. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit, rel_entr

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def _answers(margins: Floats) -> Floats:
    return np.stack([expit(margins), expit(-margins)])


def jensen_shannon(first: Floats, second: Floats) -> float:
    """Return the mean Jensen-Shannon divergence (nats) over [M] margins."""
    one, two = _answers(first), _answers(second)
    middle = (one + two) / 2
    return float((rel_entr(one, middle) + rel_entr(two, middle)).sum(0).mean() / 2)


def symmetrised_kl(first: Floats, second: Floats) -> float:
    """Return the mean of (KL(a ‖ b) + KL(b ‖ a)) / 2 in nats; the paper calls this "JSD"."""
    one, two = _answers(first), _answers(second)
    return float((rel_entr(one, two) + rel_entr(two, one)).sum(0).mean() / 2)


def euclidean(first: Floats, second: Floats) -> float:
    """Return the mean L2 distance between the answer distributions."""
    return float(np.linalg.norm(_answers(first) - _answers(second), axis=0).mean())
