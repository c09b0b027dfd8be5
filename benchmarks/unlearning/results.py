"""Compare runs: distances to all Retrain runs, the noise floor and the summary.

The input is saved margins and figures; `report` describes the format of the results.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from models.audit.divergence import euclidean, jensen_shannon, per_user, symmetrized_kl
from models.audit.lira import lira, loss_attack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from models.data.samples import Samples

    Floats = NDArray[np.float64]

RETRAIN: Final = "retrain"
ORIGINAL: Final = "original"
#: Minimum number of Retrain runs. Four runs have six pairs for the noise floor's interval.
MIN_RETRAIN_RUNS: Final = 4


class TooFewRetrainedError(ValueError):
    """The noise floor needs at least four Retrain runs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Margins:
    """Margins of a run on the F forget rows: `forget` is [F], `steps` is [B, F] for B batches."""

    forget: Floats
    steps: Floats | None = None


def noise_floor(retrained: Sequence[Floats], losses: Sequence[float]) -> dict[str, Any]:
    """Return the JSD in nats between all pairs of Retrain runs: mean and 95 % interval.

    `retrained` has the [F] margins of K ≥ 4 runs, `losses` their mean forget losses. Raises
    TooFewRetrainedError.
    """
    if len(retrained) < MIN_RETRAIN_RUNS:
        raise TooFewRetrainedError(TooFewRetrainedError.__doc__)
    pairs = [jensen_shannon(first, second) for first, second in combinations(retrained, 2)]
    return {
        "jsd": float(np.mean(pairs)),
        "jsd_interval": [float(value) for value in np.quantile(pairs, [0.025, 0.975])],
        "forget_loss_interval": [min(losses), max(losses)],
    }


def compare(
    runs: Sequence[Mapping[str, Any]],
    margins: Sequence[Margins],
    forget: Samples,
    shadows: Sequence[Floats] = (),
) -> dict[str, Any]:
    """Return the noise floor, the runs with their distances, and the summary.

    A Retrain run is compared with the other Retrain runs, every other run with all Retrain runs.
    `shadows` has the [F] margins of more retrained models, for the membership attack only. Raises
    TooFewRetrainedError.
    """
    retrained = [index for index, run in enumerate(runs) if run["method"] == RETRAIN]
    floor = noise_floor(
        [margins[index].forget for index in retrained],
        [runs[index]["forget_loss"] for index in retrained],
    )
    measured = []
    for index, run in enumerate(runs):
        others = np.stack([margins[other].forget for other in retrained if other != index])
        same = [
            other_margins.forget
            for other, other_margins in zip(runs, margins, strict=True)
            if other["method"] == run["method"] != RETRAIN and other["seed"] != run["seed"]
        ]
        own = margins[index]
        distances = _distances(own.forget, others, forget)
        attack = _attack(own.forget, same, np.stack([*others, *shadows]), forget)
        batches = _batch_distances(run, own.steps, others)
        measured.append({**run, **distances, **attack, **batches})
    return {"noise_floor": floor, "runs": measured, "summary": summary(measured)}


def _distances(own: Floats, others: Floats, forget: Samples) -> dict[str, Any]:
    distances_per_user = per_user(own, others, forget.label.astype(np.float64), forget.user)
    return {
        "jsd": float(np.mean([jensen_shannon(own, other) for other in others])),
        "symmetrised_kl": float(np.mean([symmetrized_kl(own, other) for other in others])),
        "l2": float(np.mean([euclidean(own, other) for other in others])),
        **distances_per_user.summary(),
        "per_user": distances_per_user.arrays(),
    }


def _attack(
    own: Floats, same: Sequence[Floats], references: Floats, forget: Samples
) -> dict[str, Any]:
    labels = forget.label.astype(np.float64)
    attack = lira(own, np.array(same).reshape(-1, len(own)), references, labels)
    return {
        "mia_auc": attack.auc,
        "mia_advantage": attack.advantage,
        "mia_tpr_at_1": attack.tpr_at_1,
        "mia_tpr_at_5": attack.tpr_at_5,
        "loss_mia_auc": loss_attack(own, references, labels)["auc"],
        "roc": attack.roc(),
    }


def _batch_distances(
    run: Mapping[str, Any], steps: Floats | None, others: Floats
) -> dict[str, Any]:
    """Add to each batch the JSD to Retrain on the rows that are forgotten so far.

    Retrain has forgotten all batches, so the distances of early batches include later batches.
    """
    if steps is None:
        return {}
    batches = []
    for batch, step in zip(run["batches"], steps, strict=True):
        forgotten = np.isfinite(step)
        distances = [jensen_shannon(step[forgotten], other[forgotten]) for other in others]
        batches.append({**batch, "jsd": float(np.mean(distances))})
    return {"batches": batches}


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return mean and standard deviation over seeds of every number, per method.

    Seeds without a finite number are left out.
    """
    result: dict[str, dict[str, dict[str, float]]] = {}
    for method in dict.fromkeys(run["method"] for run in runs):
        values_by_name: dict[str, list[float]] = {}
        for run in runs:
            if run["method"] == method:
                for name, value in run.items():
                    if name != "seed" and _is_number(value):
                        values_by_name.setdefault(name, []).append(float(value))
        result[method] = {
            name: {
                "mean": float(np.mean(values)),
                "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
            }
            for name, values in values_by_name.items()
        }
    return result


def _is_number(value: Any) -> bool:
    is_numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_numeric and math.isfinite(value)
