"""Make one run: unlearn all batches, measure the releases, and save the figures.

A finished run is OUT/runs/`<method>-<seed>.json`, beside an `.npz` with the margins on forget and
test rows. With several batches in sequence, the `.npz` also has the margins after each batch.
Independent batches are each forgotten from the first release (see `protocols`); time and relearning
are then means over the batches, and the audit is that of the last batch.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from app.domain.json_values import plain
from benchmarks.unlearning.answers import FORGET, TEST, Answers
from benchmarks.unlearning.measures import (
    Memory,
    relearning,
    sample_margins,
    timed_audit,
    utilities,
)
from benchmarks.unlearning.names import RETRAIN
from benchmarks.unlearning.protocols import forgotten_by
from benchmarks.unlearning.setting import (
    load_calibration,
    load_person_calibration,
    load_root,
    unlearning_task,
    write_json,
)
from models.checkpoints import adapter as adapters
from models.data.metrics import log_losses
from models.prompts.vocabulary import Vocabulary
from models.recommender.token_rows import reset_rows, unused_tokens
from models.training.trainer import fit
from models.unlearning.registry import get_method

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from benchmarks.unlearning.protocols import Case
    from benchmarks.unlearning.setting import Setting
    from models.data.forget_split import ForgetSplit
    from models.recommender.base import Recommender
    from models.runtime.progress import Progress
    from models.unlearning.base import Unlearned, UnlearningMethod

#: Name of the reference models that only the membership attack uses (`--shadows`).
SHADOW = "shadow"


@dataclass(kw_only=True)
class _Chain:
    """Result of the unlearning jobs: releases, seconds per batch, answers, and the last batch."""

    released: Recommender
    parent: Recommender
    last: ForgetSplit
    answers: Answers
    metrics: dict[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    peak: int = 0
    #: [B, F] margins on the forget rows after each batch, NaN for rows of later batches.
    margins_after: list[NDArray[np.float64]] = field(default_factory=list)
    #: The figures of `relearning` after each independent batch.
    relearned: list[dict[str, Any]] = field(default_factory=list)


def make_run(setting: Setting, name: str, seed: int, progress: Progress) -> None:
    """Unlearn, measure and save one run. Its first release and calibration must exist.

    Raises DivergedError, NothingToForgetError and all errors of the method.
    """
    case, method = setting.case, get_method(name)
    original, training_seconds = load_root(setting, method, seed)
    _, calibration_seconds = load_calibration(setting, method, seed)
    prepare_seconds = 0.0 if name == RETRAIN else training_seconds + calibration_seconds
    # Split before time and memory are measured, because every method needs the split.
    answers = Answers(case)
    memory = Memory()
    chain = _unlearn_all(setting, method, original, answers, seed, progress)
    if not case.independent:
        answers.collect(chain.released)
    forget, test = answers.margins[FORGET], answers.margins[TEST]
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
        **answers.ranking(),
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
    if not case.independent:
        forget_rows = case.batch.forget
        chain.relearned = [
            relearning(case.data, forget_rows, method, original, chain.released, seed)
        ]
    run |= _mean_relearned(chain.relearned)
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
    """Retrain without any batch, as one more reference of the membership attack."""
    case = setting.case
    vocabulary = Vocabulary.from_catalog(case.batch.catalog())
    shadow = fit(vocabulary, case.batch, setting.recipe.seeded(seed), progress)
    reset_rows(shadow, unused_tokens(shadow, case.batch))
    answers = Answers(case, ranking=False)
    answers.collect(shadow)
    arrays = {f"{name}_margins": margins for name, margins in answers.margins.items()}
    _save(setting, SHADOW, seed, {"method": SHADOW, "seed": seed}, arrays)


def _mean_relearned(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean of the steps over batches; censored if the steps of any batch are."""
    steps = [figure["relearn_steps"] for figure in figures]
    if not steps or None in steps:
        return {"relearn_steps": None, "relearn_censored": None}
    return {
        "relearn_steps": float(np.mean(steps)),
        "relearn_censored": any(figure["relearn_censored"] for figure in figures),
    }


def _save(
    setting: Setting, name: str, seed: int, run: Mapping[str, Any], arrays: Mapping[str, Any]
) -> None:
    """Write the margins and then the JSON file, whose existence marks a finished run."""
    path = setting.run_path(name, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path.with_suffix(".npz"), **arrays)
    write_json(path, plain(run))


def _steps(case: Case, method: UnlearningMethod) -> Iterator[ForgetSplit]:
    """Yield the data of each job; Retrain needs only the last job of a sequence."""
    if method.name == RETRAIN and len(case.batches) > 1 and not case.independent:
        *_, last = case.steps()
        yield last
    else:
        yield from case.steps()


def _unlearn_all(
    setting: Setting,
    method: UnlearningMethod,
    original: Recommender,
    answers: Answers,
    seed: int,
    progress: Progress,
) -> _Chain:
    """Forget the batches, each from the previous release or, if independent, from the first."""
    case = setting.case
    in_sequence = len(case.batches) > 1 and method.name != RETRAIN and not case.independent
    total = len(case.batches) if in_sequence or case.independent else 1
    chain = _Chain(released=original, parent=original, last=case.batch, answers=answers)
    for done, step in enumerate(_steps(case, method)):
        chain.parent = original if case.independent else chain.released
        chain.last = step
        task = unlearning_task(setting, method, seed, chain.parent, step)
        started = time.monotonic()
        unlearned = method.unlearn(
            task, lambda part, done=done: progress(0.6 * (done + part) / total)
        )
        chain.released = release(task.recommender, unlearned, step)
        chain.seconds.append(time.monotonic() - started)
        chain.metrics = unlearned.metrics
        if case.independent:
            chain.peak = chain.peak or Memory.peak()  # Measuring a batch needs memory as well.
            answers.collect(chain.released, done)
            chain.relearned.append(
                relearning(case.data, step.forget, method, original, chain.released, seed)
            )
        else:
            chain.peak = Memory.peak()
        if in_sequence:
            chain.margins_after.append(_margins_after(case, chain.released, done))
    return chain


def _margins_after(case: Case, released: Recommender, done: int) -> NDArray[np.float64]:
    """Return the [F] margins on the rows forgotten so far, NaN for rows of later batches."""
    margins = np.full(len(case.batch.forget), np.nan)
    rows = forgotten_by(case)[done]
    margins[rows] = sample_margins(released, case.batch.forget.take(rows), case.data)
    return margins


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
