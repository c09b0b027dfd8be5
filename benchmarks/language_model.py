"""Benchmark a pretrained language model as a recommender: tuning gain and time to forget.

    python -m benchmarks.language_model --backbone smollm2 --out docs/results/smollm2

Runs `lethe demo` with the backbone on a part of MovieLens and writes figures of its JSON document:
quality before and after tuning beside the item mean, and the seconds of each stage of the forget
job, while other users get recommendations.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
_PREDICTORS: Final = ("model", "untuned", "user_item_bias", "item_mean")


def write_slice(source: Path, target: Path, *, users: int, ratings: int, seed: int = 0) -> None:
    """Write the last `ratings` ratings of `users` random users, with the whole catalog.

    Only users with at least `ratings` ratings are drawn. Raises ValueError if there are too few.
    """
    with (source / "ratings.csv").open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    rows_by_user: dict[str, list[list[str]]] = {}
    for row in rows:
        rows_by_user.setdefault(row[0], []).append(row)
    eligible = sorted(user for user, own in rows_by_user.items() if len(own) >= ratings)
    if len(eligible) < users:
        raise ValueError(f"only {len(eligible)} users have {ratings} ratings; reduce --users")
    target.mkdir(parents=True, exist_ok=True)
    (target / "movies.csv").write_bytes((source / "movies.csv").read_bytes())
    with (target / "ratings.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        for user in random.Random(seed).sample(eligible, users):  # noqa: S311 # not for security
            own = rows_by_user[user]
            writer.writerows(sorted(own, key=lambda row: (int(row[3]), row[1]))[-ratings:])


def run_demo(data: Path, home: Path, settings: dict[str, str]) -> dict[str, Any]:
    """Run the demo and return its JSON document; its progress goes to standard error."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("LETHE_")
    }
    completed = subprocess.run(  # noqa: S603 # our own command, without a shell
        [sys.executable, "-m", "app.cli", "demo", "--exit", "--json", "--data", str(data)],
        cwd=ROOT,
        env={**environment, **settings, "LETHE_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    document: dict[str, Any] = json.loads(completed.stdout)
    return document


def results(document: dict[str, Any]) -> dict[str, Any]:
    """Select the figures of the language model from a demo's document."""
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


def report(figures: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = ["| rows | " + " | ".join(_PREDICTORS) + " |", "|---" * 5 + "|"]
    for part, rows in (("validation", "valid"), ("test", "test")):
        measured = [f"{figures[part][name]['auc']:.4f}" for name in _PREDICTORS]
        lines.append(f"| {part} AUC, {figures['rows'][rows]} rows | " + " | ".join(measured) + " |")
    share = figures["trained_parameters"] / figures["parameters"]
    job = figures["forget_job"]
    stages = ", ".join(f"{name} {spent:.1f} s" for name, spent in job["stage_seconds"].items())
    tries = ", ".join(f"{attempt['method']}: {attempt['outcome']}" for attempt in job["tries"])
    load = figures["load"]
    trained = f"{figures['rows']['train']} training rows, {figures['fit_seconds']:.0f} s"
    lines += [
        "",
        f"- {figures['trained_parameters']:,} parameters train, {share:.1%} of all; {trained}",
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
        figures = results(run_demo(data, Path(directory) / "home", settings))
    options = {name: str(value) for name, value in vars(arguments).items() if name != "out"}
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"options": options, **figures}, indent=1)
    (arguments.out / "results.json").write_text(text + "\n", encoding="utf-8")
    (arguments.out / "report.md").write_text(report(figures), encoding="utf-8")
    print(report(figures))


if __name__ == "__main__":
    main()
