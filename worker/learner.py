"""What the pipeline needs of the machine learning, and nothing more.

`worker.trainer` implements this with `models`. The pipeline itself never sees a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from app.domain.requests import Outcome
    from models.data.interactions import Interactions


#: The `method` of jobs that always retrain from scratch.
EXACT_METHOD: Final = "retrain"
#: What a release is called whose data was too little to train on after a deletion.
UNTRAINED_METHOD: Final = "untrained"


class Report(Protocol):
    """Called with a fraction in 0…1; raises to interrupt (a lost lease, a stop)."""

    def __call__(self, fraction: float) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetSet:
    """What one batch forgets, in plain ids."""

    users: frozenset[str] = frozenset()
    pairs: frozenset[tuple[str, str]] = frozenset()  # (user id, item id)
    items: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSnapshot:
    """All that a job may look at, read in one transaction at `version`.

    `data` holds the rows to forget as well; rows of people who are suppressed but not in this
    batch are left out altogether. `cohort` are the ids of users that are never trained on.
    """

    version: int
    data: Interactions
    forget: ForgetSet
    holdout: frozenset[str]
    #: Goes into the manifests, so that every job's release has a name of its own.
    job_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A directory of weights with its manifest. `digest` names weights and manifest (SHA-256)."""

    directory: Path
    digest: str
    method: str
    #: Nothing in it ever depended on the batch, so that it is exempt from gates relative to its
    #: parent, as an exact retraining is.
    exact: bool = False
    #: False where it is already the release that it will be served as.
    needs_merge: bool = True
    metrics: dict[str, Any] = field(default_factory=dict)
    #: Digests of what was made on the way and must be shredded: file name → SHA-256.
    intermediates: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The audit's word on an artefact, with every figure and interval behind it."""

    outcome: Outcome
    figures: dict[str, Any]


class Learner(Protocol):
    """Training, unlearning, folding and auditing. Every directory given is the caller's to own."""

    def train(
        self, snapshot: DataSnapshot, into: Path, backbone: str | Path, report: Report
    ) -> Artifact:
        """Train from scratch on the retained rows and save the release's weights in `into`.

        `backbone` is what a person names, or the directory of a release to train another one like.
        Raises InvalidInputError where it is not to be had.
        """

    def unlearn(
        self, snapshot: DataSnapshot, parent: Path, into: Path, *, strength: int, report: Report
    ) -> Artifact:
        """Forget the batch; save the new adapter, or what else there is, in `into`.

        The artefact says whether that is still to be folded.

        `strength` 0 is the first try, 1 the stronger one. Raises UnlearningFailedError where
        the training diverges: it would at every repetition, so the caller escalates.
        """

    def merge(self, parent: Path, adapter: Path, into: Path) -> Artifact:
        """Fold the adapter into its parent's weights and save the release's weights in `into`."""

    def carry_over(self, parent: Path, into: Path, *, job_id: str) -> Artifact:
        """Save the parent's weights in `into` under a new manifest that names this job.

        For a batch that no weight ever saw: a release without it, and nothing pretended.
        """

    def has_training_rows(self, snapshot: DataSnapshot, parent: Path) -> bool:
        """Say whether the batch has any row that the parent's weights know.

        Those are what it was trained on, and validation rows where its answers are weighed by them.
        """

    def audit(
        self, snapshot: DataSnapshot, parent: Path, candidate: Path, *, exact: bool, report: Report
    ) -> Verdict:
        """Compare the candidate's weights with the parent's; `exact` skips the relative gates."""
