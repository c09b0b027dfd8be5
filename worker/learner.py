"""The interface between the pipeline and the machine learning.

`worker/trainer.py` implements it with `models`; tests implement it with plain files.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from app.domain.requests import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from app.services.pseudonyms import Pseudonyms
    from models.data.interactions import Interactions
    from models.runtime.progress import Progress


#: The `method` of jobs that always retrain from scratch, and of the releases that they make.
EXACT_METHOD: Final = "retrain"
#: The `method` of a release with initial weights: deletions left too few rows to train on.
UNTRAINED_METHOD: Final = "untrained"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetSet:
    """The users, (user, item) pairs and items that one batch forgets, by id."""

    users: frozenset[str] = frozenset()
    pairs: frozenset[tuple[str, str]] = frozenset()
    items: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSnapshot:
    """The data of a job, read in one transaction at the data version `version`.

    `data` includes the rows that this batch forgets. Rows that a later batch will forget are left
    out. `holdout` has the ids of the holdout users, whose rows are never trained on.
    """

    version: int
    data: Interactions
    forget: ForgetSet
    holdout: frozenset[str]
    #: Part of the manifest, so that releases of two jobs never have the same digest.
    job_id: str = ""
    #: What each request of the batch forgets, by request id; `forget` is the union.
    requests: Mapping[str, ForgetSet] = field(default_factory=dict)
    #: [N] data versions of the first and of the last write of each row of `data`; None: all 0.
    first_version: NDArray[np.int64] | None = None
    last_version: NDArray[np.int64] | None = None
    #: Keyed hashes of everything that was suppressed, the subjects of this batch included.
    excluded: frozenset[str] = frozenset()
    #: Computes the keyed hashes of users, items and pairs; None if nothing was ever excluded.
    pseudonyms: Pseudonyms | None = None
    #: The users with rows in `data` whose other rows a later batch will forget.
    incomplete: frozenset[str] = frozenset()
    #: How ratings without timestamps got their times: random or order; None: all had times.
    drawn_times: str | None = None

    @property
    def first_versions(self) -> NDArray[np.int64]:
        """[N] data versions of the first write of each row."""
        return self._versions(self.first_version)

    @property
    def last_versions(self) -> NDArray[np.int64]:
        """[N] data versions of the last write that changed a value of each row."""
        return self._versions(self.last_version)

    def take(self, rows: NDArray[np.bool_]) -> DataSnapshot:
        """Return the snapshot with the selected rows only."""
        return replace(
            self,
            data=self.data.take(rows),
            first_version=self.first_versions[rows],
            last_version=self.last_versions[rows],
        )

    def _versions(self, column: NDArray[np.int64] | None) -> NDArray[np.int64]:
        return np.zeros(len(self.data), np.int64) if column is None else column


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A directory of weights with its manifest.

    `digest` is the SHA-256 of the manifest, which includes the SHA-256 of the weights.
    """

    directory: Path
    digest: str
    method: str
    #: Whether an exact unlearning method made the weights. The audit then does not compare them
    #: with the parent. `train` leaves this False; the builder audits its result as exact anyway.
    exact: bool = False
    #: Whether `Learner.merge` must turn the artifact into a release.
    needs_merge: bool = True
    metrics: dict[str, Any] = field(default_factory=dict)
    #: Number of training rows, if the artifact starts a lineage.
    training_rows: int | None = None
    #: Aggregate figures of the losses on evaluation rows, if the artifact starts a lineage.
    evaluation: dict[str, Any] = field(default_factory=dict)
    #: File name → SHA-256 of temporary weights that must be shredded.
    intermediates: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFigures:
    """The figures of one request of a batch. Rows of two requests count for both.

    `forget` has the number of the request's forget rows (`rows`), and where there are any, their
    loss increase with its interval, the number of judged `persons` per outcome, and the `verdict`
    if the rows are those of one judged person.
    `validation_rows` counts the rows that selected the parent's checkpoint or learned weights.
    `is_unknown`: the record of training cannot tell which rows of the request the parent knows.
    `known_rows` counts the rows of the request in the snapshot of the parent's exact training,
    whatever they were used for; None: not counted.
    """

    forget: dict[str, Any] = field(default_factory=lambda: {"rows": 0})
    validation_rows: int = 0
    is_unknown: bool = False
    known_rows: int | None = None
    #: Whether the weights were kept, because no row of the batch trained them.
    is_carried_over: bool = False
    #: Number of attempts at unlearning, before the release, that failed their audit.
    failed_attempts: int = 0

    def outcome(self, of_batch: Outcome) -> Outcome:
        """Return the request's outcome, given the outcome of its batch.

        A request of one person has the outcome of that person, unless the release is exact. A
        request with rows of several persons is `passed` only if each of these persons is. A request
        without forget rows, but with validation rows, was not measured.
        """
        if not (self.forget["rows"] or self.validation_rows or self.is_unknown):
            return Outcome.NOT_APPLICABLE
        if of_batch is not Outcome.EXACT and not self.is_unknown and "verdict" in self.forget:
            return Outcome(self.forget["verdict"]["outcome"])
        if of_batch is Outcome.PASSED and not self._has_passed_persons():
            return Outcome.INCONCLUSIVE
        return of_batch

    def _has_passed_persons(self) -> bool:
        persons = self.forget.get("persons", {})
        is_complete = sum(persons.values()) == persons.get(Outcome.PASSED.value, 0) > 0
        return is_complete and not self.is_unknown

    def values(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {
            "forget": self.forget,
            "validation_rows": self.validation_rows,
            "known_rows": self.known_rows,
            "carried_over": self.is_carried_over,
            "failed_attempts": self.failed_attempts,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The outcome of an audit, with its figures and confidence intervals.

    `figures` are those of the whole batch, `by_request` those of each request, by request id.
    """

    outcome: Outcome
    figures: dict[str, Any]
    by_request: Mapping[str, RequestFigures] = field(default_factory=dict)
    #: Number of the parent's training rows that the batch forgets.
    forgotten_rows: int = 0
    #: The candidate's drift from the exact training of its lineage; `increase` is None where the
    #: drift cannot be measured. None: the candidate is an exact training.
    drift: dict[str, Any] | None = None


class Learner(Protocol):
    """Trains, unlearns, merges and audits. The caller owns every directory in the arguments."""

    def train(
        self,
        snapshot: DataSnapshot,
        into: Path,
        backbone: str | Path,
        report: Progress,
        *,
        renewal_seed: int | None = None,
    ) -> Artifact:
        """Train from scratch on the retained rows and save a release in `into`.

        `backbone` is a backbone's name, or the directory of a release whose recipe is reused.
        `renewal_seed` is added to the seed in the settings; None for a job that is no renewal. A
        renewal with too few rows gives initial weights, as a deletion does.
        Raises InvalidInputError if the backbone is not available.
        """

    def unlearn(
        self, snapshot: DataSnapshot, parent: Path, into: Path, *, strength: int, report: Progress
    ) -> Artifact:
        """Unlearn the batch and save the new adapter or weights in `into`.

        `strength` is 0 for the first attempt and 1 for a stronger one. Raises
        UnlearningFailedError if training diverges. Training is deterministic, so the caller must
        not repeat the attempt.
        """

    def merge(self, parent: Path, adapter: Path, into: Path) -> Artifact:
        """Merge the adapter into its parent's weights and save a release in `into`."""

    def carry_over(self, parent: Path, into: Path, *, job_id: str) -> Artifact:
        """Save the parent's weights in `into`, as the release of a job without training rows."""

    def must_retrain(self, snapshot: DataSnapshot, parent: Path) -> bool:
        """Return whether only exact retraining removes the batch from the parent's weights.

        Either the record of training cannot tell which rows the weights know, or rows of the batch
        selected the weights without training them.
        """

    def unmeasured_kinds(self, snapshot: DataSnapshot, parent: Path) -> tuple[str, ...]:
        """Return the kinds of the batch's training rows that fast unlearning may not help.

        The calibration of the parent's lineage does not show that fast unlearning moves answers
        about such rows toward retraining. Empty for exact methods and for methods that need no
        calibration.
        """

    def has_training_rows(self, snapshot: DataSnapshot, parent: Path) -> bool:
        """Return whether the parent's weights depend on any row of the batch.

        They depend on the training rows that the record of training lists and, in an ensemble with
        learned weights, on validation rows.
        """

    def count_known_rows(self, snapshot: DataSnapshot, parent: Path) -> Mapping[str, int | None]:
        """Return `RequestFigures.known_rows` of each request of the batch, by request id."""

    def audit(
        self,
        snapshot: DataSnapshot,
        parent: Path,
        candidate: Path,
        *,
        exact: bool,
        report: Progress,
    ) -> Verdict:
        """Compare the candidate with its parent. `exact` skips the gates that are relative.

        The figures of an exact candidate have its quality beside item means, as `quality`.
        """
