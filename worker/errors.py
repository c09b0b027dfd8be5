"""The errors that end or interrupt a job in the worker. Each docstring is the error's message."""

from __future__ import annotations

from typing import Final

from app.domain.errors import (
    LetheError,
    UnknownInteractionError,
    UnknownItemError,
)

#: Errors whose messages quote ids of users or items.
_MAY_QUOTE_DATA: Final = (
    UnknownInteractionError,
    UnknownItemError,
)


def storable_message(error: Exception) -> str:
    """Return the text of an error for a job's row, which outlives the persons' data.

    Messages of other libraries and of the errors above may quote personal data, so only the name of
    such an error is stored; its place in the code is in the log.
    """
    if isinstance(error, LetheError) and not isinstance(error, _MAY_QUOTE_DATA):
        return str(error)
    return type(error).__name__


class WorkerStoppedError(LetheError):
    """This worker was asked to stop. The job is given back, and another worker continues it."""

    code = "worker-stopped"


class AuditFailedError(LetheError):
    """The exactly retrained weights failed their audit. The old release keeps serving."""

    code = "audit-failed"


class RenewalQualityError(LetheError):
    """The renewed weights were rejected: {reason}.

    The live release keeps serving, and the next renewal trains with another seed.
    """

    code = "renewal-quality"


class TrainingDivergedError(LetheError):
    """The training diverged. Training with another seed may succeed."""

    code = "training-diverged"


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
