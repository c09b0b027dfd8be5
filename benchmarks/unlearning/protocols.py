"""Who is forgotten, and how the rows are split, per protocol. Knows indices; trains nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from models.preparation import ForgetIndices, prepare
from models.samples import build_samples
from models.splits import TimeSplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from models.datasets.interactions import Interactions
    from models.preparation import Prepared


class ProtocolError(ValueError):
    """This data set and protocol leave nothing to forget, or nothing to keep."""


def _share(share: float) -> Callable[[NDArray[np.int32], np.random.Generator], NDArray[np.int32]]:
    def draw(train_user: NDArray[np.int32], generator: np.random.Generator) -> NDArray[np.int32]:
        users = np.unique(train_user)
        return generator.choice(users, max(1, round(len(users) * share)), replace=False)

    return draw


def _median_user(
    train_user: NDArray[np.int32], generator: np.random.Generator
) -> NDArray[np.int32]:
    """Draw one user of the middle fifth by training rows: neither a glimpse nor a life's work."""
    users, rows = np.unique(train_user, return_counts=True)
    ranked = users[np.argsort(rows, kind="stable")]
    middle = ranked[int(len(ranked) * 0.4) : max(int(len(ranked) * 0.6), 1)]
    return generator.choice(middle if len(middle) else ranked, 1)


PROTOCOLS: Final[
    Mapping[str, Callable[[NDArray[np.int32], np.random.Generator], NDArray[np.int32]]]
] = {"paper": _share(0.2), "one-percent": _share(0.01), "single-user": _median_user}


def apply(data: Interactions, protocol: str, forget_seed: int) -> tuple[Prepared, Prepared]:
    """Return the data split 60/20/20 by time: as the original sees it, and less who is forgotten.

    Raises ProtocolError for an unknown protocol or where nobody would be left on one side,
    TooSmallToSplitError where the data is too small.
    """
    if protocol not in PROTOCOLS:
        raise ProtocolError(f"no protocol {protocol!r}; there are: {', '.join(sorted(PROTOCOLS))}")
    bounds = TimeSplit.by_shares(build_samples(data), train=0.6, valid=0.2)
    whole = prepare(data, ForgetIndices(), frozenset(), bounds)
    train_user = whole.parts.train.user
    chosen = PROTOCOLS[protocol](train_user, np.random.default_rng(forget_seed))
    if len(chosen) >= len(np.unique(train_user)):
        raise ProtocolError(f"protocol {protocol} would forget everybody: import more people")
    forget = ForgetIndices(users=frozenset(chosen.tolist()))
    return whole, prepare(data, forget, frozenset(), bounds)
