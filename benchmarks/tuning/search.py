"""Run the trials of a method, score them, and choose the best trial.

All trials run with the first `search_seeds` root seeds; the best `finalists` also run with the
other seeds. The best trial is the finalist with the least distance over all seeds. Distances and
losses are measured on evenly spaced forget and test rows (see `trial_runs`).
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from app.domain.json_values import plain
from benchmarks.tuning.confirm import confirmed_trial
from benchmarks.tuning.parts import parts_of
from benchmarks.tuning.score import trial_distance
from benchmarks.tuning.trial_runs import (
    FORGET_ROWS,
    config_of,
    forget_samples,
    is_finished,
    load_trial,
    make_trial,
    test_samples,
)
from benchmarks.tuning.trials import TUNED, Trial, trials_of
from benchmarks.unlearning.benchmark import Benchmark, Options
from benchmarks.unlearning.errors import BenchmarkFailedError, BenchmarkInputError
from benchmarks.unlearning.names import RETRAIN
from benchmarks.unlearning.protocols import SEQUENTIAL
from benchmarks.unlearning.schedule import make_all
from benchmarks.unlearning.setting import write_json
from benchmarks.unlearning.units import Unit
from models.audit.systematic import Runs, systematic_distance
from models.data.metrics import log_losses
from models.data.samples import evenly_spaced
from models.unlearning.original import Original

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.unlearning.results import Margins
    from benchmarks.unlearning.schedule import Screen
    from models.data.samples import Samples
    from models.training.trainer import TrainConfig

#: Number of first releases without unlearning, which lower the noise of every trial's distance.
ORIGINALS: Final = 4
_ORIGINAL: Final = Trial(method=Original(), number=0)
#: The forget draw of the benchmark's tables, which must not choose settings.
REPORTED_SEED: Final = 0


@dataclass(frozen=True, kw_only=True)
class TuningOptions:
    """Options of a search; `finalists` of the trials run with all `seeds`."""

    data: Path
    out: Path
    methods: tuple[str, ...] = TUNED
    protocol: str = "paper"
    forget_seed: int = 1
    seeds: int = 2
    search_seeds: int = 2
    finalists: int = 2
    retrain_runs: int = 8
    #: Score finished trials and make none.
    only_finished: bool = False
    #: Run the trials of the methods' parts in place of those of their settings.
    parts: bool = False
    #: Directory with results of a search: run the best trial of each method, and choose nothing. A
    #: method without a result has its default settings.
    confirm: Path | None = None

    def check(self) -> None:
        """Raise BenchmarkInputError for options that are invalid with any data set."""
        if not self.methods:
            raise BenchmarkInputError(f"Name a method: --method {','.join(TUNED)}.")
        if self.confirm is not None and self.parts:
            raise BenchmarkInputError("Give --confirm or --parts, not both.")
        for name in self.methods:
            self.trials_of(name)
        if not 1 <= self.search_seeds <= self.seeds <= ORIGINALS:
            raise BenchmarkInputError(
                f"--search-seeds and --seeds must be 1 to {ORIGINALS}, and --search-seeds at most "
                f"--seeds; they are {self.search_seeds} and {self.seeds}."
            )
        if self.finalists < 1:
            raise BenchmarkInputError(f"--finalists must be 1 or more, not {self.finalists}.")
        if self.forget_seed == REPORTED_SEED and self.confirm is None:
            raise BenchmarkInputError(
                f"--forget-seed {REPORTED_SEED} draws the people of the published tables, which "
                "must not choose settings. Use another seed."
            )
        if self.protocol == SEQUENTIAL:
            raise BenchmarkInputError(
                f"Trials forget one batch. Use --protocol paper in place of {SEQUENTIAL}, which "
                "forgets the same users in one batch."
            )

    def trials_of(self, name: str) -> list[Trial]:
        """Return the trials of a method; raises BenchmarkInputError for one without trials."""
        if self.confirm is not None:
            return [confirmed_trial(name, self.confirm, self.forget_seed)]
        return parts_of(name) if self.parts else trials_of(name)

    def file_of(self, name: str) -> Path:
        """Return the file of a method's results."""
        ending = "-confirmed" if self.confirm is not None else "-parts" if self.parts else ""
        return self.out / f"{name}{ending}.json"


