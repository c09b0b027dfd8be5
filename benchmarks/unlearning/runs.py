"""Makes one run: unlearns batch after batch on one thread, measures, and keeps what is shared.

A finished run lies in OUT/runs as `<method>-<seed>.json` and `.npz` (margins on forget and test
rows; under a protocol of several batches also those on the forget rows after each batch).
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.unlearning.measures import (
    RETRAIN,
    Memory,
    answers,
    audited,
    qualities,
    relearned,
)
from benchmarks.unlearning.numbers import finite
from benchmarks.unlearning.protocols import forgotten_by
from benchmarks.unlearning.setting import load_calibration, load_root, write_json
from models.checkpoints import adapter as adapters
from models.data.metrics import log_losses
from models.recommender.token_rows import reset_rows, unused_tokens
from models.training.trainer import fit
from models.unlearning.base import UnlearningTask
from models.unlearning.registry import get_method

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from benchmarks.unlearning.protocols import Case
    from benchmarks.unlearning.setting import Setting
    from models.audit.calibration import ExpectedLossIncrease
    from models.data.forget_split import ForgetSplit
    from models.recommender.base import Recommender
    from models.runtime.progress import Progress
    from models.unlearning.base import Unlearned, UnlearningMethod

#: What a reference model is called that only the membership attack sees (`--shadows`).
SHADOW = "shadow"


@dataclass(kw_only=True)
class _Chain:
    """What a chain of jobs left: releases, seconds per batch, and what the last batch was."""

    released: Recommender
    before: Recommender
    last: ForgetSplit
    metrics: dict[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    peak: int = 0
    #: [B, F] margins on the forget rows after each batch, NaN where a row's batch is yet to come.
    after: list[NDArray[np.float64]] = field(default_factory=list)


def make_run(setting: Setting, name: str, seed: int, progress: Progress) -> None:
    """Unlearn, measure and keep one run; its first release and calibration must be there.

    Raises DivergedError, NothingToForgetError and whatever else a method raises.
    """
    case, method = setting.case, get_method(name)
    original, training = load_root(setting, method, seed)
    expected, calibration = load_calibration(setting, method, seed)
    never_trained_with = 0.0 if name == RETRAIN else training + calibration
    # Split before the clock and the memory are looked at: every method is given the same.
    batch = case.batch
    memory = Memory()
    chain = _unlearn_all(setting, method, original, expected, seed, progress)
    forget = answers(chain.released, batch.forget, case.data)
    test = answers(chain.released, batch.parts.test, batch.retained)
    progress(0.7)
    run = {
        "method": name,
        "seed": seed,
        "seconds": float(np.mean(chain.seconds)),
        "prepare_seconds": never_trained_with,
        "peak_bytes": chain.peak,
        "peak_added_bytes": chain.peak - memory.before,
        "trainable_parameters": chain.metrics.get("trainable_parameters"),
        "parameters": sum(p.numel() for p in original.model.parameters()),
        **qualities(case, forget, test),
        **audited(case, method, chain.last, chain.before, chain.released, expected),
    }
    progress(0.8)
    run |= relearned(case, method, original, chain.released, seed)
    run |= {
        "config": {
            "method": chain.metrics.pop("config", None),
            "recipe": setting.recipe.seeded(seed).manifest(),
        },
        "metrics": chain.metrics,
    }
    arrays = {"forget_margins": forget, "test_margins": test}
    if chain.after:
        arrays["step_margins"] = np.stack(chain.after)
        run["batches"] = _batches(case, chain)
    _keep(setting, name, seed, run, arrays)
    progress(1.0)


def make_shadow(setting: Setting, seed: int, progress: Progress) -> None:
    """Retrain once more without the batch, for the membership attack's references alone."""
    case = setting.case
    shadow = fit(setting.vocabulary, case.batch, setting.recipe.seeded(seed), progress)
    reset_rows(shadow, unused_tokens(shadow, case.batch))
    found = answers(shadow, case.batch.forget, case.data)
    _keep(setting, SHADOW, seed, {"method": SHADOW, "seed": seed}, {"forget_margins": found})


def _keep(
    setting: Setting, name: str, seed: int, run: Mapping[str, Any], arrays: Mapping[str, Any]
) -> None:
    """Write the margins first: a run counts as finished once its JSON is there."""
    place = setting.run_place(name, seed)
    place.parent.mkdir(parents=True, exist_ok=True)
    np.savez(place.with_suffix(".npz"), **arrays)
    write_json(place, finite(run))


def _steps(case: Case, method: UnlearningMethod) -> Iterator[ForgetSplit]:
    """Yield the batches; what Retrain leaves after the last depends on no earlier one."""
    if method.name == RETRAIN and len(case.batches) > 1:
        *_, last = case.steps()
        yield last
    else:
        yield from case.steps()


def _unlearn_all(
    setting: Setting,
    method: UnlearningMethod,
    original: Recommender,
    expected: Mapping[str, ExpectedLossIncrease],
    seed: int,
    progress: Progress,
) -> _Chain:
    """Forget every batch, each from the release that the one before left."""
    case = setting.case
    gone = forgotten_by(case)
    several = len(case.batches) > 1 and method.name != RETRAIN
    total = len(case.batches) if several else 1
    chain = _Chain(released=original, before=original, last=case.batch)
    for done, step in enumerate(_steps(case, method)):
        chain.before, chain.last = chain.released, step
        task = UnlearningTask(
            recommender=chain.released,
            prepared=step,
            expected=expected,
            recipe=setting.recipe.seeded(seed),
            seed=seed,
        )
        started = time.monotonic()
        unlearned = method.unlearn(
            task, lambda part, done=done: progress(0.6 * (done + part) / total)
        )
        chain.released = release(task.recommender, unlearned, step)
        chain.seconds.append(time.monotonic() - started)
        chain.peak, chain.metrics = Memory.peak(), unlearned.metrics
        if several:
            after = np.full(len(case.batch.forget), np.nan)
            rows = case.batch.forget.take(gone[done])
            after[gone[done]] = answers(chain.released, rows, case.data)
            chain.after.append(after)
    return chain


def release(parent: Recommender, unlearned: Unlearned, batch: ForgetSplit) -> Recommender:
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
            released = adapters.merge(parent, "", delta)
    if released is not parent:  # Original's is its parent, and must stay as it is.
        reset_rows(released, unused_tokens(released, batch))
        released.model.eval().requires_grad_(requires_grad=False)
    return released


def _batches(case: Case, chain: _Chain) -> list[dict[str, Any]]:
    """Return per batch what it took, and the loss on all rows that are forgotten by then."""
    labels = case.batch.forget.label.astype(np.float64)
    return [
        {
            "users": len(batch.users),
            "rows": len(gone),
            "seconds": seconds,
            "forget_loss": float(log_losses(labels[gone], margins[gone]).mean()),
        }
        for batch, gone, seconds, margins in zip(
            case.batches, forgotten_by(case), chain.seconds, chain.after, strict=True
        )
    ]
