"""Measure methods over all their seeds: distances, attacks and differences with intervals.

`report` describes the format. A measure without enough runs, rows or margins is None.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.unlearning.names import ORIGINAL, RETRAIN
from models.audit.margin_line import margin_line
from models.audit.person_model import effective_number
from models.audit.prediction import (
    difference_of_means,
    loss_difference,
    mean_interval,
    prediction_interval,
)
from models.audit.systematic import (
    QUANTILES,
    Runs,
    TooFewRunsError,
    per_person_means,
    split_control,
    squared_differences,
    systematic_distance,
    variance_ratio,
)
from models.data.metrics import log_losses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from benchmarks.unlearning.results import Margins
    from models.audit.prediction import Interval
    from models.data.samples import Samples

    Floats = NDArray[np.float64]
    Measures = dict[str, Any]

#: Share of the splits of the Retrain runs whose interval must cover 0.
CONTROL_COVERAGE: Final = 0.9
#: Figures compared with Original's run of the same seed, and with all Retrain runs.
PAIRED: Final = ("test_calibration_error", "ndcg_at_10", "recall_at_10")
AGAINST_RETRAIN: Final = ("exposure_person", "exposure_others")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Group:
    """The runs of one method with their margins, in the order of seeds."""

    runs: Sequence[Mapping[str, Any]]
    margins: Sequence[Margins]

    @property
    def forget(self) -> Runs:
        return Runs(
            margins=np.stack([margins.forget for margins in self.margins]), seeds=self.seeds
        )

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run["seed"] for run in self.runs)

    def values(self, name: str) -> list[float]:
        return [run[name] for run in self.runs if run.get(name) is not None]

    def by_seed(self, name: str) -> dict[int, float]:
        return {run["seed"]: run[name] for run in self.runs if run.get(name) is not None}


def method_measures(
    runs: Sequence[Mapping[str, Any]],
    margins: Sequence[Margins],
    forget: Samples,
    test: Samples | None,
    further: Sequence[Margins] = (),
) -> dict[str, Any]:
    """Return `measures` by method, and `control`: Retrain against Retrain, and the power.

    `further` has the margins of shadow models that were trained as the Retrain runs are, with seeds
    of their own: they lower the noise of Retrain's side of the distances. Distances per person and
    the line of Retrain compare the first Retrain runs, as many as the other methods have seeds,
    with the other retrained models.
    """
    groups: dict[str, _Group] = {}
    for method in dict.fromkeys(str(run["method"]) for run in runs):
        indices = [index for index, run in enumerate(runs) if run["method"] == method]
        groups[method] = _Group(
            runs=[runs[index] for index in indices], margins=[margins[index] for index in indices]
        )
    retrained = groups[RETRAIN]
    reference = _with_shadows(retrained.forget, further)
    size = _control_size(groups, reference)
    control = _control(size, reference, forget)
    sides = {method: (group.forget, reference) for method, group in groups.items()}
    sides[RETRAIN] = (reference.take(range(size)), reference.take(range(size, len(reference))))
    measured = {
        method: {
            "seeds": len(group.runs),
            "systematic": _systematic(*sides[method], forget)
            if method != RETRAIN
            else control["systematic"],
            "per_person": _per_person(*sides[method], forget),
            "variance_ratio": variance_ratio(group.forget, reference),
            "line": _line(*sides[method], forget),
            "attack": _attack(group, retrained),
            "forget_loss_interval": list(
                prediction_interval(retrained.values("forget_loss"), len(group.runs))
            ),
            **_differences(group, groups.get(ORIGINAL), retrained, test),
        }
        for method, group in groups.items()
    }
    rejected = _rejected(measured.get(ORIGINAL, {}).get("systematic"))
    covers = control["covers_zero"]
    has_power = None if covers is None or rejected is None else covers and rejected
    return {
        "measures": measured,
        "control": {**control, "original_rejected": rejected, "has_power": has_power},
    }


def _rejected(distance: Mapping[str, Any] | None) -> bool | None:
    return None if distance is None or distance["low"] is None else distance["low"] > 0


def _systematic(own: Runs, retrained: Runs, forget: Samples) -> Measures | None:
    try:
        return asdict(systematic_distance(own, retrained, forget.user))
    except TooFewRunsError:
        return None


def _with_shadows(retrained: Runs, shadows: Sequence[Margins]) -> Runs:
    """Add shadow models, whose seeds are numbered downwards from -1, to the Retrain runs."""
    margins = [*retrained.margins, *(shadow.forget for shadow in shadows)]
    seeds = (*retrained.seeds, *range(-1, -1 - len(shadows), -1))
    return Runs(margins=np.stack(margins), seeds=seeds)


def _control_size(groups: Mapping[str, _Group], retrained: Runs) -> int:
    """Return the number of Retrain runs to compare with the others: that of a method's seeds."""
    others = [len(group.runs) for method, group in groups.items() if method != RETRAIN]
    return min(max(others, default=2), len(retrained) // 2)


def _control(size: int, retrained: Runs, forget: Samples) -> Measures:
    """Compare `size` Retrain runs with the other Retrain runs."""
    try:
        splits = split_control(retrained, size, forget.user)
    except TooFewRunsError:
        return {"systematic": None, "covers_zero": None, "splits": 0, "size": size, "runs": None}
    covered = [split.covers_zero for split in splits if split.covers_zero is not None]
    lows = [split.low for split in splits if split.low is not None]
    highs = [split.high for split in splits if split.high is not None]
    share = float(np.mean(covered)) if covered else None
    return {
        "systematic": {
            **asdict(splits[0]),
            "distance": float(np.mean([split.distance for split in splits])),
            "low": float(np.mean(lows)) if lows else None,
            "high": float(np.mean(highs)) if highs else None,
        },
        "splits": len(splits),
        "size": size,
        "runs": len(retrained),
        "coverage": share,
        "covers_zero": None if share is None else share >= CONTROL_COVERAGE,
        "quantiles": np.quantile([split.distance for split in splits], [0.025, 0.975]).tolist(),
    }


def _per_person(own: Runs, retrained: Runs, forget: Samples) -> Measures | None:
    try:
        rows = squared_differences(own, retrained)
    except TooFewRunsError:
        return None
    means, counts = per_person_means(rows, forget.user)
    return {
        "rows": counts.tolist(),
        "distance": means.tolist(),
        "mean": float(means.mean()),
        "quantiles": dict(
            zip(map(str, QUANTILES), np.quantile(means, QUANTILES).tolist(), strict=True)
        ),
        "people": len(counts),
        "effective_people": effective_number(counts),
    }


def _line(own: Runs, retrained: Runs, forget: Samples) -> Measures | None:
    try:
        return asdict(margin_line(own, retrained, forget.user))
    except TooFewRunsError:
        return None


def _attack(group: _Group, retrained: _Group) -> Measures | None:
    """Return means over seeds; `excess` is the AUC's distance from .5 above that of Retrain."""
    auc, reference = (_mean(part.values("mia_auc")) for part in (group, retrained))
    if auc is None or reference is None:
        return None
    interval = mean_interval(group.values("mia_auc"))
    names = ("mia_tpr_at_1", "mia_control_auc", "mia_control_tpr_at_1", "mia_references")
    return {
        "auc": auc,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "excess": abs(auc - 0.5) - abs(reference - 0.5),
        **{name.removeprefix("mia_"): _mean(group.values(name)) for name in names},
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _differences(
    group: _Group, original: _Group | None, retrained: _Group, test: Samples | None
) -> Measures:
    """Return differences from Original's run of the same seed, and exposure against Retrain."""
    measured: Measures = {"test_logloss_difference": _loss_difference(group, original, test)}
    for name in PAIRED:
        own, base = group.by_seed(name), original.by_seed(name) if original else {}
        pairs = [own[seed] - base[seed] for seed in own if seed in base]
        measured[f"{name}_difference"] = _as_json(mean_interval(pairs))
    for name in AGAINST_RETRAIN:
        difference = difference_of_means(group.values(name), retrained.values(name))
        measured[f"{name}_difference"] = _as_json(difference)
    return measured


def _loss_difference(
    group: _Group, original: _Group | None, test: Samples | None
) -> Measures | None:
    if original is None or test is None:
        return None
    own, base = (
        {
            seed: margins.test
            for seed, margins in zip(part.seeds, part.margins, strict=True)
            if margins.test is not None
        }
        for part in (group, original)
    )
    labels = test.label.astype(np.float64)
    differences = [
        log_losses(labels, own[seed]) - log_losses(labels, base[seed])
        for seed in own
        if seed in base
    ]
    if not differences:
        return None
    return _as_json(loss_difference(np.stack(differences).astype(np.float64), test.user))


def _as_json(interval: Interval | None) -> Measures | None:
    return asdict(interval) if interval else None
