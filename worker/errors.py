"""What ends a job early, other than a lost lease."""

from __future__ import annotations

from app.domain.errors import LetheError


class WorkerStoppedError(LetheError):
    """This worker was asked to stop; the job is given back and continues elsewhere."""

    code = "worker-stopped"


class AuditFailedError(LetheError):
    """Even the exactly retrained weights failed their audit; the old release keeps serving."""

    code = "audit-failed"


class UnlearningFailedError(LetheError):
    """Unlearning diverged before there was anything to audit; something stronger must follow."""

    code = "unlearning-failed"


class RollOutError(LetheError):
    """The release {release_id} was not rolled out: {reason}."""

    code = "roll-out-failed"


class ReleaseMissingError(LetheError):
    """The release {release_id} has no row or no artefact where its row says."""

    code = "release-missing"


class ReleaseUnusableError(LetheError):
    """A release cannot be loaded: {reason}."""

    code = "release-unusable"
