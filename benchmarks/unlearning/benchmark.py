"""Compare unlearning methods with exact retraining, for `lethe benchmark unlearning`.

Writes `results.json`, `table.md` and plots into a directory. A second start with the same directory
resumes after the last finished unit and repeats failed runs. Every unit runs on one thread in a
separate process (see `children`).
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from app.domain.json_values import plain
from benchmarks.ratings_without_times import read_ratings
from benchmarks.unlearning import plots
from benchmarks.unlearning.errors import BenchmarkInputError
from benchmarks.unlearning.goals import goals
from benchmarks.unlearning.names import RETRAIN
from benchmarks.unlearning.plan import RESULTS, hold_directory, make_plan
from benchmarks.unlearning.protocols import PROTOCOLS, SEQUENTIAL
from benchmarks.unlearning.report import write_table
from benchmarks.unlearning.results import MIN_RETRAIN_RUNS, Margins, compare
from benchmarks.unlearning.runs import SHADOW
from benchmarks.unlearning.schedule import make_all
from benchmarks.unlearning.setting import Setting, read_json, write_json
from benchmarks.unlearning.teaching import methods_with_teachers
from benchmarks.unlearning.units import comparison_units
from models.backbones.compact import UnknownBackboneError
from models.backbones.errors import BackboneUnavailableError
from models.backbones.packaged import set_cache_directory
from models.backbones.sources import locate
from models.data.splits import TooSmallToSplitError
from models.datasets.detect import DataSetError
from models.prompts.text_prompt import NoAnswerTokensError, PromptTooLongError
from models.recommender.factory import parse_backbone
from models.recommender.pretrained import HuggingFaceConfig
from models.training.trainer import TrainConfig
from models.unlearning.registry import METHODS, UnknownMethodError, get_method

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from benchmarks.unlearning.schedule import Screen
    from benchmarks.unlearning.units import Unit
    from models.backbones.compact import BackboneConfig

#: One epoch: the validation log loss is .5365, after two epochs .5400. Fixed since that choice.
RECIPE: Final = TrainConfig(epochs=1, validations=0)
#: Full fine-tuning of a pretrained model with the paper's learning rate and batch (T5-base).
LANGUAGE_RECIPE: Final = TrainConfig(
    epochs=1, validations=0, learning_rate=5e-4, batch_size=16, weight_decay=0.0
)
ALL: Final = tuple(METHODS)
MAX_SEEDS: Final = 100
MAX_SHADOWS: Final = 1000
#: Errors that the user can only correct by other options or other data.
_INPUT_ERRORS: Final = (
    BackboneUnavailableError,
    DataSetError,
    NoAnswerTokensError,
    PromptTooLongError,
    TooSmallToSplitError,
    UnknownBackboneError,
    UnknownMethodError,
    plots.MissingPlotsError,
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the benchmark: methods, data, protocol and the directory of the results."""

    data: Path
    out: Path
    methods: tuple[str, ...] = ALL
    protocol: str = "paper"
    seeds: int = 3
    #: Numbers of runs of methods that differ from `seeds`.
    seeds_of: Mapping[str, int] = field(default_factory=dict)
    backbone: str = "compact"
    shadows: int = 16
    #: Number of Retrain runs, at least `seeds`.
    retrain_runs: int = 8
    forget_seed: int = 0
    teacher_only: bool = False
    #: Directory for converted packaged backbones; None: the default directory.
    backbones: Path | None = None

    def check(self) -> None:
        """Raise BenchmarkInputError for options that are invalid with any data set."""
        if not self.methods:
            raise BenchmarkInputError(f"Name a method: --methods {','.join(sorted(METHODS))}.")
        for name in self.methods:
            get_method(name)
        parse_backbone(self.backbone)
        if self.protocol not in PROTOCOLS:
            known = ", ".join(sorted(PROTOCOLS))
            raise BenchmarkInputError(f"There is no protocol {self.protocol!r}. Known: {known}.")
        self._check_numbers()
        if self.out.exists() and not self.out.is_dir():
            raise BenchmarkInputError(f"{self.out} is a file. Choose a directory for --out.")
        if not self.teacher_only:
            plots.require_matplotlib()
            return
        methods_with_teachers(self.methods)
        if self.protocol == SEQUENTIAL:
            raise BenchmarkInputError(
                f"Under --protocol {SEQUENTIAL} each batch has its own teachers. Evaluate those "
                "of --protocol paper, which forgets the same users in one batch."
            )

    def _check_numbers(self) -> None:
        for option, value, least, most in (
            ("--seeds", self.seeds, 1, MAX_SEEDS),
            *(("The seeds of " + name, own, 1, MAX_SEEDS) for name, own in self.seeds_of.items()),
            ("--shadows", self.shadows, 0, MAX_SHADOWS),
            ("--retrain-runs", self.retrain_runs, MIN_RETRAIN_RUNS, MAX_SEEDS),
        ):
            if not least <= value <= most:
                raise BenchmarkInputError(f"{option} must be {least} to {most}, not {value}.")
        if self.forget_seed < 0:
            raise BenchmarkInputError(f"--forget-seed must be 0 or more, not {self.forget_seed}.")


def parse_methods(text: str) -> tuple[str, ...]:
    """Parse comma-separated names; duplicates, blanks and numbers of seeds are removed."""
    names = (part.partition(":")[0].strip() for part in text.split(","))
    return tuple(dict.fromkeys(name for name in names if name))


