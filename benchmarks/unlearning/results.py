"""What several runs say together: distances to all Retrain runs, the noise floor, the summary.

Knows saved margins and numbers; nothing of models. The shape is that of the design's results.json.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from models.audit.divergence import euclidean, jensen_shannon, per_user, symmetrised_kl
from models.audit.lira import lira, loss_attack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from models.samples import Samples

    Floats = NDArray[np.float64]

RETRAIN: Final = "retrain"
#: A floor over fewer Retrain runs than this would be one or three numbers.
LEAST_RETRAINED: Final = 4


def noise_floor(retrained: Sequence[Floats], losses: Sequence[float]) -> dict[str, Any]:
    """Return the JSD (nats) between Retrain runs over all pairs, its 95 % interval over pairs.

    `retrained` are [F] margins of K ≥ 4 runs, `losses` their mean forget losses. Raises ValueError
    where there are fewer.
    """
    if len(retrained) < LEAST_RETRAINED:
        raise ValueError(f"the noise floor needs {LEAST_RETRAINED} Retrain runs")
    pairs = [jensen_shannon(one, two) for one, two in combinations(retrained, 2)]
    return {
        "jsd": float(np.mean(pairs)),
        "jsd_interval": [float(value) for value in np.quantile(pairs, [0.025, 0.975])],
        "forget_loss_interval": [min(losses), max(losses)],
    }


def compare(
    runs: Sequence[Mapping[str, Any]], forget_margins: Sequence[Floats], forget: Samples
) -> dict[str, Any]:
    """Return noise floor, runs with their distances, and summary, for runs and their [F] margins.

    A Retrain run is compared with the other Retrain runs, every other run with all of them.
    """
    labels = forget.label.astype(np.float64)
    retrained = [index for index, run in enumerate(runs) if run["method"] == RETRAIN]
    measured = []
    for index, run in enumerate(runs):
        others = [forget_margins[other] for other in retrained if other != index]
        same = [
            margins
            for other, margins in zip(runs, forget_margins, strict=True)
            if other["method"] == run["method"] != RETRAIN and other["seed"] != run["seed"]
        ]
        own = forget_margins[index]
        measured.append({**run, **_distances(own, same, np.stack(others), labels, forget.user)})
    floor = noise_floor(
        [forget_margins[index] for index in retrained],
        [runs[index]["forget_loss"] for index in retrained],
    )
    return {"noise_floor": floor, "runs": measured, "summary": summary(measured)}


def _distances(
    own: Floats, same: Sequence[Floats], others: Floats, labels: Floats, users: NDArray[np.int32]
) -> dict[str, Any]:
    attack = lira(own, np.array(same).reshape(-1, len(own)), others, labels)
    people = per_user(own, others, labels, users)
    return {
        "jsd": float(np.mean([jensen_shannon(own, other) for other in others])),
        "symmetrised_kl": float(np.mean([symmetrised_kl(own, other) for other in others])),
        "l2": float(np.mean([euclidean(own, other) for other in others])),
        "mia_auc": attack.auc,
        "mia_advantage": attack.advantage,
        "mia_tpr_at_1": attack.tpr_at_1,
        "mia_tpr_at_5": attack.tpr_at_5,
        "loss_mia_auc": loss_attack(own, others, labels)["auc"],
        "roc": attack.roc(),
        **people.summary(),
        "per_user": people.arrays(),
    }


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return mean and standard deviation over seeds of every number, per method."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for method in dict.fromkeys(run["method"] for run in runs):
        own = [run for run in runs if run["method"] == method]
        numbers = [
            name
            for name, value in own[0].items()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and name != "seed"
        ]
        found[method] = {
            name: {
                "mean": float(np.mean([run[name] for run in own])),
                "std": float(np.std([run[name] for run in own], ddof=1)) if len(own) > 1 else 0.0,
            }
            for name in numbers
        }
    return found
