"""What is forgotten, in which batches, and how the rows are split. Knows indices; trains nothing.

| protocol       | what is forgotten                                                             |
|----------------|-------------------------------------------------------------------------------|
| `paper`        | 20 % of the users with training rows, at once                                 |
| `one-percent`  | 1 % of them                                                                   |
| `single-user`  | one of the middle fifth by training rows                                      |
| `sequential`   | the same 20 % as `paper`'s, in 20 batches, each from the release before       |
| `interactions` | 1 % of the single (user, item) ratings that are candidates of training rows   |
| `items`        | 1 % of the items that are candidates of training rows                         |

The last two are small because one rating is in up to eleven rows: its own, and the next ten that
have it in their history. On ml-latest-small 1 % of the ratings are in about 9 % of the rows.

The split is the paper's, 60/20/20 by time, with the bounds of the whole data set. A forgotten item
is gone from every part, so rows about it are in no test split either, and the row of its slot goes
back to its initial value. All methods are measured on the rows of one and the same `batch`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.unlearning.errors import BenchmarkInputError
from models.data.forget_split import ForgetIndices, split_for_forgetting
from models.data.samples import build_samples
from models.data.splits import MINIMUM_SPLIT, TimeSplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from models.data.forget_split import ForgetSplit
    from models.data.interactions import Interactions
    from models.data.samples import Samples

    Draw = Callable[[Samples, np.random.Generator], tuple[ForgetIndices, ...]]

#: How many batches come one after the other under `sequential`.
BATCHES: Final = 20
SEQUENTIAL: Final = "sequential"


class ProtocolError(BenchmarkInputError):
    """This data set and protocol leave nothing to forget, or nothing to keep."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A data set with the batches that are to be forgotten, in order."""

    data: Interactions
    bounds: TimeSplit
    batches: tuple[ForgetIndices, ...]

    @cached_property
    def whole(self) -> ForgetSplit:
        """The data as the first release sees it."""
        return split_for_forgetting(self.data, ForgetIndices(), frozenset(), self.bounds)

    @cached_property
    def batch(self) -> ForgetSplit:
        """The data less everything that is forgotten: what every method is measured on."""
        return split_for_forgetting(self.data, _together(self.batches), frozenset(), self.bounds)

    def steps(self) -> Iterator[ForgetSplit]:
        """Yield what each job of a chain sees: rows of earlier batches are deleted by then."""
        if len(self.batches) == 1:
            yield self.batch
            return
        left = self.data
        for batch in self.batches:
            step = split_for_forgetting(left, batch, frozenset(), self.bounds)
            yield step
            left = step.retained


def _share(count: int, share: float) -> int:
    return max(1, round(count * share))


def _users(share: float) -> Draw:
    def draw(train: Samples, generator: np.random.Generator) -> tuple[ForgetIndices, ...]:
        users = np.unique(train.user)
        chosen = generator.choice(users, _share(len(users), share), replace=False)
        return (ForgetIndices(users=frozenset(chosen.tolist())),)

    return draw


def _median_user(train: Samples, generator: np.random.Generator) -> tuple[ForgetIndices, ...]:
    """Draw one user of the middle fifth by training rows: neither a glimpse nor a life's work."""
    users, rows = np.unique(train.user, return_counts=True)
    ranked = users[np.argsort(rows, kind="stable")]
    middle = ranked[int(len(ranked) * 0.4) : max(int(len(ranked) * 0.6), 1)]
    chosen = generator.choice(middle if len(middle) else ranked, 1)
    return (ForgetIndices(users=frozenset(chosen.tolist())),)


def _one_after_another(train: Samples, generator: np.random.Generator) -> tuple[ForgetIndices, ...]:
    """Draw the paper's users, in as many batches as there are users for."""
    (all_at_once,) = _users(0.2)(train, generator)
    users = generator.permutation(sorted(all_at_once.users))
    return tuple(
        ForgetIndices(users=frozenset(part.tolist()))
        for part in np.array_split(users, min(BATCHES, len(users)))
    )


def _interactions(train: Samples, generator: np.random.Generator) -> tuple[ForgetIndices, ...]:
    chosen = generator.choice(len(train), _share(len(train), 0.01), replace=False)
    pairs = zip(train.user[chosen].tolist(), train.candidate[chosen].tolist(), strict=True)
    return (ForgetIndices(pairs=frozenset(pairs)),)


def _items(train: Samples, generator: np.random.Generator) -> tuple[ForgetIndices, ...]:
    items = np.unique(train.candidate)
    chosen = generator.choice(items, _share(len(items), 0.01), replace=False)
    return (ForgetIndices(items=frozenset(chosen.tolist())),)


PROTOCOLS: Final[Mapping[str, Draw]] = {
    "paper": _users(0.2),
    "one-percent": _users(0.01),
    "single-user": _median_user,
    SEQUENTIAL: _one_after_another,
    "interactions": _interactions,
    "items": _items,
}


def apply(data: Interactions, protocol: str, forget_seed: int) -> Case:
    """Draw what is forgotten of the data split 60/20/20 by time.

    Raises ProtocolError for an unknown protocol or where a side would be left empty,
    TooSmallToSplitError where the data is too small.
    """
    if protocol not in PROTOCOLS:
        known = ", ".join(sorted(PROTOCOLS))
        raise ProtocolError(f"There is no protocol {protocol!r}. Known: {known}.")
    bounds = TimeSplit.by_shares(build_samples(data), train=0.6, valid=0.2)
    train = split_for_forgetting(data, ForgetIndices(), frozenset(), bounds).parts.train
    batches = PROTOCOLS[protocol](train, np.random.default_rng(forget_seed))
    case = Case(data=data, bounds=bounds, batches=batches)
    _check(case, protocol)
    return case


def _together(batches: tuple[ForgetIndices, ...]) -> ForgetIndices:
    return ForgetIndices(
        users=frozenset[int]().union(*(batch.users for batch in batches)),
        items=frozenset[int]().union(*(batch.items for batch in batches)),
        pairs=frozenset[tuple[int, int]]().union(*(batch.pairs for batch in batches)),
    )


def _check(case: Case, protocol: str) -> None:
    """Raise ProtocolError where there is nothing to forget, to keep, or to measure on."""
    parts = case.batch.parts
    more = "Use a data set with more people, or another --protocol."
    if not len(case.batch.forget):
        raise ProtocolError(f"Protocol {protocol} finds nothing to forget. {more}")
    if len(parts.train) < MINIMUM_SPLIT:
        raise ProtocolError(
            f"Protocol {protocol} would forget everybody: {len(parts.train)} training rows would "
            f"be left. {more}"
        )
    if len(parts.test) < MINIMUM_SPLIT:
        raise ProtocolError(
            f"Protocol {protocol} would leave {len(parts.test)} rows to test on. {more}"
        )
    for labels in (case.whole.parts.train.label, parts.train.label, parts.test.label):
        if len(np.unique(labels)) == 1:
            raise ProtocolError(
                "One side of the split has no likes or no dislikes, so nothing could be measured. "
                "Use a data set with more people and ratings of both kinds."
            )


def forgotten_by(case: Case) -> tuple[NDArray[np.int64], ...]:
    """Return, per batch, which rows of `case.batch.forget` are forgotten once it has been."""
    if len(case.batches) == 1:
        return (np.arange(len(case.batch.forget)),)
    gone: set[int] = set()
    found = []
    for batch in case.batches:
        gone |= batch.users
        found.append(np.flatnonzero(np.isin(case.batch.forget.user, sorted(gone))))
    return tuple(found)
