"""Run the recorded trials of unlearning methods.

    python -m benchmarks.tuning --data data/ml-latest-small --forget-seed 1 --method npo --out OUT

OUT may be a directory of `lethe benchmark unlearning` with the same data, protocol and forget seed:
first releases, calibrations, Original and Retrain runs are loaded and missing ones are made. A
finished trial is loaded, so that an interrupted search continues. Writes OUT/<method>.json and
prints a table.

    python -m benchmarks.tuning --data data/ml-latest-small --forget-seed 0 --confirm OUT --out OUT2

measures the best trials of a search on people who chose nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.tuning.report import trial_table
from benchmarks.tuning.search import Search, TuningOptions
from benchmarks.tuning.trials import TUNED
from benchmarks.unlearning.benchmark import parse_methods
from benchmarks.unlearning.errors import BenchmarkFailedError, BenchmarkInputError

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Lines:
    """Progress display that prints finished units and trials to standard error."""

    def at(self, text: str, spent: float, left: float | None) -> None:
        """Show nothing while a unit runs."""

    def tell(self, text: str) -> None:
        """Print a line."""
        print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the search; return 2 for bad input, 1 for a failed search, and 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="data set: file or directory")
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--method", default=",".join(TUNED), help="methods, separated by commas")
    parser.add_argument("--protocol", default="paper")
    parser.add_argument("--forget-seed", type=int, default=1, help="not 0, which the tables have")
    parser.add_argument("--seeds", type=int, default=2, help="root seeds of finalists")
    parser.add_argument("--search-seeds", type=int, help="root seeds of all trials; default: all")
    parser.add_argument("--finalists", type=int, default=2, help="trials that run with all seeds")
    parser.add_argument("--retrain-runs", type=int, default=8)
    parser.add_argument(
        "--only-finished", action="store_true", help="score finished trials and make none"
    )
    parser.add_argument(
        "--parts",
        action="store_true",
        help="stop the method early or leave out a part, and write OUT/<method>-parts.json",
    )
    parser.add_argument(
        "--confirm",
        type=Path,
        metavar="RESULTS",
        help="run the best trials of the search in this directory on other people",
    )
    given = parser.parse_args(arguments)
    options = TuningOptions(
        data=given.data,
        out=given.out,
        methods=parse_methods(given.method),
        protocol=given.protocol,
        forget_seed=given.forget_seed,
        seeds=given.seeds,
        search_seeds=given.seeds if given.search_seeds is None else given.search_seeds,
        finalists=given.finalists,
        retrain_runs=given.retrain_runs,
        only_finished=given.only_finished,
        parts=given.parts,
        confirm=given.confirm,
    )
    try:
        with Search.claim(options) as search:
            print(trial_table(search.run(_Lines())), end="")
    except BenchmarkInputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BenchmarkFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command continues after the last finished trial.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
