"""The protocols: draw the data to forget, in batches, and split the rows.

| protocol       | data to forget                                                                |
|----------------|-------------------------------------------------------------------------------|
| `paper`        | 20 % of the users with training rows, at once                                 |
| `one-percent`  | 1 % of them                                                                   |
| `single-user`  | 20 users of the middle fifth by number of training rows, each forgotten alone |
| `sequential`   | the users of `paper` in 20 batches, each forgotten from the previous release  |
| `interactions` | 1 % of the single (user, item) ratings that are candidates of training rows   |
| `items`        | 1 % of the items that are candidates of training rows                         |

Under `single-user` every user is forgotten from the first release, by a job of its own. A forget
row is answered by the release without its user, a test row by one of the 20 releases (see
`owners`), so that all measures average over the users.

The last two are small because one rating is part of up to eleven rows: its own row, and the next
ten rows, whose history contains it. On ml-latest-small 1 % of the ratings affect about 9 % of rows.

The split is the paper's, 60/20/20 by time, with the bounds of the whole data set. A forgotten item
is removed from every part, including the test split, and its embedding row is reset to the initial
value. All methods are measured on the rows of the same `batch`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

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

#: Number of batches under `sequential`.
BATCHES: Final = 20
SEQUENTIAL: Final = "sequential"
SINGLE_USER: Final = "single-user"
#: Number of users under `single-user`, or all users of the middle fifth if there are fewer.
PEOPLE: Final = 20


class ProtocolError(BenchmarkInputError):
    """The protocol does not fit the data set: no rows to forget, to train on or to test on."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A data set with the batches to forget, in order.

    If the batches are `independent`, each batch is forgotten from the first release; otherwise each
    is forgotten from the previous release.
    """

    data: Interactions
    bounds: TimeSplit
    batches: tuple[ForgetIndices, ...]
    independent: bool = False

    @cached_property
    def whole(self) -> ForgetSplit:
        """Return the data of the first release."""
        return split_for_forgetting(self.data, ForgetIndices(), frozenset(), self.bounds)

    @cached_property
    def batch(self) -> ForgetSplit:
        """Return the data without all batches, on which every method is measured."""
        return split_for_forgetting(self.data, _union(self.batches), frozenset(), self.bounds)

    def steps(self) -> Iterator[ForgetSplit]:
        """Yield the data of each job, without the rows of earlier batches unless independent."""
        if len(self.batches) == 1:
            yield self.batch
            return
        if self.independent:
            for batch in self.batches:
                yield split_for_forgetting(self.data, batch, frozenset(), self.bounds)
            return
        remaining = self.data
        for batch in self.batches:
            step = split_for_forgetting(remaining, batch, frozenset(), self.bounds)
            yield step
            remaining = step.retained


def _share(count: int, share: float) -> int:
    return max(1, round(count * share))


def _users(share: float) -> Draw:
    def draw(train: Samples, generator: np.random.Generator) -> tuple[ForgetIndices, ...]:
        users = np.unique(train.user)
        drawn = generator.choice(users, _share(len(users), share), replace=False)
        return (ForgetIndices(users=frozenset(drawn.tolist())),)

    return draw


def _middle_users(train: Samples, generator: np.random.Generator) -> tuple[ForgetIndices, ...]:
    """Draw PEOPLE users of the middle fifth by number of training rows, one per batch."""
    users, rows = np.unique(train.user, return_counts=True)
    ranked = users[np.argsort(rows, kind="stable")]
    middle = ranked[int(len(ranked) * 0.4) : max(int(len(ranked) * 0.6), 1)]
    pool = middle if len(middle) else ranked
    drawn = generator.choice(pool, min(PEOPLE, len(pool)), replace=False)
    return tuple(ForgetIndices(users=frozenset([user])) for user in drawn.tolist())


def _sequential_users(train: Samples, generator: np.random.Generator) -> tuple[ForgetIndices, ...]:
    """Draw the users of `paper`, in BATCHES batches or one batch per user if there are fewer."""
    (all_at_once,) = _users(0.2)(train, generator)
    users = generator.permutation(sorted(all_at_once.users))
    return tuple(
        ForgetIndices(users=frozenset(part.tolist()))
        for part in np.array_split(users, min(BATCHES, len(users)))
    )


def _interactions(train: Samples, generator: np.random.Generator) -> tuple[ForgetIndices, ...]:
    drawn = generator.choice(len(train), _share(len(train), 0.01), replace=False)
    pairs = zip(train.user[drawn].tolist(), train.candidate[drawn].tolist(), strict=True)
    return (ForgetIndices(pairs=frozenset(pairs)),)


def _items(train: Samples, generator: np.random.Generator) -> tuple[ForgetIndices, ...]:
    items = np.unique(train.candidate)
    drawn = generator.choice(items, _share(len(items), 0.01), replace=False)
    return (ForgetIndices(items=frozenset(drawn.tolist())),)


PROTOCOLS: Final[Mapping[str, Draw]] = {
    "paper": _users(0.2),
    "one-percent": _users(0.01),
    SINGLE_USER: _middle_users,
    SEQUENTIAL: _sequential_users,
    "interactions": _interactions,
    "items": _items,
}


def apply_protocol(data: Interactions, protocol: str, forget_seed: int) -> Case:
    """Split the data 60/20/20 by time and draw the batches to forget.

    Raises ProtocolError for an unknown protocol or a protocol that does not fit the data, and
    TooSmallToSplitError if the data is too small to split.
    """
    if protocol not in PROTOCOLS:
        known = ", ".join(sorted(PROTOCOLS))
        raise ProtocolError(f"There is no protocol {protocol!r}. Known: {known}.")
    bounds = TimeSplit.by_shares(build_samples(data), train=0.6, valid=0.2)
    train = split_for_forgetting(data, ForgetIndices(), frozenset(), bounds).parts.train
    batches = PROTOCOLS[protocol](train, np.random.default_rng(forget_seed))
    independent = protocol == SINGLE_USER and len(batches) > 1
    case = Case(data=data, bounds=bounds, batches=batches, independent=independent)
    _check(case, protocol)
    return case


def _union(batches: tuple[ForgetIndices, ...]) -> ForgetIndices:
    return ForgetIndices(
        users=frozenset[int]().union(*(batch.users for batch in batches)),
        items=frozenset[int]().union(*(batch.items for batch in batches)),
        pairs=frozenset[tuple[int, int]]().union(*(batch.pairs for batch in batches)),
    )


def _check(case: Case, protocol: str) -> None:
    """Raise ProtocolError without rows to forget, to train on, or to measure on."""
    parts = case.batch.parts
    advice = "Use a data set with more users, or another --protocol."
    if not len(case.batch.forget):
        raise ProtocolError(f"Protocol {protocol} finds no rows to forget. {advice}")
    if len(parts.train) < MINIMUM_SPLIT:
        raise ProtocolError(
            f"Protocol {protocol} would leave {len(parts.train)} training rows. {advice}"
        )
    if len(parts.test) < MINIMUM_SPLIT:
        raise ProtocolError(
            f"Protocol {protocol} would leave {len(parts.test)} rows to test on. {advice}"
        )
    for labels in (case.whole.parts.train.label, parts.train.label, parts.test.label):
        if len(np.unique(labels)) == 1:
            raise ProtocolError(
                "A part of the split has no likes or no dislikes, so AUC is undefined. "
                "Use a data set with more users and ratings of both kinds."
            )


def forgotten_by(case: Case) -> tuple[NDArray[np.int64], ...]:
    """Return the rows of `case.batch.forget` that are forgotten after each batch."""
    if len(case.batches) == 1:
        return (np.arange(len(case.batch.forget)),)
    users: set[int] = set()
    rows_per_batch = []
    for batch in case.batches:
        users |= batch.users
        rows_per_batch.append(np.flatnonzero(np.isin(case.batch.forget.user, sorted(users))))
    return tuple(rows_per_batch)


def owners(case: Case, users: NDArray[Any]) -> NDArray[np.int64]:
    """Return the batch whose release answers the rows of [M] users, if batches are independent.

    A forgotten user is answered by the release without that user. Other users are distributed over
    the releases in order of their index.
    """
    own = {user: number for number, batch in enumerate(case.batches) for user in batch.users}
    distinct, position = np.unique(users, return_inverse=True)
    batches = [
        own.get(user, order % len(case.batches)) for order, user in enumerate(distinct.tolist())
    ]
    return np.array(batches, np.int64)[position]
