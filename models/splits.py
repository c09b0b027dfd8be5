"""Who and what is trained on: splits by time, and the users that are never trained on.

Knows timestamps and user indices; the choice of the cohort's users is the caller's (it is keyed).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from models.samples import Samples

#: Fewer samples than this in a split cannot choose or audit anything.
MINIMUM_SPLIT: Final = 20


class TooSmallToSplitError(ValueError):
    """The data gives too few samples; a user counts from the sixth rating on. Import more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSplit:
    """Training ends before `valid_from`, validation before `test_from` (Unix seconds).

    The bounds are kept in the release's manifest, so that a row never changes sides later.
    """

    valid_from: int
    test_from: int

    @classmethod
    def by_shares(cls, samples: Samples, *, train: float, valid: float) -> TimeSplit:
        """Choose the bounds so that these shares of samples, by time, train and choose.

        Raises TooSmallToSplitError where a part would hold too few samples.
        """
        ordered = np.sort(samples.timestamp)
        if len(ordered) < MINIMUM_SPLIT / min(train, valid, 1 - train - valid):
            raise TooSmallToSplitError(TooSmallToSplitError.__doc__)
        first = int(ordered[int(len(ordered) * train)])
        second = int(ordered[int(len(ordered) * (train + valid))])
        bounds = cls(valid_from=first, test_from=max(second, first + 1))
        # Many samples of one moment fall on one side together and may leave another part empty.
        ends = np.searchsorted(ordered, [bounds.valid_from, bounds.test_from])
        if min(ends[0], ends[1] - ends[0], len(ordered) - ends[1]) < MINIMUM_SPLIT:
            raise TooSmallToSplitError(TooSmallToSplitError.__doc__)
        return bounds

    def manifest(self) -> dict[str, Any]:
        """Return the bounds as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parts:
    """Four disjoint parts: the cohort's rows are those of the training period."""

    train: Samples
    valid: Samples
    test: Samples
    cohort: Samples


def split(samples: Samples, bounds: TimeSplit, cohort: Collection[int]) -> Parts:
    """Split by time; rows of `cohort` users (indices) in the training period stay apart."""
    early: NDArray[np.bool_] = samples.timestamp < bounds.valid_from
    late: NDArray[np.bool_] = samples.timestamp >= bounds.test_from
    held_out = np.isin(samples.user, np.fromiter(cohort, dtype=np.int32))
    return Parts(
        train=samples.take(early & ~held_out),
        valid=samples.take(~early & ~late),
        test=samples.take(late),
        cohort=samples.take(early & held_out),
    )
