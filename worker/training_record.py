"""Decide by the record of training which rows of a snapshot the weights of a release know.

Whether weights know a row is never inferred from settings or timestamps. The exact training at the
root of a lineage stores the data version of its snapshot, and the keyed hashes of what it left out;
its successors inherit both. Each row has the versions of its first and its last write.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from models.data.forget_split import ForgetIndices

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from models.data.forget_split import ForgetSplit
    from models.data.interactions import Interactions
    from worker.learner import DataSnapshot, ForgetSet


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """The data version of a lineage's exact training, and the keyed hashes that it left out.

    `reduced` has the keyed hashes of users who had training samples, until fast unlearning of some
    of their rows. The rows that are left make no sample, although the training saw them.
    `is_self_contained`: the training made every choice, such as its time bounds, on its snapshot
    alone. Trainings from before this entry may have kept choices of older releases.
    """

    version: int
    excluded: frozenset[str]
    reduced: frozenset[str] = frozenset()
    is_self_contained: bool = False

    @classmethod
    def of(cls, snapshot: DataSnapshot) -> Self:
        """Return the record of an exact training on this snapshot."""
        return cls(version=snapshot.version, excluded=snapshot.excluded, is_self_contained=True)

    @classmethod
    def from_manifest(cls, extra: Mapping[str, Any]) -> Self | None:
        """Return the record in a manifest; None for a release from before the record."""
        if "data_version" not in extra:
            return None
        return cls(
            version=extra["data_version"],
            excluded=frozenset(extra["excluded"]),
            reduced=frozenset(extra.get("reduced", ())),
            is_self_contained=extra.get("self_contained", False),
        )

    def manifest(self) -> dict[str, Any]:
        """Return JSON values."""
        values = {"data_version": self.version, "excluded": sorted(self.excluded)}
        if self.is_self_contained:
            values |= {"self_contained": True}
        return {**values, "reduced": sorted(self.reduced)} if self.reduced else values

    def after_unlearning(self, snapshot: DataSnapshot, split: ForgetSplit) -> Self:
        """Return the record of the successor that fast unlearning of this split makes."""
        left = np.setdiff1d(split.forget.user, split.parts.train.user)
        left = np.intersect1d(left, split.retained.user)
        if snapshot.pseudonyms is None or not len(left):
            return self
        ids = (snapshot.data.users[user].id for user in left.tolist())
        return replace(self, reduced=self.reduced.union(map(snapshot.pseudonyms.user, ids)))

    def known_rows(self, snapshot: DataSnapshot) -> NDArray[np.bool_]:
        """Return [N] bool: whether the training saw a row with its present value."""
        return self._rows(snapshot)[0]

    def changed_rows(self, snapshot: DataSnapshot) -> NDArray[np.bool_]:
        """Return [N] bool: whether the training may have seen a row with another value."""
        return self._rows(snapshot)[1]

    def count_rows(
        self, snapshot: DataSnapshot, subjects: Sequence[ForgetIndices]
    ) -> list[int | None]:
        """Return for each subject the number of its rows that the training's snapshot contained.

        All rows of the snapshot count, because those that trained nothing may have chosen time
        bounds, a checkpoint or the calibration. An item of the catalog counts as a row, because the
        vocabulary has its text. None: the record cannot tell.
        """
        if self.version > snapshot.version or not self.is_self_contained:
            return [None] * len(subjects)
        known, changed = self._rows(snapshot)
        may_be_known = known | changed
        return [
            int((may_be_known & subject.rows(snapshot.data)).sum()) + len(subject.items)
            for subject in subjects
        ]

    def are_unknown(self, snapshot: DataSnapshot, subjects: Sequence[ForgetIndices]) -> list[bool]:
        """Return for each subject whether the training may have seen samples that are unknown now.

        These are all samples of a user of whom the subject has a row, if any row of that user has
        changed: the old row was in an unknown place of the user's history. The samples are also
        unknown if rows of the user are left out for a later batch, or if an earlier batch left too
        few rows for a sample. If the database is older than the training, everything is unknown.
        """
        if self.version > snapshot.version:
            return [True] * len(subjects)
        known, changed = self._rows(snapshot)
        users = snapshot.data.user
        changed |= known & self._are_partial(snapshot)[users]
        # No row of a holdout user trains a model or selects its state.
        is_holdout = np.array([user.id in snapshot.holdout for user in snapshot.data.users], bool)
        changed &= ~is_holdout[users]
        return [
            bool(
                np.isin(
                    users[changed], users[(known | changed) & subject.rows(snapshot.data)]
                ).any()
            )
            for subject in subjects
        ]

    def _are_partial(self, snapshot: DataSnapshot) -> NDArray[np.bool_]:
        """Return [U] bool: whether the training saw samples that the user's rows do not make."""
        pseudonyms = snapshot.pseudonyms
        return np.array(
            [
                user.id in snapshot.incomplete
                or (
                    bool(self.reduced)
                    and pseudonyms is not None
                    and pseudonyms.user(user.id) in self.reduced
                )
                for user in snapshot.data.users
            ],
            bool,
        )

    def _rows(self, snapshot: DataSnapshot) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return [N] bool twice: the rows that the training saw, and those it may have seen.

        The training saw the former with their present values, and the latter with unknown values,
        because old values of replaced ratings are not stored.
        """
        first, last = snapshot.first_versions, snapshot.last_versions
        may_be_known = (first <= self.version) & ~self._excluded_rows(snapshot)
        # A negative version is unknown: a process of an earlier version wrote the row.
        is_unchanged = (first >= 0) & (last >= 0) & (last <= self.version)
        return may_be_known & is_unchanged, may_be_known & ~is_unchanged

    def _excluded_rows(self, snapshot: DataSnapshot) -> NDArray[np.bool_]:
        """Return [N] bool: whether the training left a row out because of a deletion."""
        data, pseudonyms = snapshot.data, snapshot.pseudonyms
        if not self.excluded or pseudonyms is None:
            return np.zeros(len(data), dtype=bool)
        users = [pseudonyms.user(user.id) in self.excluded for user in data.users]
        items = [pseudonyms.item(item.id) in self.excluded for item in data.items]
        excluded: NDArray[np.bool_] = np.array(users, bool)[data.user]
        excluded |= np.array(items, bool)[data.item]
        # Hashing all pairs would take long. A pair that was suppressed is still suppressed, hence
        # of this batch, or its suppression was lifted, which raised the version of its last write.
        (batch,) = forget_indices(data, [snapshot.forget])
        may_be_excluded = (snapshot.last_versions > self.version) | (snapshot.last_versions < 0)
        for row in np.flatnonzero((may_be_excluded | batch.rows(data)) & ~excluded).tolist():
            user, item = data.users[data.user[row]].id, data.items[data.item[row]].id
            excluded[row] = pseudonyms.interaction(user, item) in self.excluded
        return excluded


def forget_indices(data: Interactions, forget_sets: Iterable[ForgetSet]) -> list[ForgetIndices]:
    """Turn ids into indices; ids without a row are left out."""
    users = {user.id: index for index, user in enumerate(data.users)}
    items = {item.id: index for index, item in enumerate(data.items)}
    return [
        ForgetIndices(
            users=frozenset(users[user] for user in forget.users if user in users),
            items=frozenset(items[item] for item in forget.items if item in items),
            pairs=frozenset(
                (users[user], items[item])
                for user, item in forget.pairs
                if user in users and item in items
            ),
        )
        for forget in forget_sets
    ]


def are_unknown(
    snapshot: DataSnapshot, record: TrainingRecord | None, forget_sets: Iterable[ForgetSet]
) -> list[bool]:
    """Return for each subject whether the record cannot tell what the weights know of the subject.

    Then only exact retraining removes the subject. A release from before the record counts as
    knowing every row.
    """
    subjects = forget_indices(snapshot.data, forget_sets)
    if record is None:
        return [True] * len(subjects)
    return record.are_unknown(snapshot, subjects)


def count_known_rows(
    snapshot: DataSnapshot, record: TrainingRecord | None
) -> dict[str, int | None]:
    """Return for each request of the batch the number of its rows in the training's snapshot.

    None: the record cannot tell.
    """
    if record is None:
        return dict.fromkeys(snapshot.requests)
    subjects = forget_indices(snapshot.data, snapshot.requests.values())
    return dict(zip(snapshot.requests, record.count_rows(snapshot, subjects), strict=True))
