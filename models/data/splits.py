"""Who and what is trained on: splits by time, and the users that are never trained on.

Knows timestamps and user indices; the choice of the cohort's users is the caller's (it is keyed).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from models.data.samples import Samples

#: Fewer samples than this in a split cannot choose or audit anything.
MINIMUM_SPLIT: Final = 20


class TooSmallToSplitError(ValueError):
    """The data gives too few samples; a user counts from the sixth rating on. Import more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSplit:
    """Training ends before `valid_from`, validation before `test_from` (Unix seconds).

    The shares say how many rows of each part count; which ones follows from each row alone, so that
    leaving somebody out chooses no other row. All this is kept in the release's manifest: a row
    never changes sides later.
    """

    valid_from: int
    test_from: int
    train_share: float = 1.0
    valid_share: float = 1.0
    test_share: float = 1.0
    holdout_share: float = 1.0

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

    def limited(self, parts: Parts, limits: RowLimits) -> TimeSplit:
        """Return bounds whose shares leave about so many of these rows."""
        return replace(
            self,
            train_share=_share(limits.train, len(parts.train)),
            valid_share=_share(limits.evaluation, len(parts.valid)),
            test_share=_share(limits.evaluation, len(parts.test)),
            holdout_share=_share(limits.evaluation, len(parts.holdout)),
        )

    def manifest(self) -> dict[str, Any]:
        """Return the bounds as JSON values; the manifest format names holdout users a cohort."""
        values = asdict(self)
        values["cohort_share"] = values.pop("holdout_share")
        return values

    @classmethod
    def from_manifest(cls, values: Mapping[str, Any]) -> TimeSplit:
        """Rebuild the bounds from `manifest()`."""
        fields = dict(values)
        fields["holdout_share"] = fields.pop("cohort_share", 1.0)
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLimits:
    """About so many rows are trained on, and looked at in each other part; None means all.

    For models that take seconds for what the compact one does in milliseconds.
    """

    train: int | None = None
    evaluation: int | None = None

    def manifest(self) -> dict[str, Any]:
        """Return the limits as JSON values; the manifest format names evaluation rows `look`."""
        return {"train": self.train, "look": self.evaluation}

    @classmethod
    def from_manifest(cls, values: Mapping[str, Any]) -> RowLimits:
        """Rebuild the limits from `manifest()`."""
        return cls(train=values.get("train"), evaluation=values.get("look"))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parts:
    """Four disjoint parts: the cohort's rows are those of the training period."""

    train: Samples
    valid: Samples
    test: Samples
    holdout: Samples


def split(samples: Samples, bounds: TimeSplit, holdout: Collection[int]) -> Parts:
    """Split by time; rows of `cohort` users (indices) in the training period stay apart."""
    early: NDArray[np.bool_] = samples.timestamp < bounds.valid_from
    late: NDArray[np.bool_] = samples.timestamp >= bounds.test_from
    held_out = np.isin(samples.user, np.fromiter(holdout, dtype=np.int32))
    return Parts(
        train=samples.take(early & ~held_out & _drawn(samples, bounds.train_share)),
        valid=samples.take(~early & ~late & _drawn(samples, bounds.valid_share)),
        test=samples.take(late & _drawn(samples, bounds.test_share)),
        holdout=samples.take(early & held_out & _drawn(samples, bounds.holdout_share)),
    )


def _share(limit: int | None, count: int) -> float:
    return 1.0 if limit is None or count <= limit else limit / count


def _drawn(samples: Samples, share: float) -> NDArray[np.bool_]:
    """Return [M] bool: about this share of the samples, by their moment and item (splitmix64)."""
    if share >= 1:
        return np.ones(len(samples), dtype=bool)
    mixed = samples.timestamp.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= samples.candidate.astype(np.uint64) * np.uint64(0xD1342543DE82EF95)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    drawn: NDArray[np.bool_] = mixed < np.uint64(share * 2.0**64)
    return drawn
