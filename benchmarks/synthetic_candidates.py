"""The first stage on made-up people: how long it takes, and how much memory, by their number.

Items are drawn by Zipf's law and times evenly over five years. That says nothing of how good the
proposals are, since nobody has a taste; only sizes and times are measured.
"""

from __future__ import annotations

import json
import platform
import resource
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from models.data.interactions import Interactions, ItemRecord, UserRecord
from models.retrieval.candidate_index import CandidateIndex, Event
from models.retrieval.contributions import BUCKET_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    History = list[tuple[int, float, int]]

SEED: Final = 0
#: 2020-01-01, and five years.
BEGUN: Final = 1_577_836_800
SPAN: Final = 5 * 365 * 86_400
RATINGS: Final = (1.0, 2.0, 3.0, 4.0, 5.0)
SHARES: Final = (0.1, 0.1, 0.25, 0.35, 0.2)
#: Added to the rank before the power is taken, so that the first few items are not everybody's.
ZIPF_OFFSET: Final = 20
ASKED: Final = 300
#: A person whose going is timed has about so many ratings.
TYPICAL: Final = 50


def synthetic(users: int, items: int, interactions: int) -> Interactions:
    """Return a table of about so many interactions; what is drawn twice is drawn once more."""
    rng = np.random.default_rng(SEED)
    weight = 1.0 / (np.arange(items) + ZIPF_OFFSET)
    edges = np.cumsum(weight / weight.sum())
    pairs = np.empty(0, np.int64)
    for _ in range(20):
        missing = interactions - len(pairs)
        if missing <= 0:
            break
        item = np.minimum(np.searchsorted(edges, rng.random(missing)), items - 1)
        pairs = np.unique(np.append(pairs, rng.integers(0, users, missing) * items + item))
    stars = rng.choice(np.array(RATINGS, np.float32), len(pairs), p=SHARES)
    return Interactions(
        users=tuple(UserRecord(id=f"u{number}") for number in range(users)),
        items=tuple(ItemRecord(id=str(item_index), title="") for item_index in range(items)),
        user=(pairs // items).astype(np.int32),
        item=(pairs % items).astype(np.int32),
        rating=stars,
        timestamp=BEGUN + rng.integers(0, SPAN, len(pairs)),
    )


def histories(data: Interactions, users: Iterable[int]) -> dict[str, History]:
    """Return the (slot, rating, timestamp) rows of some people, oldest first."""
    rows = data.sorted_rows()
    user = data.user[rows]
    found = {}
    for number in users:
        own = rows[np.searchsorted(user, number) : np.searchsorted(user, number, side="right")]
        columns = (data.item[own], data.rating[own], data.timestamp[own])
        found[data.users[number].id] = list(zip(*(one.tolist() for one in columns), strict=True))
    return found


def measure(users: int, items: int, interactions: int) -> dict[str, object]:
    """Build, ask and change, and return what it took; sizes in bytes, times in milliseconds."""
    data = synthetic(users, items, interactions)
    before = _peak_bytes()
    begun = time.perf_counter()
    index = CandidateIndex.build(data)
    built = time.perf_counter() - begun
    peak, state = _peak_bytes(), index.state()
    people = histories(data, _typical(data))
    return {
        "users": users,
        "items": items,
        "interactions": len(data),
        "build_seconds": round(built, 2),
        "peak_bytes_before_build": before,
        "peak_bytes": peak,
        "state_bytes": len(state),
        "pair_cells": index.pair_cells(),
        "machine": f"{platform.machine()}, numpy {np.__version__}",
        "milliseconds": _times(index, people),
    }


def _times(index: CandidateIndex, people: dict[str, History]) -> dict[str, dict[str, float]]:
    told = [[Event(*event) for event in own] for own in people.values()]
    now = BEGUN + SPAN - BUCKET_SECONDS
    cold = _timed(lambda own: index.propose(own, 200), told)
    warm = _timed(lambda own: index.propose(own, 200), told)
    top = index.propose((), ASKED).item_indices.tolist()
    similar = _timed(lambda item_index: index.similar(item_index, 10), top)
    added, first, removed = [], [], []
    for (user_id, own), events in zip(people.items(), told, strict=True):
        rated = {item_index for item_index, _, _ in own}
        fresh = next(item_index for item_index in top if item_index not in rated)
        added += _timed(
            lambda more: index.replace_user(*more), [(user_id, [*own, (fresh, 5.0, now)])]
        )
        first += _timed(lambda own: index.propose(own, 200), [events])
        removed += _timed(lambda one: index.replace_user(one, []), [user_id])
    return {
        "propose 200, first time": _spread(cold),
        "propose 200, again": _spread(warm),
        "similar 10": _spread(similar),
        "add one interaction": _spread(added),
        "propose 200 after it": _spread(first),
        f"take out a person of {TYPICAL}": _spread(removed),
    }


def _typical(data: Interactions) -> list[int]:
    """Return the people whose number of ratings is nearest to TYPICAL."""
    sizes = np.bincount(data.user, minlength=len(data.users))
    nearest: NDArray[np.int64] = np.argsort(np.abs(sizes - TYPICAL), kind="stable")
    return sorted(nearest[:ASKED].tolist())


def _timed(action: Callable[[Any], object], arguments: Iterable[Any]) -> list[float]:
    """Return the milliseconds that the action takes with each argument."""
    taken = []
    for argument in arguments:
        begun = time.perf_counter()
        action(argument)
        taken.append(1e3 * (time.perf_counter() - begun))
    return taken


def _spread(taken: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(taken, [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}


def _peak_bytes() -> int:
    """Return the most memory that this process ever held (Linux counts in KiB)."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def markdown(result: dict[str, object]) -> str:
    """Return the result as a table."""
    lines = ["| what | value |", "|---|---|"]
    for name, value in result.items():
        if isinstance(value, dict):
            lines += [
                f"| {what}, p50 / p99 | {both['p50']:.2f} / {both['p99']:.2f} ms |"
                for what, both in value.items()
            ]
        else:
            shown = f"{value:,}" if isinstance(value, int) else value
            lines.append(f"| {name.replace('_', ' ')} | {shown} |")
    return "\n".join(lines) + "\n"


def write(result: dict[str, object], folder: Path) -> None:
    """Write results.json and synthetic.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(result, indent=2) + "\n")
    command = f"{result['users']} {result['items']} {result['interactions']}"
    title = f"`python -m benchmarks.candidates --synthetic {command}`"
    (folder / "synthetic.md").write_text(
        f"# The first stage on made-up people\n\n{title}; the last run.\n\n{markdown(result)}"
    )
