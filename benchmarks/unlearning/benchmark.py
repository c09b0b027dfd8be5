"""Unlearning methods against exact retraining; `lethe benchmark unlearning` asks for it.

Writes `results.json`, `table.md` and plots into a folder. An interrupted benchmark goes on after
its last finished unit when it is started again with the same folder; a run that failed is tried
again. Every unit is made on one thread in a process of its own: see `children`.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from benchmarks.unlearning import plots
from benchmarks.unlearning.errors import BenchmarkInputError
from benchmarks.unlearning.goals import goals
from benchmarks.unlearning.measures import RETRAIN
from benchmarks.unlearning.numbers import finite
from benchmarks.unlearning.plan import RESULTS, claimed, make_plan
from benchmarks.unlearning.protocols import PROTOCOLS, SEQUENTIAL
from benchmarks.unlearning.report import write_report
from benchmarks.unlearning.results import Margins, compare
from benchmarks.unlearning.runs import SHADOW
from benchmarks.unlearning.schedule import make_all
from benchmarks.unlearning.setting import Setting, read_json, write_json
from benchmarks.unlearning.teaching import teaching
from benchmarks.unlearning.units import comparison
from models.backbones.compact import UnknownBackboneError
from models.backbones.errors import BackboneUnavailableError
from models.backbones.packaged import set_cache_directory
from models.backbones.sources import locate
from models.data.splits import TooSmallToSplitError
from models.datasets.detect import DataSetError, read
from models.prompts.text_prompt import NoAnswerTokensError, PromptTooLongError
from models.recommender.factory import parse_backbone
from models.recommender.pretrained import HuggingFaceConfig
from models.training.trainer import TrainConfig
from models.unlearning.registry import METHODS, UnknownMethodError, get_method

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.unlearning.schedule import Screen
    from benchmarks.unlearning.units import Unit
    from models.backbones.compact import BackboneConfig

#: One epoch, chosen on validation (log loss .5365, after two epochs .5400); never looked at again.
RECIPE: Final = TrainConfig(epochs=1, validations=0)
#: Full fine-tuning of a pretrained model with the paper's learning rate and batch (T5-base).
LANGUAGE_RECIPE: Final = TrainConfig(
    epochs=1, validations=0, learning_rate=5e-4, batch_size=16, weight_decay=0.0
)
ALL: Final = tuple(METHODS)
MOST_SEEDS: Final = 100
MOST_SHADOWS: Final = 1000
#: With these it is the numbers or the data given that must change.
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
    """What to compare, on which data, and where the results go."""

    data: Path
    out: Path
    methods: tuple[str, ...] = ALL
    protocol: str = "paper"
    seeds: int = 3
    backbone: str = "compact"
    shadows: int = 0
    forget_seed: int = 0
    teacher_only: bool = False
    #: Where packaged backbones are kept once they are converted; None: the usual place.
    backbones: Path | None = None

    def check(self) -> None:
        """Raise BenchmarkInputError for anything that can be told without reading the data."""
        if not self.methods:
            raise BenchmarkInputError(f"Name a method: --methods {','.join(sorted(METHODS))}.")
        for name in self.methods:
            get_method(name)
        parse_backbone(self.backbone)
        if self.protocol not in PROTOCOLS:
            known = ", ".join(sorted(PROTOCOLS))
            raise BenchmarkInputError(f"There is no protocol {self.protocol!r}. Known: {known}.")
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise BenchmarkInputError(f"--seeds must be 1 to {MOST_SEEDS}, not {self.seeds}.")
        if self.forget_seed < 0:
            raise BenchmarkInputError(f"--forget-seed must be 0 or more, not {self.forget_seed}.")
        if not 0 <= self.shadows <= MOST_SHADOWS:
            raise BenchmarkInputError(f"--shadows must be 0 to {MOST_SHADOWS}, not {self.shadows}.")
        if self.out.exists() and not self.out.is_dir():
            raise BenchmarkInputError(f"{self.out} is a file. Choose a directory for --out.")
        if not self.teacher_only:
            plots.check()
            return
        teaching(self.methods)
        if self.protocol == SEQUENTIAL:
            raise BenchmarkInputError(
                f"Under --protocol {SEQUENTIAL} each batch has teachers of its own. Look at those "
                "of --protocol paper, which forgets the same people at once."
            )


def parse_methods(text: str) -> tuple[str, ...]:
    """Return the names between commas, each once; blanks around them do not count."""
    names = (name.strip() for name in text.split(","))
    return tuple(dict.fromkeys(name for name in names if name))


def recipe_for(backbone: BackboneConfig) -> TrainConfig:
    """Return how first releases on this backbone are trained: fixed, and the same for Retrain."""
    known = LANGUAGE_RECIPE if isinstance(backbone, HuggingFaceConfig) else RECIPE
    return replace(known, backbone=backbone)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A checked plan on data that was read, in a folder that is its own."""

    options: Options
    setting: Setting
    plan: dict[str, Any]

    @classmethod
    @contextmanager
    def claim(cls, options: Options, recipe: TrainConfig | None = None) -> Iterator[Benchmark]:
        """Read, split and hold the folder; raises BenchmarkInputError for anything unusable."""
        torch.set_num_threads(1)
        if options.backbones is not None:
            set_cache_directory(options.backbones)
        try:
            options.check()
            setting = _read(options, recipe)
        except _INPUT_ERRORS as error:
            raise BenchmarkInputError(_sentence(str(error))) from error
        plan = make_plan(setting)
        with claimed(options.out, plan):
            yield cls(options=options, setting=setting, plan=plan)

    def units(self) -> list[Unit]:
        """Return all that the table takes, in the order in which it is made."""
        return comparison(self.options.methods, self.options.seeds, self.options.shadows)

    def run(self, screen: Screen) -> dict[str, Any]:
        """Make every unit that is missing, compare all runs, and write the report."""
        units = self.units()
        make_all(units, self.setting, screen)
        results: dict[str, Any] = finite({**self.about(), **self.compare(units)})
        results["goals"] = goals(results)
        write_json(self.options.out / RESULTS, results)
        write_report(results, self.options.out)
        return results

    def compare(self, units: Sequence[Unit]) -> dict[str, Any]:
        """Return the noise floor, these units' runs, failed ones included, and their summary."""
        made = [unit for unit in units if unit.kind == "run"]
        runs = [read_json(self.setting.run_place(unit.method, unit.seed)) for unit in made]
        shared = {key: self.plan[key] for key in ("data_sha256", "versions")}
        good = [{**run, **shared} for run in runs if "error" not in run]
        shadows = [
            self.margins(SHADOW, unit.seed).forget
            for unit in units
            if unit.kind == "shadow" and unit.finished(self.setting)
        ]
        compared = compare(
            good,
            [self.margins(run["method"], run["seed"]) for run in good],
            self.setting.case.batch.forget,
            shadows,
        )
        failed = [{**run, **shared} for run in runs if "error" in run]
        return {"shadows": len(shadows), **compared, "runs": compared["runs"] + failed}

    def margins(self, name: str, seed: int) -> Margins:
        """Return what a finished run answered on the forget rows."""
        with np.load(self.setting.run_place(name, seed).with_suffix(".npz")) as saved:
            steps = saved.get("step_margins")
            return Margins(forget=saved["forget_margins"], steps=steps)

    def retrained(self, units: Sequence[Unit]) -> list[Any]:
        """Return the [F] margins of the Retrain runs among these units."""
        return [
            self.margins(RETRAIN, unit.seed).forget
            for unit in units
            if unit.kind == "run" and unit.method == RETRAIN
        ]

    def about(self) -> dict[str, Any]:
        """Return what the numbers are numbers of."""
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
                "shadows": self.options.shadows,
            },
        }


def _read(options: Options, recipe: TrainConfig | None) -> Setting:
    data, _ = read(options.data)
    backbone = parse_backbone(options.backbone)
    if isinstance(backbone, HuggingFaceConfig):
        # Found, converted or fetched before the first clock runs, and the same for every run.
        backbone = replace(backbone, source_sha256=locate(backbone.name).sha256)
    setting = Setting(
        data=data,
        protocol=options.protocol,
        forget_seed=options.forget_seed,
        recipe=replace(recipe, backbone=backbone) if recipe else recipe_for(backbone),
        out=options.out.absolute(),
    )
    _ = setting.case  # What cannot be split is refused before the folder is touched.
    return setting


def _sentence(message: str) -> str:
    text = message[:1].upper() + message[1:]
    return text if text.endswith((".", "?", "!")) else f"{text}."
