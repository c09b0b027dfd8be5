"""Errors for callers of the services. The docstring of a class is its message.

`app.api.problems` maps the classes to HTTP status codes.
"""

from __future__ import annotations

from inspect import cleandoc
from typing import Any


class LetheError(Exception):
    """Lethe failed with an unexpected error. See the log of the process."""

    #: Stable name of the error, from which the API builds the `type` of the problem document.
    code = "internal"

    def __init__(self, detail: str | None = None, **context: Any) -> None:
        """Use `detail` as the message, or the docstring formatted with `context`."""
        self.context = context
        template = cleandoc(type(self).__doc__ or "")
        super().__init__(detail if detail is not None else template.format(**context))


class NotFoundError(LetheError):
    """The resource does not exist."""

    code = "not-found"


class UnknownUserError(NotFoundError):
    """No data is stored for this user, and nothing was recorded about the user. Check the id."""

    code = "unknown-user"


class UnknownItemError(NotFoundError):
    """The catalog does not have {item_id}. Check the item ids."""

    code = "unknown-item"


class UnknownInteractionError(NotFoundError):
    """The user has no interaction with {item_ids}. Remove these item ids from the request."""

    code = "unknown-interaction"


class UnknownRequestError(NotFoundError):
    """The deletion request {request_id} does not exist. Check the id."""

    code = "unknown-request"


class UnknownListError(NotFoundError):
    """The deletion list {list_id} does not exist. Check the id."""

    code = "unknown-list"


class UnknownJobError(NotFoundError):
    """The job {job_id} does not exist. Check the id."""

    code = "unknown-job"


class CertificateNotReadyError(NotFoundError):
    """The request has no certificate yet. Its status is {status}; wait for `completed`."""

    code = "certificate-not-ready"


class UnknownCertificateError(NotFoundError):
    """The request has no certificate with the number {number}."""

    code = "unknown-certificate"


class GoneError(LetheError):
    """This user is deleted or has an open deletion request. Their data is not used any more."""

    code = "user-forgotten"


class ConflictError(LetheError):
    """The request conflicts with the current state."""

    code = "conflict"


class NotCancellableError(ConflictError):
    """A deletion can be cancelled only in the status `scheduled`. Its status is {status}."""

    code = "not-cancellable"


class IllegalTransitionError(ConflictError):
    """The status of a {kind} cannot change from {old} to {new}."""

    code = "illegal-transition"


class ForgottenPersonError(ConflictError):
    """The call has data about forgotten users or items, so nothing of it was stored.

    These are the entries {entries}, counted from 1. Leave them out with `forgotten=skip`, or record
    a new consent first.
    """

    code = "forgotten"


class IdempotencyConflictError(ConflictError):
    """This Idempotency-Key was used for a different request. Use a new key."""

    code = "idempotency-conflict"


class JobRunningError(ConflictError):
    """The job {job_id} is still open. Wait until the job ends, then try again."""

    code = "job-running"


class JobNotCancellableError(ConflictError):
    """Only a training that is queued, or whose release is not live yet, can be cancelled."""

    code = "job-not-cancellable"


class StaleDataError(ConflictError):
    """A deletion completed after the data snapshot of job {job_id}, so the job cannot publish."""

    code = "stale-data"


class ReleaseExistsError(ConflictError):
    """The release {release_id} was served before. The same weights cannot be served again."""

    code = "release-exists"


class InvalidCertificateError(LetheError):
    """The certificate is not valid: {reason}."""

    code = "invalid-certificate"


class KeyMismatchError(LetheError):
    """The hash key is not the key with which this database was created.

    Deleted users would not be recognized. Restore the key file, or set LETHE_HASH_KEY to the
    original value.
    """

    code = "key-mismatch"


class IdRuleMismatchError(LetheError):
    """The ids of this database follow LETHE_ID_RULE={stored}, but LETHE_ID_RULE is {configured}.

    The rule is fixed at the first start. Set LETHE_ID_RULE={stored} for every process.
    """

    code = "id-rule-mismatch"


class InvalidInputError(LetheError):
    """The input is not valid."""

    code = "invalid-input"


class ListTooLongError(LetheError):
    """The list has more than {limit} rows, so no row of it was recorded. Split the list."""

    code = "list-too-long"


class NewerSchemaError(InvalidInputError):
    """The database was made by a newer Lethe. Install that version, or restore an older backup."""


class DamagedDatabaseError(InvalidInputError):
    """The database file is damaged or is no SQLite database. Restore a backup of the file."""


class UnauthorizedError(LetheError):
    """The API key is missing or wrong. Send a valid key as `Authorization: Bearer KEY`."""

    code = "unauthorised"


class UnavailableError(LetheError):
    """Lethe cannot answer at the moment. Try again in a few seconds."""

    code = "unavailable"


class OverloadedError(UnavailableError):
    """This replica has too many requests. Try again in {retry_after} s."""

    code = "overloaded"


class NoReleaseError(UnavailableError):
    """No release is live yet. Import data and run `lethe train` first."""

    code = "no-release"


class DatabaseUnavailableError(UnavailableError):
    """The database does not respond, so suppressions cannot be checked. Try again shortly."""

    code = "database-unavailable"


class LedgerUnavailableError(UnavailableError):
    """The erasure ledger does not respond, so no deletion can be recorded. Try again shortly."""

    code = "ledger-unavailable"


class LedgerAheadError(UnavailableError):
    """The erasure ledger has entries that this database lacks.

    Either the database was restored from a backup, or a transaction did not commit. Lethe applies
    or voids the entries by itself. Try again shortly.
    """

    code = "ledger-ahead"


class RestoringError(UnavailableError):
    """The database or the artifacts were restored from a backup, and deletions are being repeated.

    Recommendations follow as soon as the repeated deletions are completed.
    """

    code = "restoring"


class LedgerDamagedError(LetheError):
    """The erasure ledger cannot be trusted: {reason}.

    Restore the ledger from its own copy. `lethe restore-check` lists what is missing; only after a
    true loss, `lethe restore-check --new-ledger` writes a new ledger.
    """

    code = "ledger-damaged"


class ReplicaNotReadyError(UnavailableError):
    """This replica does not serve the live release or has no valid lease. Try again shortly."""

    code = "replica-not-ready"


class EngineError(UnavailableError):
    """The serving engine does not respond correctly. Try again shortly."""

    code = "engine"


class ReleaseLostError(EngineError):
    """The serving engine has unloaded this release. Try again shortly."""


class SigningKeyRetiredError(UnavailableError):
    """The signing key {key_id} was retired at {retired_at}, when a newer key was registered.

    Give every worker the same key, the newest or a new one, in LETHE_SIGNING_KEY, and restart them.
    """


class LeaseLostError(LetheError):
    """The lease of job {job_id} at epoch {epoch} is lost. Another worker may have claimed it."""

    code = "lease-lost"


class NothingToTrainError(LetheError):
    """No interactions are stored. Run `lethe import PATH` first."""

    code = "nothing-to-train"
