"""The errors that end or interrupt a job in the worker. Each docstring is the error's message."""

from __future__ import annotations

from app.domain.errors import LetheError


class WorkerStoppedError(LetheError):
    """This worker was asked to stop. The job is given back, and another worker continues it."""

    code = "worker-stopped"


class AuditFailedError(LetheError):
    """The exactly retrained weights failed their audit. The old release keeps serving."""

    code = "audit-failed"


class UnlearningFailedError(LetheError):
    """Unlearning diverged or does not fit the release. A stronger method must follow."""

    code = "unlearning-failed"


class RollOutError(LetheError):
    """The release {release_id} was not rolled out: {reason}."""

    code = "rollout-failed"


class ReleaseMissingError(LetheError):
    """The release {release_id} has no row, or no artifact at the path in its row."""

    code = "release-missing"


class ReleaseUnusableError(LetheError):
    """A release cannot be loaded: {reason}."""

    code = "release-unusable"