def parse_seeds(text: str) -> dict[str, int]:
    """Parse the numbers of seeds in "name:8,other"; raises BenchmarkInputError."""
    counts = {}
    for part in text.split(","):
        name, separator, count = (piece.strip() for piece in part.partition(":"))
        if separator and not count.isdecimal():
            raise BenchmarkInputError(f"--methods {part.strip()} has no number of seeds.")
        if separator:
            counts[name] = int(count)
    return counts


def recipe_for(backbone: BackboneConfig) -> TrainConfig:
    """Return the training configuration of first releases, which Retrain uses as well."""
    recipe = LANGUAGE_RECIPE if isinstance(backbone, HuggingFaceConfig) else RECIPE
    return replace(recipe, backbone=backbone)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark with checked options, loaded data and a locked directory."""

    options: Options
    setting: Setting
    plan: dict[str, Any]

    @classmethod
    @contextmanager
    def claim(cls, options: Options, recipe: TrainConfig | None = None) -> Iterator[Benchmark]:
        """Load and split the data and lock the directory; raises BenchmarkInputError."""
        torch.set_num_threads(1)
        if options.backbones is not None:
            set_cache_directory(options.backbones)
        try:
            options.check()
            setting = _load_setting(options, recipe)
        except _INPUT_ERRORS as error:
            raise BenchmarkInputError(_sentence(str(error))) from error
        plan = make_plan(setting)
        with hold_directory(options.out, plan):
            yield cls(options=options, setting=setting, plan=plan)

    def units(self) -> list[Unit]:
        """Return the units of the comparison in the order of their execution."""
        options = self.options
        return comparison_units(
            options.methods,
            options.seeds,
            options.shadows,
            options.retrain_runs,
            options.seeds_of,
        )

    def run(self, screen: Screen) -> dict[str, Any]:
        """Make missing units, compare all runs, write the report, and return the results."""
        units = self.units()
        make_all(units, self.setting, screen)
        results: dict[str, Any] = plain({**self.description(), **self.compare(units)})
        results["goals"] = goals(results)
        write_json(self.options.out / RESULTS, results)
        write_table(results, self.options.out)
        plots.write_plots(results, self.options.out)
        return results

    def compare(self, units: Sequence[Unit]) -> dict[str, Any]:
        """Return the noise floor, the runs of the units including failed runs, and the summary."""
        run_units = [unit for unit in units if unit.kind == "run"]
        runs = [read_json(self.setting.run_path(unit.method, unit.seed)) for unit in run_units]
        shared = {key: self.plan[key] for key in ("data_sha256", "versions")}
        succeeded = [{**run, **shared} for run in runs if "error" not in run]
        shadows = [
            self.margins(SHADOW, unit.seed)
            for unit in units
            if unit.kind == "shadow" and unit.is_finished(self.setting)
        ]
        compared = compare(
            succeeded,
            [self.margins(run["method"], run["seed"]) for run in succeeded],
            self.setting.case.batch.forget,
            shadows,
            self.setting.case.batch.parts.test,
            # Independent batches: a shadow model lacks all of them, a Retrain run one at a time.
            shadows_are_retrained=not self.setting.case.independent,
        )
        failed = [{**run, **shared} for run in runs if "error" in run]
        return {"shadows": len(shadows), **compared, "runs": compared["runs"] + failed}

    def margins(self, name: str, seed: int) -> Margins:
        """Load the margins of a finished run on the forget and test rows."""
        with np.load(self.setting.run_path(name, seed).with_suffix(".npz")) as saved:
            steps = saved.get("step_margins")
            test = saved.get("test_margins")
            return Margins(forget=saved["forget_margins"], test=test, steps=steps)

    def retrain_margins(self, units: Sequence[Unit]) -> list[Any]:
        """Return the [F] margins of the Retrain runs among the units."""
        return [
            self.margins(RETRAIN, unit.seed).forget
            for unit in units
            if unit.kind == "run" and unit.method == RETRAIN
        ]

    def description(self) -> dict[str, Any]:
        """Return the part of the results that describes data, protocol, backbone and options."""
        case = self.setting.case
        parts = case.batch.parts
        rows = {
            "users_forgotten": len(set().union(*(batch.users for batch in case.batches))),
            "items_forgotten": len(set().union(*(batch.items for batch in case.batches))),
            "interactions_forgotten": len(set().union(*(batch.pairs for batch in case.batches))),
            "batches": len(case.batches),
            "forget": len(case.batch.forget),
            "retain": len(parts.train),
            "valid": len(parts.valid),
            "test": len(parts.test),
        }
        return {
            "data": {"name": self.options.data.resolve().name, "rows": rows},
            "protocol": self.options.protocol,
            "backbone": self.setting.recipe.backbone.manifest(),
            "plan": self.plan,
            "options": {
                "methods": list(self.options.methods),
                "seeds": self.options.seeds,
                "seeds_of": dict(self.options.seeds_of),
                "shadows": self.options.shadows,
                "retrain_runs": self.options.retrain_runs,
            },
        }


def _load_setting(options: Options, recipe: TrainConfig | None) -> Setting:
    data = read_ratings(options.data)
    backbone = parse_backbone(options.backbone)
    if isinstance(backbone, HuggingFaceConfig):
        # Located, converted or downloaded before any timing, and identical for every run.
        backbone = replace(backbone, source_sha256=locate(backbone.name).sha256)
    setting = Setting(
        data=data,
        protocol=options.protocol,
        forget_seed=options.forget_seed,
        recipe=replace(recipe, backbone=backbone) if recipe else recipe_for(backbone),
        out=options.out.absolute(),
    )
    _ = setting.case  # Split the data now, so that an error comes before any file is written.
    return setting


def _sentence(message: str) -> str:
    text = message[:1].upper() + message[1:]
    return text if text.endswith((".", "?", "!")) else f"{text}."
