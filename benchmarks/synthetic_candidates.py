"""Measure times and memory of the first stage on synthetic users.

Items are drawn by Zipf's law and times uniformly over five years. The users have no preferences, so
the data says nothing about the quality of proposals.
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
#: 2020-01-01 in Unix time.
FIRST_TIMESTAMP: Final = 1_577_836_800
FIVE_YEARS: Final = 5 * 365 * 86_400
RATINGS: Final = (1.0, 2.0, 3.0, 4.0, 5.0)
SHARES: Final = (0.1, 0.1, 0.25, 0.35, 0.2)
#: Added to the rank in Zipf's law, so that the first items do not dominate every user's ratings.
ZIPF_OFFSET: Final = 20
MEASURED_USERS: Final = 300
#: The removal of users with about this many ratings is timed.
TYPICAL_RATINGS: Final = 50


def synthetic(users: int, items: int, interactions: int) -> Interactions:
    """Return about `interactions` interactions; duplicates are drawn again, 20 times at most."""
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
        timestamp=FIRST_TIMESTAMP + rng.integers(0, FIVE_YEARS, len(pairs)),
    )


def histories(data: Interactions, users: Iterable[int]) -> dict[str, History]:
    """Return the (item index, rating, timestamp) rows of the users, oldest first."""
    rows = data.sorted_rows()
    user = data.user[rows]
    rows_by_user = {}
    for number in users:
        own = rows[np.searchsorted(user, number) : np.searchsorted(user, number, side="right")]
        columns = (data.item[own], data.rating[own], data.timestamp[own])
        rows_by_user[data.users[number].id] = list(
            zip(*(column.tolist() for column in columns), strict=True)
        )
    return rows_by_user


def measure(users: int, items: int, interactions: int) -> dict[str, object]:
    """Build, query and change an index; return sizes in bytes and times in milliseconds."""
    data = synthetic(users, items, interactions)
    peak_before = _peak_bytes()
    started = time.perf_counter()
    index = CandidateIndex.build(data)
    build_seconds = time.perf_counter() - started
    peak, state = _peak_bytes(), index.state()
    history_by_user = histories(data, _typical_users(data))
    return {
        "users": users,
        "items": items,
        "interactions": len(data),
        "build_seconds": round(build_seconds, 2),
        "peak_bytes_before_build": peak_before,
        "peak_bytes": peak,
        "state_bytes": len(state),
        "pair_cells": index.pair_cells(),
        "machine": f"{platform.machine()}, numpy {np.__version__}",
        "milliseconds": _times(index, history_by_user),
    }


def _times(
    index: CandidateIndex, history_by_user: dict[str, History]
) -> dict[str, dict[str, float]]:
    """Return the p50 and p99 of each operation in milliseconds."""
    event_lists = [[Event(*event) for event in own] for own in history_by_user.values()]
    now = FIRST_TIMESTAMP + FIVE_YEARS - BUCKET_SECONDS
    cold = call_times(lambda own: index.propose(own, 200), event_lists)
    warm = call_times(lambda own: index.propose(own, 200), event_lists)
    top = index.propose((), MEASURED_USERS).item_indices.tolist()
    similar = call_times(lambda item_index: index.similar(item_index, 10), top)
    added, first, removed = [], [], []
    for (user_id, own), events in zip(history_by_user.items(), event_lists, strict=True):
        rated = {item_index for item_index, _, _ in own}
        unrated = next(item_index for item_index in top if item_index not in rated)
        added += call_times(
            lambda arguments: index.replace_user(*arguments),
            [(user_id, [*own, (unrated, 5.0, now)])],
        )
        first += call_times(lambda own: index.propose(own, 200), [events])
        removed += call_times(lambda user_id: index.replace_user(user_id, []), [user_id])
    return {
        "propose 200, first time": _spread(cold),
        "propose 200, again": _spread(warm),
        "similar 10": _spread(similar),
        "add one interaction": _spread(added),
        "propose 200 after it": _spread(first),
        f"take out a person of {TYPICAL_RATINGS}": _spread(removed),
    }


def _typical_users(data: Interactions) -> list[int]:
    """Return the user indices whose number of ratings is nearest to TYPICAL_RATINGS."""
    sizes = np.bincount(data.user, minlength=len(data.users))
    nearest: NDArray[np.int64] = np.argsort(np.abs(sizes - TYPICAL_RATINGS), kind="stable")
    return sorted(nearest[:MEASURED_USERS].tolist())


def call_times(action: Callable[[Any], object], arguments: Iterable[Any]) -> list[float]:
    """Return the milliseconds of the action for each argument."""
    durations = []
    for argument in arguments:
        started = time.perf_counter()
        action(argument)
        durations.append(1e3 * (time.perf_counter() - started))
    return durations


def _spread(durations: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(durations, [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}


def _peak_bytes() -> int:
    """Return the peak memory of this process in bytes; Linux reports KiB."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def markdown(result: dict[str, object]) -> str:
    """Return the result as a Markdown table."""
    lines = ["| measure | value |", "|---|---|"]
    for name, value in result.items():
        if isinstance(value, dict):
            lines += [
                f"| {operation}, p50 / p99 | {spread['p50']:.2f} / {spread['p99']:.2f} ms |"
                for operation, spread in value.items()
            ]
        else:
            text = f"{value:,}" if isinstance(value, int) else value
            lines.append(f"| {name.replace('_', ' ')} | {text} |")
    return "\n".join(lines) + "\n"


def write(result: dict[str, object], folder: Path) -> None:
    """Write results.json and synthetic.md into a directory."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(result, indent=2) + "\n")
    command = f"{result['users']} {result['items']} {result['interactions']}"
    title = f"`python -m benchmarks.candidates --synthetic {command}`"
    (folder / "synthetic.md").write_text(
        f"# The first stage on synthetic users\n\n{title}; the last run.\n\n{markdown(result)}"
    )
