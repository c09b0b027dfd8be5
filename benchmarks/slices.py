"""A small part of a MovieLens data set, for models that take seconds per row."""

from __future__ import annotations

import csv
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_slice(source: Path, target: Path, *, users: int, ratings: int, seed: int = 0) -> None:
    """Write the last `ratings` of `users` random people who have as many, in the same layout.

    The catalogue stays whole. Raises ValueError where there are not so many people.
    """
    with (source / "ratings.csv").open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    held: dict[str, list[list[str]]] = {}
    for row in rows:
        held.setdefault(row[0], []).append(row)
    enough = sorted(user for user, theirs in held.items() if len(theirs) >= ratings)
    if len(enough) < users:
        raise ValueError(f"only {len(enough)} people have {ratings} ratings: ask for fewer")
    target.mkdir(parents=True, exist_ok=True)
    (target / "movies.csv").write_bytes((source / "movies.csv").read_bytes())
    with (target / "ratings.csv").open("w", newline="", encoding="utf-8") as stream:
        written = csv.writer(stream)
        written.writerow(header)
        for user in random.Random(seed).sample(enough, users):  # noqa: S311 # nothing is secret
            latest = sorted(held[user], key=lambda row: (int(row[3]), row[1]))[-ratings:]
            written.writerows(latest)
