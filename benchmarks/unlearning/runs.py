"""Makes one run: trains or unlearns on one thread, measures, and keeps what several runs share.

A finished run lies in OUT/runs as `<method>-<seed>.json` and `.npz` (margins on forget and test
rows); it is read instead of being made again.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models import adapters, checkpoints
from models.audit.relearning import RelearnConfig, relearn_steps
from models.audit.utility import log_losses, utility
from models.item_rows import reset_item_rows
from models.training import CalibrationConfig, TrainConfig, calibrate, fit, margins
from models.unlearning.base import UnlearningTask
from models.unlearning.registry import get_method

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.datasets.interactions import Interactions
    from models.preparation import Prepared
    from models.recommender import Recommender
    from models.samples import Samples
    from models.training import ExpectedRise
    from models.unlearning.base import Unlearned
    from models.vocabulary import Vocabulary

#: The only method here that knows how far a loss should rise; its shadow is its preparation.
CALIBRATED = "e2urec-fast"


def nothing(fraction: float) -> None:
    """Report to nobody."""
    del fraction


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all runs of a benchmark share."""

    data: Interactions
    vocabulary: Vocabulary
    whole: Prepared
    batch: Prepared
    recipe: TrainConfig
    out: Path

    def original(self, seed: int) -> tuple[Recommender, float]:
        """Return the release that knows everybody, and the seconds that its training took."""
        place = self.out / "work" / f"original-{seed}"
        if not (place / checkpoints.MANIFEST).exists():
            started = time.monotonic()
            trained = fit(self.vocabulary, self.whole, self.recipe.seeded(seed), nothing)
            extra = {"seconds": time.monotonic() - started}
            checkpoints.save(trained, place, method="original", extra=extra)
        return checkpoints.load(place), checkpoints.read_manifest(place).extra["seconds"]


def make(setting: Setting, method: str, seed: int) -> dict[str, Any]:
    """Return the finished run of a method, made now unless OUT has it."""
    place = setting.out / "runs" / f"{method}-{seed}.json"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        run, arrays = _make(setting, method, seed)
        np.savez(
            place.with_suffix(".npz"),
            forget_margins=arrays["forget_margins"],
            test_margins=arrays["test_margins"],
        )
        partial = place.with_suffix(".part")
        partial.write_text(json.dumps(run, indent=1))
        partial.replace(place)
    found: dict[str, Any] = json.loads(place.read_text())
    return found


def _make(
    setting: Setting, method: str, seed: int
) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    original, training = setting.original(seed)
    expected, calibration = _expected(setting, original, seed) if method == CALIBRATED else ({}, 0)
    task = UnlearningTask(
        recommender=original,
        prepared=setting.batch,
        expected=expected,
        recipe=setting.recipe.seeded(seed),
        seed=seed,
    )
    started = time.monotonic()
    unlearned = get_method(method).unlearn(task, nothing)
    released = _release(original, unlearned, setting.batch)
    seconds = time.monotonic() - started
    forget, test = setting.batch.forget, setting.batch.parts.test
    found = _margins(released, forget, setting.data)
    tested = _margins(released, test, setting.batch.retained)
    on_test, on_forget = utility(test.label, tested), utility(forget.label, found)
    run = {
        "method": method,
        "seed": seed,
        "seconds": seconds,
        "prepare_seconds": 0.0 if method == "retrain" else training + calibration,
        "audit_seconds": None,
        "peak_bytes": None,
        "trainable_parameters": unlearned.metrics["trainable_parameters"],
        "test_auc": on_test["auc"],
        "test_acc": on_test["accuracy"],
        "test_logloss": on_test["log_loss"],
        "forget_auc": on_forget["auc"],
        "forget_acc": on_forget["accuracy"],
        "forget_loss": on_forget["log_loss"],
        **_relearned(setting, method, original, released, seed),
        "metrics": unlearned.metrics,
    }
    return run, {"forget_margins": found, "test_margins": tested}


def _expected(
    setting: Setting, original: Recommender, seed: int
) -> tuple[dict[str, ExpectedRise], float]:
    started = time.monotonic()
    expected = calibrate(
        setting.whole.retained,
        original,
        setting.whole,
        frozenset(),
        setting.recipe.seeded(seed),
        CalibrationConfig(seed=seed + 1),
        nothing,
    )
    return expected, time.monotonic() - started


def _release(original: Recommender, unlearned: Unlearned, batch: Prepared) -> Recommender:
    """Fold as a job does, and give the rows of items that nobody rates any more a fresh start."""
    released = unlearned.recommender
    if unlearned.adapter is not None:
        with tempfile.TemporaryDirectory() as directory:
            delta = Path(directory)
            adapters.save(
                released,
                delta,
                unlearned.adapter,
                method="benchmark",
                parent="",
                extra={},
                rows=unlearned.rows,
            )
            released = adapters.fold(original, "", delta)
    if released is not original:
        reset_item_rows(released, batch.unused_slots().tolist())
    return released


def _margins(
    recommender: Recommender, samples: Samples, data: Interactions
) -> np.ndarray[Any, np.dtype[np.float64]]:
    prompts = recommender.prompt.samples(samples, data)
    return margins(recommender, prompts).numpy().astype(np.float64)


def _relearned(
    setting: Setting, method: str, original: Recommender, released: Recommender, seed: int
) -> dict[str, Any]:
    """Measure how fast the released weights learn the batch again; no question for Original."""
    if method == "original":
        return {"relearn_steps": None, "relearn_censored": None}
    forget = setting.batch.forget
    known = log_losses(forget.label.astype(np.float64), _margins(original, forget, setting.data))
    prompts = released.prompt.samples(forget, setting.data)
    found = relearn_steps(released, prompts, forget.label, known, RelearnConfig(), seed)
    return {"relearn_steps": found.steps, "relearn_censored": found.censored}


def make_all(
    setting: Setting, methods: list[str], seeds: int, told: Callable[[dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """Return every run: at least four of Retrain for the floor, `seeds` of each other method."""
    plan = [("retrain", seed) for seed in range(max(4, seeds))]
    plan += [(m, seed) for seed in range(seeds) for m in methods if m != "retrain"]
    runs = []
    for method, seed in plan:
        runs.append(make(setting, method, seed))
        told(runs[-1])
    return runs
