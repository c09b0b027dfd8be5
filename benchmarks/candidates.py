"""Benchmark the first stage's recall and speed: `python -m benchmarks.candidates [--data PATH]`.

`--synthetic USERS ITEMS INTERACTIONS [--out DIR]` measures size and times on synthetic data.

Recall is measured by leave-last-out: for every user with at least ten likes, the last liked item is
removed from the counts. The item counts as a hit if the earlier likes lead to its proposal.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, quantiles
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.synthetic_candidates import call_times, markdown, measure, write
from models.data.samples import LIKED_ABOVE
from models.datasets.detect import read
from models.retrieval.candidate_index import CandidateIndex, Event

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from models.data.interactions import Interactions

MIN_LIKES = 10
LIMITS = (50, 200, 500)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Item indices that a user rated and liked earlier, and the last liked item."""

    user_id: str
    rated: list[int]
    liked: list[int]
    last_liked: int


def leave_last_out(data: Interactions) -> tuple[Interactions, list[HeldOut]]:
    """Return the interactions without each user's last like, and the removed likes."""
    rows = data.sorted_rows()
    bounds = np.flatnonzero(np.diff(data.user[rows], prepend=-1))
    held_out: list[HeldOut] = []
    removed: list[int] = []
    for own in np.split(rows, bounds[1:]):
        liked = own[data.rating[own] > LIKED_ABOVE]
        if len(liked) < MIN_LIKES:
            continue
        last = liked[-1]
        removed.append(last)
        held_out.append(
            HeldOut(
                user_id=data.users[data.user[last]].id,
                rated=data.item[own[own != last]].tolist(),
                liked=data.item[liked[:-1]].tolist(),
                last_liked=int(data.item[last]),
            )
        )
    return data.take(np.setdiff1d(np.arange(len(data)), removed)), held_out


def propose(
    index: CandidateIndex, liked: Sequence[int], limit: int, excluded: Collection[int]
) -> list[int]:
    """Return the item indices proposed for a user with these likes, oldest first."""
    history = [Event(item_index, 5.0, when) for when, item_index in enumerate(liked)]
    item_indices: list[int] = index.propose(history, limit, excluded=excluded).item_indices.tolist()
    return item_indices


def recalls(index: CandidateIndex, held_out: list[HeldOut], *, history: bool) -> list[float]:
    """Return the share of last likes among the first proposals, for each of LIMITS."""
    ranks = []
    for user in held_out:
        liked = user.liked if history else []
        proposed = propose(index, liked, max(LIMITS), user.rated)
        hit = user.last_liked in proposed
        ranks.append(proposed.index(user.last_liked) if hit else max(LIMITS))
    return [mean(rank < limit for rank in ranks) for limit in LIMITS]


def quantile_text(milliseconds: list[float]) -> str:
    """Return the median and the 99th percentile as text."""
    cuts = quantiles(milliseconds, n=100)
    return f"median {cuts[49]:.2f} ms, p99 {cuts[98]:.2f} ms"


def report_quality(path: str) -> None:
    """Print recall and times for a data set."""
    data, report = read(path)
    remaining, held_out = leave_last_out(data)
    started = time.perf_counter()
    index = CandidateIndex.build(remaining)
    index.describe({item_index: item.attributes for item_index, item in enumerate(data.items)})
    build_seconds = time.perf_counter() - started
    print(f"{report.accepted:,} ratings, {len(data.items):,} items, {len(held_out)} users")
    print(f"{'recall at':<12}" + "".join(f"{limit:>8}" for limit in LIMITS))
    for name, history in (("popularity", False), ("proposals", True)):
        figures = recalls(index, held_out, history=history)
        print(f"{name:<12}" + "".join(f"{figure:>8.3f}" for figure in figures))
    print(f"build   {build_seconds:.2f} s, state {len(index.state()) / 1e6:.1f} MB")
    queries = call_times(lambda user: propose(index, user.liked, 200, user.rated), held_out)
    removals = call_times(lambda user: index.replace_user(user.user_id, []), held_out)
    print(f"propose {quantile_text(queries)}")
    print(f"remove  {quantile_text(removals)}")


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="data/ml-latest-small")
    parser.add_argument(
        "--synthetic", nargs=3, type=int, metavar=("USERS", "ITEMS", "INTERACTIONS")
    )
    parser.add_argument("--out", type=Path, help="directory for results.json and synthetic.md")
    options = parser.parse_args()
    if not options.synthetic:
        report_quality(options.data)
        return
    result = measure(*options.synthetic)
    print(markdown(result), end="")
    if options.out:
        write(result, options.out)


if __name__ == "__main__":
    main()
