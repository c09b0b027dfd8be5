"""Write a synthetic data set in which only memorization explains the answers of some people.

Run `python -m benchmarks.planted_memorization --out DIR --users N --seed S`, and give DIR to
`lethe benchmark unlearning --data`. The layout is that of MovieLens (ratings.csv, movies.csv).

Every item has a consensus: people like the item or not, with a chance of SLIP to rate otherwise.
**Contrary people** contradict the consensus on a random half of their items. Neither the item, nor
the history, nor the person's other ratings predict on which half, so a model that answers better
than chance on their rows has memorized the rows. A model without the rows answers with the
consensus. Ids of contrary people begin with "contrary-"; models do not see ids.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Final

import numpy as np

from models.data.interactions import Interactions, ItemRecord, UserRecord

#: Share of the people who contradict the consensus on half of their items.
CONTRARY: Final = 0.2
#: Chance that any rating of another person contradicts the consensus.
SLIP: Final = 0.05
#: Items per user of the data set, and the least number: a consensus needs many ratings of an item.
ITEMS_PER_USER: Final = 0.2
LEAST_ITEMS: Final = 120
#: Median number of ratings per person and the standard deviation of its logarithm.
MEDIAN_RATINGS: Final = 40
SPREAD: Final = 0.5
LEAST_RATINGS: Final = 12
GENRES: Final = ("Comedy", "Crime", "Drama", "Romance")
#: Days of the whole period, and days in which one person rates.
PERIOD_DAYS: Final = 1000
SPAN_DAYS: Final = 60
_DAY: Final = 86_400
#: 2020-01-01 in Unix time.
_FIRST: Final = 1_577_836_800


def planted_memorization(users: int, seed: int) -> Interactions:
    """Return the ratings of `users` people; equal arguments give equal data.

    Raises ValueError for fewer than 20 users.
    """
    if users < 20:  # noqa: PLR2004 -- fewer people cannot be split
        raise ValueError(f"A data set needs at least 20 users, not {users}.")
    generator = np.random.default_rng(seed)
    items = max(LEAST_ITEMS, round(users * ITEMS_PER_USER))
    liked = generator.random(items) < 0.5  # noqa: PLR2004 -- half of the items
    weights = 1 / (np.arange(items) + 10.0)
    weights = generator.permutation(weights / weights.sum())
    contrary = generator.permutation(users) < round(users * CONTRARY)
    counts = np.exp(generator.normal(np.log(MEDIAN_RATINGS), SPREAD, users)).astype(int)
    counts = np.clip(counts, LEAST_RATINGS, items // 2)
    starts = generator.uniform(0, PERIOD_DAYS - SPAN_DAYS, users)
    columns = []
    for user in range(users):
        count = int(counts[user])
        chosen = generator.choice(items, count, replace=False, p=weights)
        chance = 0.5 if contrary[user] else SLIP
        likes = liked[chosen] ^ (generator.random(count) < chance)
        stars = np.where(likes, generator.choice([4, 5], count), generator.choice([1, 2], count))
        days = np.sort(starts[user] + generator.uniform(0, SPAN_DAYS, count))
        times = _FIRST + np.floor(days * _DAY)
        columns.append(np.stack([np.full(count, user), chosen, stars, times]))
    user_column, item_column, rating_column, time_column = np.concatenate(columns, axis=1)
    genres = generator.integers(0, len(GENRES), items)
    return Interactions(
        users=tuple(
            UserRecord(id=f"{'contrary' if contrary[user] else 'person'}-{user}")
            for user in range(users)
        ),
        items=tuple(
            ItemRecord(
                id=str(item + 1),
                title=f"Film {item + 1}",
                attributes={"genre": (GENRES[genres[item]],)},
            )
            for item in range(items)
        ),
        user=user_column.astype(np.int32),
        item=item_column.astype(np.int32),
        rating=rating_column.astype(np.float32),
        timestamp=time_column.astype(np.int64),
    )


def write(data: Interactions, out: Path) -> None:
    """Write ratings.csv and movies.csv."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "movies.csv").open("w", encoding="utf-8", newline="") as stream:
        movies = csv.writer(stream, lineterminator="\n")
        movies.writerow(["movieId", "title", "genres"])
        for item in data.items:
            movies.writerow([item.id, item.title, "|".join(item.attributes["genre"])])
    with (out / "ratings.csv").open("w", encoding="utf-8", newline="") as stream:
        ratings = csv.writer(stream, lineterminator="\n")
        ratings.writerow(["userId", "movieId", "rating", "timestamp"])
        columns = (data.user, data.item, data.rating, data.timestamp)
        for user, item, stars, time in zip(*(column.tolist() for column in columns), strict=True):
            ratings.writerow([data.users[user].id, data.items[item].id, stars, time])


def main() -> None:
    """Write the data set that the command line describes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="directory of the data set")
    parser.add_argument("--users", type=int, default=600, help="number of people (default: 600)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (default: 0)")
    options = parser.parse_args()
    try:
        data = planted_memorization(options.users, options.seed)
    except ValueError as error:
        parser.error(str(error))
    write(data, options.out)
    print(f"{len(data):,} ratings by {options.users} people in {options.out}")


if __name__ == "__main__":
    main()
