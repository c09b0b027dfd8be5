"""Every error that a caller can meet. The docstring is the message; there is no HTTP here."""

from __future__ import annotations

from inspect import cleandoc
from typing import Any


class LetheError(Exception):
    """Something went wrong in Lethe."""

    #: Stable name of the problem; the API turns it into the problem document's `type`.
    code = "internal"

    def __init__(self, detail: str | None = None, **context: Any) -> None:
        """Use `detail` as the message where given, else the docstring filled in with `context`."""
        self.context = context
        template = cleandoc(type(self).__doc__ or "")
        super().__init__(detail if detail is not None else template.format(**context))


class NotFoundError(LetheError):
    """What was asked for does not exist."""

    code = "not-found"


class UnknownUserError(NotFoundError):
    """No data is held about this user. Check the id, or post interactions for the user first."""

    code = "unknown-user"


class UnknownItemError(NotFoundError):
    """The item {item_id} is not in the catalogue. Import it or post its attributes first."""

    code = "unknown-item"


class UnknownInteractionError(NotFoundError):
    """This user has no interaction with the item(s) {item_ids}, so there is nothing to forget."""

    code = "unknown-interaction"


class UnknownRequestError(NotFoundError):
    """There is no deletion request with the id {request_id}."""

    code = "unknown-request"


class UnknownJobError(NotFoundError):
    """There is no job with the id {job_id}."""

    code = "unknown-job"


class CertificateNotReadyError(NotFoundError):
    """The certificate exists once the request is completed; its status is {status}."""

    code = "certificate-not-ready"


class GoneError(LetheError):
    """This user has asked to be forgotten; nothing is recommended to or from them any more."""

    code = "user-forgotten"


class ConflictError(LetheError):
    """The request is in conflict with the present state."""

    code = "conflict"


class NotCancellableError(ConflictError):
    """A deletion can be cancelled only while it is scheduled; this one is {status}."""

    code = "not-cancellable"


class IllegalTransitionError(ConflictError):
    """A {kind} cannot go from {old} to {new}."""

    code = "illegal-transition"


class ForgottenPersonError(ConflictError):
    """Data was refused for ids that have been forgotten: {ids}. Record a new consent first."""

    code = "forgotten"


class IdempotencyConflictError(ConflictError):
    """This Idempotency-Key was used before with another request. Use a new key."""

    code = "idempotency-conflict"


class JobRunningError(ConflictError):
    """Another job ({job_id}) is at work on this model. Wait until it ends and try again."""

    code = "job-running"


class StaleDataError(ConflictError):
    """A deletion completed after the data of job {job_id} was frozen; it may not publish."""

    code = "stale-data"


class ReleaseExistsError(ConflictError):
    """The release {release_id} has been served before; the same weights may not come back."""

    code = "release-exists"


class InvalidCertificateError(LetheError):
    """The certificate is not valid: {reason}."""

    code = "invalid-certificate"


class KeyMismatchError(LetheError):
    """The hash key is not the one this database was made with, so it would forget its tombstones.

    Restore the key file or set LETHE_HASH_KEY to the former value.
    """

    code = "key-mismatch"


class InvalidInputError(LetheError):
    """The input is not valid."""

    code = "invalid-input"


class UnauthorizedError(LetheError):
    """A valid API key is needed: send it as `Authorization: Bearer KEY`."""

    code = "unauthorised"


class UnavailableError(LetheError):
    """Lethe cannot answer at the moment. Try again shortly."""

    code = "unavailable"


class OverloadedError(UnavailableError):
    """More is asked of this replica than it can answer in time. Try again in {retry_after} s."""

    code = "overloaded"


class NoReleaseError(UnavailableError):
    """No release is being served yet. Import data and run `lethe train` first."""

    code = "no-release"


class DatabaseUnavailableError(UnavailableError):
    """The database cannot be reached, so suppression cannot be checked. Try again shortly."""

    code = "database-unavailable"


class ReplicaNotReadyError(UnavailableError):
    """This replica is not on the current release or has lost its lease. Try again shortly."""

    code = "replica-not-ready"


class EngineError(UnavailableError):
    """The engine that computes scores does not answer as it should. Try again shortly."""

    code = "engine"


class ReleaseLostError(EngineError):
    """The engine that computes scores no longer holds this release. Try again shortly."""


class LeaseLostError(LetheError):
    """The lease of job {job_id} at epoch {epoch} is lost; another worker may hold it. Stop here."""

    code = "lease-lost"


class NothingToTrainError(LetheError):
    """No interactions are held. Run `lethe import PATH` first."""

    code = "nothing-to-train"
