"""Split samples by time into training, validation and test, and set holdout users apart.

The caller chooses the holdout users, because that choice depends on a secret key.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from models.data.samples import Samples

#: The smallest part that is large enough to select a checkpoint or audit a model.
MINIMUM_SPLIT: Final = 20


class TooSmallToSplitError(ValueError):
    """There are too few samples: a user's first sample is the sixth rating. Import more ratings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSplit:
    """The bounds between training, validation and test, and the share of rows used of each part.

    Training rows are before `valid_from`, test rows from `test_from` on (Unix seconds). Whether a
    row is used depends on that row alone, so removing a user never changes the other rows. The
    release's manifest stores the bounds, so a row stays in its part in all later releases.
    """

    valid_from: int
    test_from: int
    train_share: float = 1.0
    valid_share: float = 1.0
    test_share: float = 1.0
    holdout_share: float = 1.0

    @classmethod
    def by_shares(cls, samples: Samples, *, train: float, valid: float) -> TimeSplit:
        """Choose bounds that put these shares of the samples into training and validation.

        Raises TooSmallToSplitError if a part would have fewer than MINIMUM_SPLIT samples.
        """
        ordered = np.sort(samples.timestamp)
        if len(ordered) < MINIMUM_SPLIT / min(train, valid, 1 - train - valid):
            raise TooSmallToSplitError(TooSmallToSplitError.__doc__)
        first = int(ordered[int(len(ordered) * train)])
        second = int(ordered[int(len(ordered) * (train + valid))])
        bounds = cls(valid_from=first, test_from=max(second, first + 1))
        # Samples with equal timestamps stay together, which can leave another part too small.
        ends = np.searchsorted(ordered, [bounds.valid_from, bounds.test_from])
        if min(ends[0], ends[1] - ends[0], len(ordered) - ends[1]) < MINIMUM_SPLIT:
            raise TooSmallToSplitError(TooSmallToSplitError.__doc__)
        return bounds

    def limited(self, parts: Parts, limits: RowLimits) -> TimeSplit:
        """Return the same bounds with shares that reduce `parts` to about `limits` rows."""
        return replace(
            self,
            train_share=_share(limits.train, len(parts.train)),
            valid_share=_share(limits.evaluation, len(parts.valid)),
            test_share=_share(limits.evaluation, len(parts.test)),
            holdout_share=_share(limits.evaluation, len(parts.holdout)),
        )

    def manifest(self) -> dict[str, Any]:
        """Return JSON values; the manifest stores the holdout share as "cohort_share"."""
        values = asdict(self)
        values["cohort_share"] = values.pop("holdout_share")
        return values

    @classmethod
    def from_manifest(cls, values: Mapping[str, Any]) -> TimeSplit:
        """Return the bounds from the values of `manifest()`."""
        fields = dict(values)
        fields["holdout_share"] = fields.pop("cohort_share", 1.0)
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLimits:
    """The approximate number of training rows and of rows in each other part; None means all.

    Limits keep training and evaluation of large language models affordable.
    """

    train: int | None = None
    evaluation: int | None = None

    def manifest(self) -> dict[str, Any]:
        """Return JSON values; the manifest stores the evaluation limit as "look"."""
        return {"train": self.train, "look": self.evaluation}

    @classmethod
    def from_manifest(cls, values: Mapping[str, Any]) -> RowLimits:
        """Return the limits from the values of `manifest()`."""
        return cls(train=values.get("train"), evaluation=values.get("look"))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parts:
    """Disjoint parts; `holdout` has the holdout users' samples of the training period."""

    train: Samples
    valid: Samples
    test: Samples
    holdout: Samples


def split_by_time(samples: Samples, bounds: TimeSplit, holdout_users: Collection[int]) -> Parts:
    """Split samples by time; `holdout_users` neither train a model nor select its state."""
    early: NDArray[np.bool_] = samples.timestamp < bounds.valid_from
    late: NDArray[np.bool_] = samples.timestamp >= bounds.test_from
    of_holdout = np.isin(samples.user, np.fromiter(holdout_users, dtype=np.int32))
    return Parts(
        train=samples.take(early & ~of_holdout & _is_used(samples, bounds.train_share)),
        # Rows that select a checkpoint count as used, and the rows of holdout users are not used.
        valid=samples.take(~early & ~late & ~of_holdout & _is_used(samples, bounds.valid_share)),
        test=samples.take(late & _is_used(samples, bounds.test_share)),
        holdout=samples.take(early & of_holdout & _is_used(samples, bounds.holdout_share)),
    )


def _share(limit: int | None, count: int) -> float:
    return 1.0 if limit is None or count <= limit else limit / count


def _is_used(samples: Samples, share: float) -> NDArray[np.bool_]:
    """Return [M] bool: about `share` of the samples, by a hash of time and item (splitmix64)."""
    if share >= 1:
        return np.ones(len(samples), dtype=bool)
    mixed = samples.timestamp.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= samples.candidate.astype(np.uint64) * np.uint64(0xD1342543DE82EF95)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    used: NDArray[np.bool_] = mixed < np.uint64(share * 2.0**64)
    return used
