"""Measure how near `e2urec-fast`'s student comes to its teacher, for single people.

    python -m benchmarks.students --data data/ml-latest-small --forget-seed 1 --out OUT

No retraining is needed, because the teacher's change is the standard: the median over people with
a similar number of rows of

- size: projection of the answers' change on the teacher's, 1 for a perfect student;
- error: squared difference from the teacher's change, as a share of the squared change;
- others: squared change of other people's test answers, as a share of the same;
- seconds, and rounds of teaching.

Trains one release and its calibration, or loads them from OUT.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from benchmarks.tuning.search import REPORTED_SEED
from benchmarks.unlearning.benchmark import Benchmark, Options
from benchmarks.unlearning.errors import BenchmarkInputError
from benchmarks.unlearning.names import RETRAIN
from benchmarks.unlearning.setting import load_root, unlearning_task
from benchmarks.unlearning.units import Unit
from models.data.forget_split import ForgetIndices, split_for_forgetting
from models.data.samples import evenly_spaced
from models.training.trainer import margins
from models.unlearning.e2urec_fast import E2URecFast
from models.unlearning.fast_student import Teachers
from models.unlearning.finetuning import encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.unlearning.setting import Setting
    from models.unlearning.base import UnlearningTask

#: Least numbers of training rows of the groups of people.
GROUPS: Final = (1, 20, 50, 200)
TEST_ROWS: Final = 512
#: Seed of the draw of people.
_SEED: Final = 5


def measure(task: UnlearningTask) -> list[float]:
    """Return size, error, others, seconds and rounds for one person."""
    teachers = Teachers(task)
    rows = torch.arange(len(teachers.labels))
    wanted = teachers.remembering(rows) + teachers.change - teachers.original
    test = task.prepared.parts.test
    prompts, _ = encode(task, test.take(evenly_spaced(len(test), TEST_ROWS)))
    started = time.process_time()
    unlearned = E2URecFast().unlearn(task, lambda _fraction: None)
    seconds = time.process_time() - started
    moved = margins(unlearned.recommender, teachers.prompts) - teachers.original
    others = margins(unlearned.recommender, prompts) - margins(task.recommender, prompts)
    scale = wanted.square().mean().item()
    return [
        (moved @ wanted).item() / wanted.square().sum().item(),
        (moved - wanted).square().mean().item() / scale,
        others.square().mean().item() / scale,
        seconds,
        float(unlearned.metrics["rounds"]),
    ]


def measure_group(setting: Setting, users: Sequence[int], seed: int) -> list[float]:
    """Return the medians over the users, each forgotten alone from the release of the seed."""
    method = E2URecFast()
    release, _ = load_root(setting, method, seed)
    figures = []
    for user in users:
        batch = split_for_forgetting(
            setting.data, ForgetIndices(users=frozenset({user})), frozenset(), setting.case.bounds
        )
        figures.append(measure(unlearning_task(setting, method, seed, release, batch)))
    return [float(value) for value in np.median(figures, axis=0)]


def groups(setting: Setting, people: int) -> dict[int, list[int]]:
    """Draw people for each group, by its least number of training rows."""
    users, counts = np.unique(setting.case.whole.parts.train.user, return_counts=True)
    generator = np.random.default_rng(_SEED)
    drawn = {}
    for low, high in zip(GROUPS, [*GROUPS[1:], np.inf], strict=True):
        pool = users[(counts >= low) & (counts < high)]
        drawn[low] = generator.choice(pool, min(people, len(pool)), replace=False).tolist()
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table; return 2 for bad input."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--forget-seed", type=int, default=1, help="not 0, which the tables have")
    parser.add_argument("--people", type=int, default=12, help="people per group")
    given = parser.parse_args(arguments)
    options = Options(
        data=given.data,
        out=given.out,
        methods=(RETRAIN,),
        protocol="paper",
        seeds=1,
        shadows=0,
        forget_seed=given.forget_seed,
    )
    if given.forget_seed == REPORTED_SEED:
        parser.error("--forget-seed 0 draws the people of the published tables; use another seed")
    try:
        with Benchmark.claim(options) as benchmark:
            _print_table(benchmark.setting, given.people)
    except BenchmarkInputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _print_table(setting: Setting, people: int) -> None:
    for unit in (
        Unit(kind="root", method=RETRAIN, seed=0),
        Unit(kind="calibration", method=E2URecFast.name, seed=0),
    ):
        if not unit.is_finished(setting):
            unit.make(setting, lambda _fraction: None)
    print("| rows | people | size | error | others | seconds | rounds |")
    print("|---|---|---|---|---|---|---|")
    for low, users in groups(setting, people).items():
        if users:
            size, error, others, seconds, rounds = measure_group(setting, users, 0)
            print(
                f"| from {low} | {len(users)} | {size:.2f} | {error:.0%} | {others:.0%} "
                f"| {seconds:.2f} | {rounds:g} |"
            )


if __name__ == "__main__":
    sys.exit(main())
