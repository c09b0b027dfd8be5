"""Make one run: unlearn all batches in sequence, measure the release, and save the figures.

A finished run is OUT/runs/`<method>-<seed>.json`, beside an `.npz` with the margins on forget and
test rows. With several batches, the `.npz` also has the margins after each batch.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from app.domain.json_values import plain
from benchmarks.unlearning.measures import (
    Memory,
    relearning,
    sample_margins,
    timed_audit,
    utilities,
)
from benchmarks.unlearning.protocols import forgotten_by
from benchmarks.unlearning.results import RETRAIN
from benchmarks.unlearning.setting import (
    load_calibration,
    load_person_calibration,
    load_root,
    write_json,
)
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

#: Name of the reference models that only the membership attack uses (`--shadows`).
SHADOW = "shadow"


@dataclass(kw_only=True)
class _Chain:
    """Result of a sequence of unlearning jobs: releases, seconds per batch, and the last batch."""

    released: Recommender
    parent: Recommender
    last: ForgetSplit
    metrics: dict[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    peak: int = 0
    #: [B, F] margins on the forget rows after each batch, NaN for rows of later batches.
    margins_after: list[NDArray[np.float64]] = field(default_factory=list)


def make_run(setting: Setting, name: str, seed: int, progress: Progress) -> None:
    """Unlearn, measure and save one run. Its first release and calibration must exist.

    Raises DivergedError, NothingToForgetError and all errors of the method.
    """
    case, method = setting.case, get_method(name)
    original, training_seconds = load_root(setting, method, seed)
    expected, calibration_seconds = load_calibration(setting, method, seed)
    prepare_seconds = 0.0 if name == RETRAIN else training_seconds + calibration_seconds
    # Split before time and memory are measured, because every method needs the split.
    batch = case.batch
    memory = Memory()
    chain = _unlearn_all(setting, method, original, expected, seed, progress)
    forget = sample_margins(chain.released, batch.forget, case.data)
    test = sample_margins(chain.released, batch.parts.test, batch.retained)
    progress(0.7)
    run = {
        "method": name,
        "seed": seed,
        "seconds": float(np.mean(chain.seconds)),
        "prepare_seconds": prepare_seconds,
        "peak_bytes": chain.peak,
        "peak_added_bytes": chain.peak - memory.before,
        "trainable_parameters": chain.metrics.get("trainable_parameters"),
        "parameters": sum(p.numel() for p in original.model.parameters()),
        **utilities(case, forget, test),
        **timed_audit(
            case,
            method,
            chain.last,
            chain.parent,
            chain.released,
            load_person_calibration(setting, method, seed),
        ),
    }
    progress(0.8)
    run |= relearning(case, method, original, chain.released, seed)
    run |= {
        "config": {
            "method": chain.metrics.pop("config", None),
            "recipe": setting.recipe.seeded(seed).manifest(),
        },
        "metrics": chain.metrics,
    }
    arrays = {"forget_margins": forget, "test_margins": test}
    if chain.margins_after:
        arrays["step_margins"] = np.stack(chain.margins_after)
        run["batches"] = _batches(case, chain)
    _save(setting, name, seed, run, arrays)
    progress(1.0)


def make_shadow(setting: Setting, seed: int, progress: Progress) -> None:
    """Retrain without the batch, as one more reference of the membership attack."""
    case = setting.case
    shadow = fit(setting.vocabulary, case.batch, setting.recipe.seeded(seed), progress)
    reset_rows(shadow, unused_tokens(shadow, case.batch))
    margins = sample_margins(shadow, case.batch.forget, case.data)
    _save(setting, SHADOW, seed, {"method": SHADOW, "seed": seed}, {"forget_margins": margins})


def _save(
    setting: Setting, name: str, seed: int, run: Mapping[str, Any], arrays: Mapping[str, Any]
) -> None:
    """Write the margins and then the JSON file, whose existence marks a finished run."""
    path = setting.run_path(name, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path.with_suffix(".npz"), **arrays)
    write_json(path, plain(run))


def _steps(case: Case, method: UnlearningMethod) -> Iterator[ForgetSplit]:
    """Yield the data of each job; Retrain needs only the last job."""
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
    """Forget the batches in sequence, each from the previous release."""
    case = setting.case
    forgotten_rows = forgotten_by(case)
    has_steps = len(case.batches) > 1 and method.name != RETRAIN
    total = len(case.batches) if has_steps else 1
    chain = _Chain(released=original, parent=original, last=case.batch)
    for done, step in enumerate(_steps(case, method)):
        chain.parent, chain.last = chain.released, step
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
        if has_steps:
            margins = np.full(len(case.batch.forget), np.nan)
            rows = forgotten_rows[done]
            samples = case.batch.forget.take(rows)
            margins[rows] = sample_margins(chain.released, samples, case.data)
            chain.margins_after.append(margins)
    return chain


def release(parent: Recommender, unlearned: Unlearned, batch: ForgetSplit) -> Recommender:
    """Merge the adapter like a job, and reset the embedding rows of items without ratings."""
    released = unlearned.recommender
    if unlearned.adapter is not None:
        with tempfile.TemporaryDirectory() as directory:
            adapter_directory = Path(directory)
            adapters.save(
                released,
                adapter_directory,
                unlearned.adapter,
                method="benchmark",
                parent="",
                extra={},
                rows=unlearned.rows,
            )
            released = adapters.merge(parent, "", adapter_directory)
    if released is not parent:  # Original returns its parent, which must stay unchanged.
        reset_rows(released, unused_tokens(released, batch))
        released.model.eval().requires_grad_(requires_grad=False)
    return released


def _batches(case: Case, chain: _Chain) -> list[dict[str, Any]]:
    """Return the seconds of each batch, and the loss on all rows that are forgotten so far."""
    labels = case.batch.forget.label.astype(np.float64)
    return [
        {
            "users": len(batch.users),
            "rows": len(rows),
            "seconds": seconds,
            "forget_loss": float(log_losses(labels[rows], margins[rows]).mean()),
        }
        for batch, rows, seconds, margins in zip(
            case.batches, forgotten_by(case), chain.seconds, chain.margins_after, strict=True
        )
    ]
