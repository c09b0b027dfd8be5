"""Make and load single trials: unlearn with the trial's settings, and save the margins.

A finished trial is OUT/trials/`<method>-<number>-<seed>.json`, beside an `.npz` with the margins on
evenly spaced forget and test rows. A trial whose training diverged is finished too, with its error.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from app.domain.json_values import plain
from benchmarks.unlearning.measures import sample_margins
from benchmarks.unlearning.results import Margins
from benchmarks.unlearning.runs import release
from benchmarks.unlearning.setting import load_root, read_json, unlearning_task, write_json
from models.data.samples import evenly_spaced
from models.training.step import DivergedError

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.tuning.trials import Trial
    from benchmarks.unlearning.setting import Setting
    from models.data.samples import Samples
    from models.runtime.progress import Progress

#: Maximum numbers of rows on which a trial is measured; most of a short trial's time otherwise.
FORGET_ROWS: Final = 4096
TEST_ROWS: Final = 2048


def forget_samples(setting: Setting) -> Samples:
    """Return the forget rows on which trials are measured."""
    forget = setting.case.batch.forget
    return forget.take(evenly_spaced(len(forget), FORGET_ROWS))


def test_samples(setting: Setting) -> Samples:
    """Return the test rows on which trials are measured."""
    test = setting.case.batch.parts.test
    return test.take(evenly_spaced(len(test), TEST_ROWS))


def trial_path(setting: Setting, trial: Trial, seed: int) -> Path:
    """Return the JSON file of a finished trial."""
    return setting.out / "trials" / f"{trial.name}-{seed}.json"


def config_of(trial: Trial) -> dict[str, Any]:
    """Return all settings of the trial's method as JSON values."""
    config = getattr(trial.method, "config", None)
    return {} if config is None else dict(plain(asdict(config)))


def is_finished(setting: Setting, trial: Trial, seed: int) -> bool:
    """Return whether the trial was made with its present settings."""
    path = trial_path(setting, trial, seed)
    return path.exists() and read_json(path)["config"] == config_of(trial)


def make_trial(setting: Setting, trial: Trial, seed: int, progress: Progress) -> None:
    """Unlearn and save the margins or the error; first release and calibration must exist."""
    case, method = setting.case, trial.method
    original, _ = load_root(setting, method, seed)
    task = unlearning_task(setting, method, seed, original, case.batch)
    started = time.monotonic()
    path = trial_path(setting, trial, seed)
    figures: dict[str, Any] = {"config": config_of(trial)}
    try:
        unlearned = method.unlearn(task, progress)
        released = release(original, unlearned, case.batch)
        figures |= {"seconds": time.monotonic() - started, "steps": unlearned.metrics.get("steps")}
        forget = sample_margins(released, forget_samples(setting), case.data)
        test = sample_margins(released, test_samples(setting), case.batch.retained)
    except DivergedError as error:
        figures["error"] = str(error)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path.with_suffix(".npz"), forget_margins=forget, test_margins=test)
    write_json(path, plain(figures))


def load_trial(setting: Setting, trial: Trial, seed: int) -> tuple[dict[str, Any], Margins | None]:
    """Load the figures of a finished trial, and its margins unless the training diverged."""
    path = trial_path(setting, trial, seed)
    figures = read_json(path)
    if "error" in figures:
        return figures, None
    with np.load(path.with_suffix(".npz")) as saved:
        return figures, Margins(forget=saved["forget_margins"], test=saved["test_margins"])
