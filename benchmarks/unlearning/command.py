"""Unlearning methods against exact retraining, in one run, on one thread; `lethe benchmark` asks.

Writes `results.json`, `table.md` and plots into a folder. An interrupted benchmark goes on from its
last finished run when it is started again with the same folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import peft
import torch
import transformers

from benchmarks.unlearning.goals import goals
from benchmarks.unlearning.plots import MissingPlotsError
from benchmarks.unlearning.protocols import PROTOCOLS, ProtocolError, apply
from benchmarks.unlearning.report import write_report
from benchmarks.unlearning.results import LEAST_RETRAINED, RETRAIN, compare
from benchmarks.unlearning.runs import Setting, make_all
from models.backbones import CompactConfig, UnknownBackboneError
from models.datasets.detect import DataSetError, read
from models.splits import TooSmallToSplitError
from models.training import DivergedError, TrainConfig
from models.unlearning.base import NothingToForgetError
from models.unlearning.registry import METHODS, UnknownMethodError, get_method
from models.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from models.backbones import BackboneConfig
    from models.datasets.interactions import Interactions

    Told = Callable[[dict[str, Any]], None]

#: One epoch, chosen on validation (log loss .5365, after two epochs .5400); never looked at again.
RECIPE: Final = TrainConfig(epochs=1, validations=0)
ALL: Final = tuple(METHODS)
MOST_SEEDS: Final = 100
PLAN: Final = "plan.json"
#: With these it is the numbers or the data given that must change.
_INPUT_ERRORS: Final = (
    DataSetError,
    NothingToForgetError,
    ProtocolError,
    TooSmallToSplitError,
    UnknownBackboneError,
    UnknownMethodError,
)


class BenchmarkInputError(ValueError):
    """What the benchmark was given cannot be used; the message says what to do."""


class BenchmarkFailedError(RuntimeError):
    """A run could not be finished, or the results not be drawn; finished runs are kept."""


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
        if self.shadows < 0:
            raise BenchmarkInputError(f"--shadows must be 0 or more, not {self.shadows}.")
        if self.shadows:
            raise BenchmarkInputError("Only --shadows 0 works: Retrain runs are the references.")
        if self.out.exists() and not self.out.is_dir():
            raise BenchmarkInputError(f"{self.out} is a file. Choose a directory for --out.")


def parse_methods(text: str) -> tuple[str, ...]:
    """Return the names between commas, each once; blanks around them do not count."""
    names = (name.strip() for name in text.split(","))
    return tuple(dict.fromkeys(name for name in names if name))


def parse_backbone(name: str) -> BackboneConfig:
    """Return the backbone of this name; raises UnknownBackboneError that lists those there are."""
    if name != "compact":
        raise UnknownBackboneError(f"There is no backbone {name!r}. Known: compact.")
    return CompactConfig()


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A checked plan on data that was read, in a folder that is its own."""

    options: Options
    setting: Setting
    plan: dict[str, Any]

    @classmethod
    def prepare(cls, options: Options, recipe: TrainConfig = RECIPE) -> Benchmark:
        """Read, split and take the folder; raises BenchmarkInputError for anything unusable."""
        torch.set_num_threads(1)
        try:
            options.check()
            return cls._prepare(options, recipe)
        except _INPUT_ERRORS as error:
            raise BenchmarkInputError(_sentence(str(error))) from error

    @classmethod
    def _prepare(cls, options: Options, recipe: TrainConfig) -> Benchmark:
        recipe = replace(recipe, backbone=parse_backbone(options.backbone))
        data, _ = read(options.data)
        whole, batch = apply(data, options.protocol, options.forget_seed)
        parts = (whole.parts.train, batch.parts.train, batch.parts.valid, batch.parts.test)
        if not all(len(np.unique(part.label)) > 1 for part in parts):
            raise BenchmarkInputError(
                "One side of the split has no likes or no dislikes, so nothing could be measured. "
                "Use a data set with more people and ratings of both kinds."
            )
        plan = _plan(options, data, recipe)
        _claim(options.out, plan)
        setting = Setting(
            data=data,
            vocabulary=Vocabulary.from_catalogue(data),
            whole=whole,
            batch=batch,
            recipe=recipe,
            out=options.out,
        )
        return cls(options=options, setting=setting, plan=plan)

    def wanted(self, methods: Sequence[str]) -> set[tuple[str, int]]:
        """Return the (method, seed) of every run that a table of these methods takes."""
        retrained = {(RETRAIN, seed) for seed in range(max(LEAST_RETRAINED, self.options.seeds))}
        return retrained | {(m, s) for m in methods for s in range(self.options.seeds)}

    def finished(self, methods: Sequence[str]) -> set[tuple[str, int]]:
        """Return those of the wanted runs that an earlier start has finished."""
        runs = self.options.out / "runs"
        return {(m, s) for m, s in self.wanted(methods) if (runs / f"{m}-{s}.json").exists()}

    def run(self, told: Told) -> dict[str, Any]:
        """Make every run that is missing, compare all, and write the report."""
        compared = self.compare(self.options.methods, told)
        results: dict[str, Any] = finite({**self.about(), **compared})
        results["goals"] = goals(results)
        self.write("results.json", results)
        try:
            write_report(results, self.options.out)
        except MissingPlotsError as error:
            raise BenchmarkFailedError(
                f"{error} results.json and table.md are written; start again for the plots."
            ) from error
        return results

    def compare(self, methods: Sequence[str], told: Told) -> dict[str, Any]:
        """Return the noise floor, the runs of these methods and Retrain, and their summary."""
        try:
            runs = make_all(self.setting, list(methods), self.options.seeds, told)
        except NothingToForgetError as error:
            raise BenchmarkInputError(_sentence(str(error))) from error
        except DivergedError as error:
            raise BenchmarkFailedError(
                f"{_sentence(str(error))} Finished runs are kept; leave the method that failed out "
                "of --methods to see them."
            ) from error
        return compare(runs, self.margins(runs), self.setting.batch.forget)

    def margins(self, runs: Sequence[dict[str, Any]]) -> list[np.ndarray[Any, Any]]:
        """Return the saved [F] margins of finished runs on the forget rows."""
        place = self.options.out / "runs"
        return [
            np.load(place / f"{run['method']}-{run['seed']}.npz")["forget_margins"] for run in runs
        ]

    def about(self) -> dict[str, Any]:
        """Return what the numbers are numbers of."""
        parts = self.setting.batch.parts
        rows = {
            "users_forgotten": len(np.unique(self.setting.batch.forget.user)),
            "forget": len(self.setting.batch.forget),
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

    def write(self, name: str, results: dict[str, Any]) -> None:
        """Write results as strict JSON into the folder."""
        _write(self.options.out / name, results)


def finite(value: Any) -> Any:
    """Return JSON values with null for what is no number, as the AUC of a single class."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plan(options: Options, data: Interactions, recipe: TrainConfig) -> dict[str, Any]:
    """Return what must agree between runs that are compared with each other."""
    return {
        "rows": len(data),
        "data_sha256": _digest(data),
        "protocol": options.protocol,
        "forget_seed": options.forget_seed,
        "recipe": recipe.manifest(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
        },
    }


def _digest(data: Interactions) -> str:
    """Return the SHA-256 of all rows, in order, as (user, item, rating, time)."""
    digest = hashlib.sha256()
    for column in (data.user, data.item, data.rating, data.timestamp):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def _claim(out: Path, plan: dict[str, Any]) -> None:
    """Keep a folder to one plan; raises BenchmarkInputError where it holds something else."""
    place = out / PLAN
    try:
        held = json.loads(place.read_text(encoding="utf-8")) if place.exists() else None
    except ValueError:
        held = {}
    if (held is None and (out / "runs").exists()) or not isinstance(held, dict | None):
        held = {}
    if held is not None and held != json.loads(json.dumps(plan)):
        differs = ", ".join(sorted(key for key in plan if held.get(key) != plan[key]))
        raise BenchmarkInputError(
            f"{out} holds runs of another benchmark (other {differs}). Choose another --out."
        )
    out.mkdir(parents=True, exist_ok=True)
    _write(place, plan)


def _write(place: Path, value: dict[str, Any]) -> None:
    # A reader, or a resumed benchmark, never sees half a file.
    partial = place.with_suffix(".part")
    partial.write_text(json.dumps(value, indent=1, allow_nan=False), encoding="utf-8")
    partial.replace(place)


def _sentence(message: str) -> str:
    text = message[:1].upper() + message[1:]
    return text if text.endswith((".", "?", "!")) else f"{text}."
