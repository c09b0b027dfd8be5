"""Measure rankings of candidates: NDCG@k, Recall@k and exposure, per query.

A query is one user with a list of candidates. All arrays over N (query, candidate) rows are flat:
`queries` [N] int are query numbers from 0, `margins` [N] float the scores, and a bool [N] marks the
relevant or the exposed candidates. Equal scores count against the marked candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]
    Mask = NDArray[np.bool_]

TOP: Final = 10


def positions(queries: Integers, margins: Floats, marked: Mask) -> Integers:
    """Return the [N] positions within each query, from 0 for the best candidate."""
    order = np.lexsort((marked, -margins, queries))
    first = np.searchsorted(queries[order], queries[order])
    result = np.empty(len(order), np.int64)
    result[order] = np.arange(len(order)) - first
    return result


def hit_share(queries: Integers, margins: Floats, marked: Mask, top: int = TOP) -> Floats:
    """Return the [Q] shares of the marked candidates among the `top` best ones.

    The share is hits / min(top, marked candidates): Recall@k for liked items, exposure for the
    items of a forgotten person. NaN for a query without marked candidates.
    """
    count = int(queries.max()) + 1 if len(queries) else 0
    hits = marked & (positions(queries, margins, marked) < top)
    possible = np.minimum(np.bincount(queries, weights=marked, minlength=count), top)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares: Floats = np.bincount(queries, weights=hits, minlength=count) / possible
    return shares


def ndcg(queries: Integers, margins: Floats, relevant: Mask, top: int = TOP) -> Floats:
    """Return the [Q] NDCG@k with gains of 0 or 1 (Järvelin and Kekäläinen, 2002).

    The gain at position p, from 0, is divided by log2(p + 2); the ideal ranking has NDCG 1. NaN for
    a query without relevant candidates.
    """
    count = int(queries.max()) + 1 if len(queries) else 0
    discounts = 1 / np.log2(np.arange(top) + 2)
    position = positions(queries, margins, relevant)
    hits = relevant & (position < top)
    gains = np.bincount(queries[hits], weights=discounts[position[hits]], minlength=count)
    possible = np.minimum(np.bincount(queries, weights=relevant, minlength=count), top)
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])[possible.astype(np.int64)]
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Floats = gains / ideal
    return result
