"""Unlearning methods against exact retraining, in one run, on one thread.

    python -m benchmarks.unlearning --protocol paper --seeds 3 --out DIR
        [--data data/ml-latest-small] [--methods neggrad,e2urec] [--forget-seed 0]

Writes `results.json`, `table.md` and plots into DIR. An interrupted benchmark goes on from its last
finished run when it is started again with the same DIR.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import peft
import torch
import transformers
from rich.console import Console

from benchmarks.unlearning.protocols import PROTOCOLS, ProtocolError, apply
from benchmarks.unlearning.report import terminal_table, write_report
from benchmarks.unlearning.results import compare
from benchmarks.unlearning.runs import Setting, make_all
from models.datasets.detect import read
from models.splits import TooSmallToSplitError
from models.training import TrainConfig
from models.unlearning.registry import METHODS, UnknownMethodError, get_method
from models.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.datasets.interactions import Interactions

#: One epoch, chosen on validation (log loss .5365, after two epochs .5400); never looked at again.
RECIPE = TrainConfig(epochs=1, validations=0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unlearning")
    parser.add_argument("--data", type=Path, default=Path("data/ml-latest-small"))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--protocol", default="paper", help=", ".join(PROTOCOLS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--forget-seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        if options.seeds < 1:
            parser.error("--seeds must be at least 1")
        for name in options.methods.split(","):
            get_method(name)
        run(options)
    except (ProtocolError, UnknownMethodError, TooSmallToSplitError) as error:
        parser.error(str(error))


def run(options: argparse.Namespace, recipe: TrainConfig = RECIPE) -> dict[str, Any]:
    """Make every run that is missing, compare all, and write the report."""
    torch.set_num_threads(1)
    console = Console()
    data, _ = read(options.data)
    whole, batch = apply(data, options.protocol, options.forget_seed)
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
    methods = options.methods.split(",")
    runs = make_all(
        setting,
        methods,
        options.seeds,
        lambda made: console.print(
            f"{made['method']} seed {made['seed']}: {made['seconds']:.1f} s, forget loss "
            f"{made['forget_loss']:.4f}, test AUC {made['test_auc']:.4f}"
        ),
    )
    saved = [
        np.load(options.out / "runs" / f"{made['method']}-{made['seed']}.npz")["forget_margins"]
        for made in runs
    ]
    results = {
        "data": {"name": options.data.name, "rows": _row_counts(setting)},
        "protocol": options.protocol,
        "backbone": recipe.backbone.manifest(),
        "plan": plan,
        **compare(runs, saved, batch.forget),
    }
    (options.out / "results.json").write_text(json.dumps(results, indent=1, allow_nan=False))
    write_report(results, options.out)
    console.print(terminal_table(results))
    return results


def _row_counts(setting: Setting) -> dict[str, int]:
    parts = setting.batch.parts
    return {
        "users_forgotten": len(np.unique(setting.batch.forget.user)),
        "forget": len(setting.batch.forget),
        "retain": len(parts.train),
        "valid": len(parts.valid),
        "test": len(parts.test),
    }


def _plan(options: argparse.Namespace, data: Interactions, recipe: TrainConfig) -> dict[str, Any]:
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
    """Keep a folder to one plan; raises ProtocolError where it holds the runs of another."""
    place = out / "plan.json"
    if place.exists() and json.loads(place.read_text()) != plan:
        raise ProtocolError(f"{out} holds runs of another benchmark: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(plan, indent=1))


if __name__ == "__main__":
    main()
