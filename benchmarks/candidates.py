"""How well and how fast the first stage proposes: `python -m benchmarks.candidates [--data PATH]`.

With `--synthetic USERS ITEMS INTERACTIONS [--out DIR]`, how its size and times grow.

For every person with at least ten likes the last liked item is left out of the counts, and counts
as found where it is among the proposals made from the likes before it.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, quantiles
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.synthetic_candidates import markdown, measure, write
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
    """One person: what was rated and liked before, and the liked item that came last."""

    user_id: str
    rated: list[int]
    liked: list[int]
    answer: int


def leave_last_out(data: Interactions) -> tuple[Interactions, list[HeldOut]]:
    """Return the table without every person's last like, and what is to be found."""
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
                answer=int(data.item[last]),
            )
        )
    return data.take(np.setdiff1d(np.arange(len(data)), removed)), held_out


def propose(
    index: CandidateIndex, liked: Sequence[int], limit: int, excluded: Collection[int]
) -> list[int]:
    """Propose to somebody who liked these, one after the other."""
    history = [Event(item_index, 5.0, when) for when, item_index in enumerate(liked)]
    found: list[int] = index.propose(history, limit, excluded=excluded).item_indices.tolist()
    return found


def recalls(index: CandidateIndex, held_out: list[HeldOut], *, history: bool) -> list[float]:
    """Return the share of answers found within each of LIMITS."""
    ranks = []
    for each in held_out:
        told = each.liked if history else []
        found = propose(index, told, max(LIMITS), each.rated)
        ranks.append(found.index(each.answer) if each.answer in found else max(LIMITS))
    return [mean(rank < limit for rank in ranks) for limit in LIMITS]


def milliseconds(seconds: list[float]) -> str:
    """Return the median and the 99th percentile for the table."""
    cuts = quantiles(seconds, n=100)
    return f"median {1e3 * cuts[49]:.2f} ms, p99 {1e3 * cuts[98]:.2f} ms"


def time_queries(index: CandidateIndex, held_out: list[HeldOut]) -> list[float]:
    """Return the seconds of one `propose` per person."""
    taken = []
    for each in held_out:
        begun = time.perf_counter()
        propose(index, each.liked, 200, each.rated)
        taken.append(time.perf_counter() - begun)
    return taken


def time_removals(index: CandidateIndex, held_out: list[HeldOut]) -> list[float]:
    """Take one person after the other out and return the seconds of each."""
    taken = []
    for each in held_out:
        begun = time.perf_counter()
        index.replace_user(each.user_id, [])
        taken.append(time.perf_counter() - begun)
    return taken


def report_quality(path: str) -> None:
    """Print recall and times for a data set."""
    data, report = read(path)
    known, held_out = leave_last_out(data)
    begun = time.perf_counter()
    index = CandidateIndex.build(known)
    index.describe({item_index: item.attributes for item_index, item in enumerate(data.items)})
    built = time.perf_counter() - begun
    print(f"{report.accepted:,} ratings, {len(data.items):,} items, {len(held_out)} users")
    print(f"{'recall at':<12}" + "".join(f"{limit:>8}" for limit in LIMITS))
    for name, history in (("popularity", False), ("proposals", True)):
        figures = recalls(index, held_out, history=history)
        print(f"{name:<12}" + "".join(f"{figure:>8.3f}" for figure in figures))
    print(f"build   {built:.2f} s, state {len(index.state()) / 1e6:.1f} MB")
    print(f"propose {milliseconds(time_queries(index, held_out))}")
    print(f"remove  {milliseconds(time_removals(index, held_out))}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="data/ml-latest-small")
    parser.add_argument(
        "--synthetic", nargs=3, type=int, metavar=("USERS", "ITEMS", "INTERACTIONS")
    )
    parser.add_argument("--out", type=Path, help="where results.json and synthetic.md are written")
    chosen = parser.parse_args()
    if not chosen.synthetic:
        report_quality(chosen.data)
        return
    result = measure(*chosen.synthetic)
    print(markdown(result), end="")
    if chosen.out:
        write(result, chosen.out)


if __name__ == "__main__":
    main()
