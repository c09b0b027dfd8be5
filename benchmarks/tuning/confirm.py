"""Read the best trial of a search, to measure it on people who did not choose it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from benchmarks.tuning.trials import Trial, trials_of
from benchmarks.unlearning.errors import BenchmarkInputError
from models.unlearning.registry import UnknownMethodError, get_method

if TYPE_CHECKING:
    from pathlib import Path


def confirmed_trial(name: str, results: Path, forget_seed: int) -> Trial:
    """Return the best trial of the method's search, or the defaults of a method without a search.

    Raises BenchmarkInputError for a search among the people of `forget_seed`, and for a search
    without a best trial.
    """
    if not results.is_dir():
        raise BenchmarkInputError(f"There is no directory {results}. Give the --out of a search.")
    file = results / f"{name}.json"
    if not file.exists():
        try:
            return Trial(method=get_method(name), number=0)
        except UnknownMethodError as error:
            raise BenchmarkInputError(str(error)) from error
    try:
        result = json.loads(file.read_text())
        best, searched = result["best"], result["plan"]["forget_seed"]
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkInputError(
            f"{file} is not the result of a search. Make it with `python -m benchmarks.tuning`."
        ) from error
    if searched == forget_seed:
        raise BenchmarkInputError(
            f"The people of --forget-seed {forget_seed} chose the settings in {file}. Confirm the "
            "settings with another seed."
        )
    trials = [trial for trial in trials_of(name) if trial.number == best]
    if not trials:
        raise BenchmarkInputError(f"The search in {file} has no best trial.")
    return trials[0]