@dataclass(frozen=True, kw_only=True)
class Search:
    """The trials of several methods on one forget draw, in a locked directory."""

    options: TuningOptions
    benchmark: Benchmark

    @classmethod
    @contextmanager
    def claim(cls, options: TuningOptions, recipe: TrainConfig | None = None) -> Iterator[Search]:
        """Load the data and lock the directory; raises BenchmarkInputError."""
        options.check()
        comparison = Options(
            data=options.data,
            out=options.out,
            methods=(RETRAIN,),
            protocol=options.protocol,
            seeds=ORIGINALS,
            shadows=0,
            retrain_runs=options.retrain_runs,
            forget_seed=options.forget_seed,
        )
        with Benchmark.claim(comparison, recipe) as benchmark:
            if benchmark.setting.case.independent:
                raise BenchmarkInputError(
                    f"Trials forget one batch, and --protocol {options.protocol} has several. Use "
                    "--protocol paper."
                )
            yield cls(options=options, benchmark=benchmark)

    def run(self, screen: Screen) -> list[dict[str, Any]]:
        """Make missing units and trials, write a JSON file per method, and return the contents.

        Raises BenchmarkFailedError if a Retrain run or a calibration fails.
        """
        failed = make_all(self._units(), self.benchmark.setting, screen)
        if failed:
            unit, error = next(iter(failed.items()))
            raise BenchmarkFailedError(f"{unit.title()}, failed: {error}")
        self._make(_ORIGINAL, range(ORIGINALS), screen)
        results = []
        for name in self.options.methods:
            result: dict[str, Any] = plain(self._search(name, screen))
            write_json(self.options.file_of(name), result)
            results.append(result)
        return results

    def _units(self) -> list[Unit]:
        """Return the Retrain runs with their first releases, and calibrations that trials need."""
        units = self.benchmark.units()
        units += [
            Unit(kind="calibration", method=name, seed=seed)
            for name in self.options.methods
            if self.options.trials_of(name)[0].method.calibrated
            for seed in range(self.options.seeds)
        ]
        return units

    def _search(self, name: str, screen: Screen) -> dict[str, Any]:
        """Run and score the trials of one method."""
        options = self.options
        every = options.trials_of(name)
        trials = [
            trial for trial in every if self._make(trial, range(options.search_seeds), screen)
        ]
        records = [self._record(trial, options.search_seeds) for trial in trials]
        if options.seeds > options.search_seeds:
            ranked = sorted(range(len(trials)), key=lambda index: _order(records[index]))
            for index in ranked[: options.finalists]:
                if self._make(trials[index], range(options.seeds), screen):
                    search_distance = records[index]["distance"]
                    records[index] = self._record(trials[index], options.seeds)
                    records[index]["search_distance"] = search_distance
        most_seeds = max((record["seeds"] for record in records), default=0)
        finalists = [record for record in records if record["seeds"] == most_seeds]
        best = min(finalists, key=_order, default=None)
        return {
            "method": name,
            "data": self.benchmark.description()["data"],
            "plan": self.benchmark.plan,
            "retrain_runs": options.retrain_runs,
            "original": self._baseline(),
            "trials": records,
            "not_run": [trial.number for trial in every if trial not in trials],
            "best": best["trial"] if best and best["distance"] is not None else None,
        }

    def _make(self, trial: Trial, seeds: Iterable[int], screen: Screen) -> bool:
        """Make a trial's missing runs, and return whether all runs are finished."""
        setting = self.benchmark.setting
        missing = [seed for seed in seeds if not is_finished(setting, trial, seed)]
        if self.options.only_finished and trial != _ORIGINAL:
            return not missing
        for seed in missing:
            title = f"{trial.name}, seed {seed}"
            make_trial(setting, trial, seed, lambda _, title=title: screen.at(title, 0.0, None))
            screen.tell(title)
        return True

    def _record(self, trial: Trial, seeds: int) -> dict[str, Any]:
        """Return the settings and the figures of a trial over the first seeds."""
        setting = self.benchmark.setting
        loaded = [load_trial(setting, trial, seed) for seed in range(seeds)]
        record: dict[str, Any] = {
            "trial": trial.number,
            "settings": trial.settings,
            "seeds": seeds,
            "config": config_of(trial),
            "error": next((figures["error"] for figures, _ in loaded if "error" in figures), None),
        }
        margins = [part for _, part in loaded if part is not None]
        if len(margins) < len(loaded):
            return {**record, "distance": None}
        return {
            **record,
            "steps": [figures["steps"] for figures, _ in loaded],
            "seconds": float(np.mean([figures["seconds"] for figures, _ in loaded])),
            **self._figures(margins),
        }

    def _figures(self, margins: Sequence[Margins]) -> dict[str, Any]:
        """Return distances and losses of runs of the first seeds."""
        forget, test = forget_samples(self.benchmark.setting), test_samples(self.benchmark.setting)
        originals, retrained = self._originals(), self._retrained()
        own = _runs([part.forget for part in margins])
        systematic = None
        if len(own) > 1:
            systematic = systematic_distance(own, retrained, forget.user).distance
        differences = [
            _loss(test, part.test) - _loss(test, original.test)
            for part, original in zip(margins, originals, strict=False)
        ]
        base = _runs([original.forget for original in originals])
        return {
            "distance": trial_distance(own, base, retrained),
            "systematic": systematic,
            "test_logloss_difference": float(np.mean(differences)),
            "forget_loss": float(np.mean([_loss(forget, part.forget) for part in margins])),
        }

    def _baseline(self) -> dict[str, Any]:
        """Return the distance and forget loss of doing nothing, and Retrain's forget loss."""
        forget, retrained = forget_samples(self.benchmark.setting), self._retrained()
        base = _runs([original.forget for original in self._originals()])
        return {
            "distance": systematic_distance(base, retrained, forget.user).distance,
            "forget_loss": float(np.mean([_loss(forget, row) for row in base.margins])),
            "retrain_forget_loss": float(
                np.mean([_loss(forget, row) for row in retrained.margins])
            ),
        }

    def _originals(self) -> list[Margins]:
        """Return the margins of the first releases, by seed."""
        loaded = [load_trial(self.benchmark.setting, _ORIGINAL, seed) for seed in range(ORIGINALS)]
        return [margins for _, margins in loaded if margins is not None]

    def _retrained(self) -> Runs:
        """Return the Retrain runs' margins on the forget rows of the trials."""
        seeds = [unit.seed for unit in self.benchmark.units() if unit.kind == "run"]
        rows = evenly_spaced(len(self.benchmark.setting.case.batch.forget), FORGET_ROWS)
        return _runs([self.benchmark.margins(RETRAIN, seed).forget[rows] for seed in seeds])


def _runs(margins: Sequence[NDArray[np.float64]]) -> Runs:
    """Return runs with the seeds 0, 1, … and these [F] margins."""
    return Runs(margins=np.stack(margins), seeds=tuple(range(len(margins))))


def _loss(samples: Samples, margins: NDArray[np.float64] | None) -> float:
    """Return the mean log loss (nats); raises ValueError without margins."""
    if margins is None:
        raise ValueError("a trial has no margins on test rows")
    return float(log_losses(samples.label.astype(np.float64), margins).mean())


def _order(record: dict[str, Any]) -> float:
    distance: float | None = record["distance"]
    return np.inf if distance is None else distance
