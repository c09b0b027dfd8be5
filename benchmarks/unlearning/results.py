"""Compare runs: distances to all Retrain runs, the noise floor and the summary.

The input is saved margins and figures; `report` describes the format of the results.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.unlearning.method_measures import method_measures
from benchmarks.unlearning.names import ORIGINAL, RETRAIN
from models.audit.divergence import euclidean, jensen_shannon, per_user, symmetrized_kl
from models.audit.lira import Attack, TooFewModelsError, lira, loss_auc
from models.audit.prediction import prediction_interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from models.data.samples import Samples

    Floats = NDArray[np.float64]

#: Minimum number of Retrain runs. Four runs have six pairs for the noise floor's interval.
MIN_RETRAIN_RUNS: Final = 4


class TooFewRetrainedError(ValueError):
    """The noise floor needs at least four Retrain runs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Margins:
    """Margins of a run: [F] on the forget rows, [M] on the test rows, [B, F] after B batches."""

    forget: Floats
    test: Floats | None = None
    steps: Floats | None = None


def noise_floor(retrained: Sequence[Floats], losses: Sequence[float]) -> dict[str, Any]:
    """Return the JSD in nats between Retrain runs, with 95 % prediction intervals of a further run.

    `retrained` has the [F] margins of K ≥ 4 runs, `losses` their mean forget losses. The JSD of a
    run is the mean of its JSD to the other runs; these K values share runs, so their interval is
    approximate. Raises TooFewRetrainedError.
    """
    if len(retrained) < MIN_RETRAIN_RUNS:
        raise TooFewRetrainedError(TooFewRetrainedError.__doc__)
    pairs = np.zeros((len(retrained), len(retrained)))
    for first, second in combinations(range(len(retrained)), 2):
        distance = jensen_shannon(retrained[first], retrained[second])
        pairs[first, second] = pairs[second, first] = distance
    low, high = prediction_interval((pairs.sum(axis=1) / (len(retrained) - 1)).tolist())
    return {
        "jsd": float(pairs.sum() / (len(retrained) * (len(retrained) - 1))),
        "jsd_interval": [max(low, 0.0), high],
        "forget_loss_interval": list(prediction_interval(losses)),
        "intervals": "95 % prediction",
    }


def compare(
    runs: Sequence[Mapping[str, Any]],
    margins: Sequence[Margins],
    forget: Samples,
    shadows: Sequence[Margins] = (),
    test: Samples | None = None,
    *,
    shadows_are_retrained: bool = False,
) -> dict[str, Any]:
    """Return the noise floor, the runs with their distances, the measures and the summary.

    A Retrain run is compared with the other Retrain runs, every other run with all Retrain runs.
    `shadows` has the margins of more retrained models, for the membership attack and, if they are
    trained on the rows of the Retrain runs, for Retrain's side of the systematic distance. Without
    `test` there are no control rows and no paired loss differences. Raises TooFewRetrainedError.
    """
    retrained = [index for index, run in enumerate(runs) if run["method"] == RETRAIN]
    floor = noise_floor(
        [margins[index].forget for index in retrained],
        [runs[index]["forget_loss"] for index in retrained],
    )
    measured = []
    for index, run in enumerate(runs):
        others = np.stack([margins[other].forget for other in retrained if other != index])
        own = margins[index]
        models = _Models(
            own=own,
            retrained=_other_seeds(runs, margins, RETRAIN, run["seed"]),
            originals=_other_seeds(runs, margins, ORIGINAL, run["seed"]),
            shadows=shadows,
        )
        distances = _distances(own.forget, others, forget)
        attack = _attack(models, forget, test)
        batches = _batch_distances(run, own.steps, others)
        measured.append({**run, **distances, **attack, **batches})
    return {
        "noise_floor": floor,
        "runs": measured,
        "summary": summary(measured),
        **method_measures(
            measured, margins, forget, test, shadows if shadows_are_retrained else ()
        ),
    }


def _other_seeds(
    runs: Sequence[Mapping[str, Any]], margins: Sequence[Margins], method: str, seed: int
) -> list[tuple[int, Margins]]:
    """Return seeds and margins of a method's runs with other seeds.

    Runs of one seed start from the same initial weights, so they are no independent evidence.
    """
    return [
        (run["seed"], own)
        for run, own in zip(runs, margins, strict=True)
        if run["method"] == method and run["seed"] != seed
    ]


def _distances(own: Floats, others: Floats, forget: Samples) -> dict[str, Any]:
    distances_per_user = per_user(own, others, forget.label.astype(np.float64), forget.user)
    return {
        "jsd": float(np.mean([jensen_shannon(own, other) for other in others])),
        "symmetrised_kl": float(np.mean([symmetrized_kl(own, other) for other in others])),
        "l2": float(np.mean([euclidean(own, other) for other in others])),
        **distances_per_user.summary(),
        "per_user": distances_per_user.arrays(),
    }


@dataclass(frozen=True, kw_only=True)
class _Models:
    """The models of an attack on one run: runs of other seeds, by kind, with margins and seeds."""

    own: Margins
    retrained: Sequence[tuple[int, Margins]]
    originals: Sequence[tuple[int, Margins]]
    shadows: Sequence[Margins]

    def attack(self, part: str, labels: Floats) -> Attack | None:
        """Attack the rows of a part, `forget` or `test`; None without enough models."""
        others = [margins for _, margins in (*self.retrained, *self.originals)]
        if any(getattr(margins, part) is None for margins in (self.own, *others, *self.shadows)):
            return None

        def stacked(models: Sequence[Margins]) -> Floats:
            margins = [getattr(model, part) for model in models]
            return np.array(margins, np.float64).reshape(-1, len(labels))

        seeds = [np.array([seed for seed, _ in kind]) for kind in (self.retrained, self.originals)]
        try:
            return lira(
                getattr(self.own, part),
                stacked([margins for _, margins in self.retrained]),
                stacked(self.shadows),
                stacked([margins for _, margins in self.originals]),
                labels,
                np.not_equal.outer(*seeds),
            )
        except TooFewModelsError:
            return None


def _attack(models: _Models, forget: Samples, test: Samples | None) -> dict[str, Any]:
    """Return the attack on the forget rows and, as control, on the test rows."""
    labels = forget.label.astype(np.float64)
    held_out = np.stack([margins.forget for _, margins in models.retrained])
    measured: dict[str, Any] = {"loss_mia_auc": loss_auc(models.own.forget, held_out, labels)}
    attack = models.attack("forget", labels)
    if attack is not None:
        measured |= {
            "mia_auc": attack.auc,
            "mia_advantage": attack.advantage,
            "mia_tpr_at_1": attack.tpr_at_1,
            "mia_tpr_at_5": attack.tpr_at_5,
            "mia_references": attack.references,
            "roc": attack.roc(),
        }
    control = models.attack("test", test.label.astype(np.float64)) if test is not None else None
    if control is not None:
        measured |= {
            "mia_control_auc": control.auc,
            "mia_control_tpr_at_1": control.tpr_at_1,
        }
    return measured


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
