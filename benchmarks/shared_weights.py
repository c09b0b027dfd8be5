"""Measure the memory of several processes that serve one release, mapped and copied.

    python -m benchmarks.shared_weights --items 200000 --processes 1,2,4

Each process scores 1,000 items and reads every weight, so that all pages are in use. RSS counts
shared pages in every process, PSS the process's share of them, and USS only private pages.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import psutil
import torch

from app.cli.processes import Child, Children
from models.backbones.compact import CompactConfig
from models.checkpoints import checkpoint as checkpoints
from models.checkpoints.manifest import WEIGHTS
from models.data.interactions import Interactions
from models.prompts.scoring_inputs import Candidate
from models.prompts.vocabulary import Vocabulary
from models.recommender.base import Recommender

if TYPE_CHECKING:
    from collections.abc import Sequence

MEBIBYTE: Final = 2**20


def write_release(directory: Path, items: int) -> float:
    """Write an untrained compact release for `items` items; return the MiB of its weights."""
    vocabulary = Vocabulary.from_catalog(Interactions.unrated())
    enlarged = Vocabulary(
        item_capacity=items, user_attributes=vocabulary.user_attributes, values=vocabulary.values
    )
    checkpoints.save(Recommender(enlarged, CompactConfig()), directory, method="train")
    return (directory / WEIGHTS).stat().st_size / MEBIBYTE


def hold(directory: Path, *, mapped: bool) -> None:
    """Load the release, read all weights, print "ready", and wait for the end of standard input."""
    torch.set_num_threads(1)
    recommender = checkpoints.load(directory, mapped=mapped)
    recommender.score({}, [], [Candidate(item_index, {}, "") for item_index in range(1000)])
    for weight in recommender.model.parameters():
        weight.sum()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()


def measure(directory: Path, processes: int, *, mapped: bool) -> dict[str, Any]:
    """Return the mean memory in MiB of `processes` processes that hold the release at once."""
    options = ["--mapped"] if mapped else []
    with Children() as children:
        holders = [
            children.start(
                Child(
                    name="holder",
                    module="benchmarks.shared_weights",
                    arguments=["--hold", str(directory), *options],
                    pipe_stdout=True,
                )
            )
            for _ in range(processes)
        ]
        for child in holders:
            stream = child.process.stdout
            if stream is None or stream.readline() != b"ready\n":
                raise RuntimeError("a process could not load the release")
        memory = [psutil.Process(child.process.pid).memory_full_info() for child in holders]
    return {
        "processes": processes,
        "mapped": mapped,
        "pss_of_all": round(sum(used.pss for used in memory) / MEBIBYTE, 1),
        **{
            name: round(float(np.mean([getattr(used, name) for used in memory])) / MEBIBYTE, 1)
            for name in ("rss", "pss", "uss")
        },
    }


def compare(directory: Path, items: int, counts: Sequence[int]) -> dict[str, Any]:
    """Measure copied and mapped weights for each number of processes."""
    size = write_release(directory, items)
    runs = [
        measure(directory, count, mapped=mapped) for count in counts for mapped in (False, True)
    ]
    return {"items": items, "weights": round(size, 1), "unit": "MiB", "runs": runs}


def main() -> None:
    """Run the benchmark, or one of its processes, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--processes", default="1,2,4")
    parser.add_argument("--out", type=Path, help="directory for memory.json")
    parser.add_argument("--hold", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--mapped", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hold is not None:
        hold(options.hold, mapped=options.mapped)
        return
    with tempfile.TemporaryDirectory() as directory:
        counts = [int(count) for count in options.processes.split(",")]
        text = json.dumps(compare(Path(directory) / "release", options.items, counts), indent=1)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "memory.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
