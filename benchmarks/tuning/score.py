"""Score trials by their systematic distance to the Retrain runs, with few seeds per trial.

A trial has one or two seeds, and the margins of a seed contain the noise of the first release that
the method started from. This noise is removed with the Original runs as control variates. With the
shift s = method - Original of the same seed, and the difference D = Original - Retrain, a row's
squared difference is D² + 2 D E[s] + E[s]². `models.audit.systematic` estimates D² from all
Original and Retrain runs; D in the second term leaves out the shift's own seed; and with several
seeds E[s]² is the mean product of shifts of two seeds, so that every term is unbiased. With one
seed the last term is s², so that the distance also contains the variance of the shift over seeds.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from models.audit.systematic import Runs, squared_differences

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def trial_distance(trial: Runs, originals: Runs, retrained: Runs) -> float:
    """Return the mean squared difference of expected margins (squared logits) over F rows.

    `originals` includes the seeds of `trial`, and both other sides have at least two further seeds;
    otherwise raises ValueError.
    """
    if not set(trial.seeds) <= set(originals.seeds):
        raise ValueError(f"no Original run for the seeds {trial.seeds}")
    shifts = trial.margins - np.stack([_of_seed(originals, seed) for seed in trial.seeds])
    total = squared_differences(originals, retrained)
    for shift, seed in zip(shifts, trial.seeds, strict=True):
        difference = _mean_without(originals, seed) - _mean_without(retrained, seed)
        total = total + 2 * difference * shift / len(shifts)
    if len(shifts) == 1:
        return float((total + shifts[0] ** 2).mean())
    products = [first * second for first, second in combinations(shifts, 2)]
    return float((total + np.mean(products, axis=0)).mean())


def _of_seed(runs: Runs, seed: int) -> Floats:
    margins: Floats = runs.margins[runs.seeds.index(seed)]
    return margins


def _mean_without(runs: Runs, seed: int) -> Floats:
    others = [index for index, other in enumerate(runs.seeds) if other != seed]
    if not others:
        raise ValueError(f"no run without the seed {seed}")
    mean: Floats = runs.margins[others].mean(axis=0)
    return mean
