"""A pretrained language model as a recommender: what tuning gives, and what forgetting takes.

    python -m benchmarks.language_model --backbone smollm2 --out docs/results/smollm2

Runs `lethe demo` on a slice of MovieLens with that backbone, as a user would, and writes what the
demo's JSON document says: quality before and after tuning beside the item mean, seconds per step,
and how long each stage of the forget job took, with recommendations going on beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks.slices import write_slice

ROOT: Final = Path(__file__).parents[1]
_PREDICTORS: Final = ("model", "untuned", "user_item_bias", "item_mean")


def run_demo(data: Path, home: Path, settings: dict[str, str]) -> dict[str, Any]:
    """Return the demo's document; its progress goes to standard error."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LETHE_")}
    ended = subprocess.run(  # noqa: S603 # our own command, without a shell
        [sys.executable, "-m", "app.cli", "demo", "--exit", "--json", "--data", str(data)],
        cwd=ROOT,
        env={**kept, **settings, "LETHE_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def results(document: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a demo's document that say how a language model fared."""
    training = document["train"]["metrics"]["tries"][-1]["training"]
    job = document["job"]
    return {
        **{name: training[name] for name in ("rows", "validation", "test", "expected_rise")},
        **{name: training[name] for name in ("parameters", "trained_parameters", "fit_seconds")},
        "forget_job": {
            "stage_seconds": job["metrics"]["stage_seconds"],
            "tries": job["metrics"]["tries"],
            "seconds_to_completed": document["seconds_to_completed"],
        },
        "load": document["load"],
    }


def report(found: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = ["| rows | " + " | ".join(_PREDICTORS) + " |", "|---" * 5 + "|"]
    for part, rows in (("validation", "valid"), ("test", "test")):
        measured = [f"{found[part][name]['auc']:.4f}" for name in _PREDICTORS]
        lines.append(f"| {part} AUC, {found['rows'][rows]} rows | " + " | ".join(measured) + " |")
    share = found["trained_parameters"] / found["parameters"]
    job = found["forget_job"]
    stages = ", ".join(f"{name} {spent:.1f} s" for name, spent in job["stage_seconds"].items())
    tries = ", ".join(f"{tried['method']}: {tried['outcome']}" for tried in job["tries"])
    load = found["load"]
    trained = f"{found['rows']['train']} training rows, {found['fit_seconds']:.0f} s"
    lines += [
        "",
        f"- {found['trained_parameters']:,} parameters train, {share:.1%} of all; {trained}",
        f"- forget job: {stages}; {job['seconds_to_completed']:.1f} s from request to completed",
        f"- audit: {tries}",
        f"- meanwhile {load['answered']} recommendations answered, {load['failed']} failed",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "ml-latest-small")
    parser.add_argument("--backbone", default="smollm2")
    parser.add_argument("--users", type=int, default=160)
    parser.add_argument("--ratings", type=int, default=30)
    parser.add_argument("--train-rows", type=int, default=1200)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    settings = {
        "LETHE_BACKBONE": arguments.backbone,
        "LETHE_TRAIN_ROWS": str(arguments.train_rows),
        "LETHE_CANDIDATES": str(arguments.candidates),
        "LETHE_TORCH_THREADS": str(arguments.threads),
    }
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "slice"
        write_slice(arguments.data, data, users=arguments.users, ratings=arguments.ratings)
        found = results(run_demo(data, Path(directory) / "home", settings))
    options = {name: str(value) for name, value in vars(arguments).items() if name != "out"}
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"options": options, **found}, indent=1)
    (arguments.out / "results.json").write_text(text + "\n", encoding="utf-8")
    (arguments.out / "report.md").write_text(report(found), encoding="utf-8")
    print(report(found))


if __name__ == "__main__":
    main()
