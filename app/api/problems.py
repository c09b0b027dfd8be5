"""Problem documents (RFC 9457): the table from domain error classes to HTTP status and title.

A problem's `type` is stable and can be fetched with GET. Its `instance` is a random id that is also
in the log. A problem about malformed input never repeats the input.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from inspect import cleandoc
from typing import TYPE_CHECKING, Any, Final

import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from app.domain import errors
from app.domain.errors import LetheError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastapi import FastAPI
    from starlette.requests import Request

_log = structlog.get_logger(__name__)
MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "/problems/"
#: Key in the scope of a request whose answer is the problem `ledger-ahead`.
LEDGER_AHEAD: Final = "lethe.ledger_ahead"
_RETRY_AFTER_SECONDS: Final = "1"


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """Properties of all problems of one type."""

    code: str
    status: int
    title: str
    meaning: str

    @property
    def type(self) -> str:
        """Return the stable URI reference of this type."""
        return TYPE_PREFIX + self.code


def _domain(kind: type[LetheError], status: int, title: str) -> ProblemKind:
    return ProblemKind(kind.code, status, title, cleandoc(kind.__doc__ or ""))


#: Domain errors. A class that is missing here is reported as its nearest base class.
DOMAIN_PROBLEMS: Final[Mapping[type[LetheError], ProblemKind]] = {
    kind: _domain(kind, status, title)
    for kind, status, title in (
        (errors.LetheError, 500, "Internal error"),
        (errors.NotFoundError, 404, "Not found"),
        (errors.UnknownUserError, 404, "Unknown user"),
        (errors.UnknownItemError, 404, "Unknown item"),
        (errors.UnknownInteractionError, 404, "Unknown interaction"),
        (errors.UnknownRequestError, 404, "Unknown deletion request"),
        (errors.UnknownListError, 404, "Unknown deletion list"),
        (errors.UnknownJobError, 404, "Unknown job"),
        (errors.CertificateNotReadyError, 404, "Certificate not ready"),
        (errors.UnknownCertificateError, 404, "Unknown certificate"),
        (errors.GoneError, 410, "User forgotten"),
        (errors.ConflictError, 409, "Conflict"),
        (errors.NotCancellableError, 409, "Not cancellable"),
        (errors.IllegalTransitionError, 409, "Illegal transition"),
        (errors.ForgottenPersonError, 409, "Forgotten person"),
        (errors.IdempotencyConflictError, 409, "Idempotency key reused"),
        (errors.JobRunningError, 409, "Job running"),
        (errors.JobNotCancellableError, 409, "Job not cancellable"),
        (errors.StaleDataError, 409, "Stale data"),
        (errors.ReleaseExistsError, 409, "Release exists"),
        (errors.ListTooLongError, 413, "List too long"),
        (errors.InvalidInputError, 422, "Invalid input"),
        (errors.UnauthorizedError, 401, "API key needed"),
        (errors.UnavailableError, 503, "Unavailable"),
        (errors.OverloadedError, 503, "Overloaded"),
        (errors.NoReleaseError, 503, "No release"),
        (errors.DatabaseUnavailableError, 503, "Database unavailable"),
        (errors.LedgerUnavailableError, 503, "Ledger unavailable"),
        (errors.LedgerAheadError, 503, "Restoring"),
        (errors.RestoringError, 503, "Restoring"),
        (errors.LedgerDamagedError, 503, "Ledger damaged"),
        (errors.ReplicaNotReadyError, 503, "Replica not ready"),
        (errors.EngineError, 503, "Engine unavailable"),
        (errors.NothingToTrainError, 409, "Nothing to train"),
    )
}

#: Problems of HTTP itself, by status.
HTTP_PROBLEMS: Final[Mapping[int, ProblemKind]] = {
    status: ProblemKind(code, status, title, meaning)
    for code, status, title, meaning in (
        ("bad-request", 400, "Bad request", "The request could not be read."),
        ("forbidden", 403, "Forbidden", "Without API keys, only local callers have access."),
        ("no-such-path", 404, "No such path", "There is nothing at this path."),
        ("method-not-allowed", 405, "Method not allowed", "This path has no such method."),
        (
            "request-timeout",
            408,
            "Request timeout",
            "The request body did not arrive in time; the connection is closed.",
        ),
        ("body-too-large", 413, "Body too large", "The body is larger than the limit."),
        (
            "unsupported-media-type",
            415,
            "Unsupported media type",
            "Send the body with `Content-Type: application/json`.",
        ),
        ("misdirected", 421, "Misdirected request", "The Host header does not name this service."),
        ("internal", 500, "Internal error", "The service failed unexpectedly."),
    )
}

KINDS: Final[Mapping[str, ProblemKind]] = {
    kind.code: kind for kind in (*DOMAIN_PROBLEMS.values(), *HTTP_PROBLEMS.values())
}


class ProblemResponse(JSONResponse):
    """Response with a problem document, in ASCII so that any text can be encoded."""

    media_type = MEDIA_TYPE

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=True, allow_nan=False).encode("ascii")


def kind_of(error: type[LetheError]) -> ProblemKind:
    """Return the kind of the class, or of its nearest base in the table."""
    return next(DOMAIN_PROBLEMS[base] for base in error.__mro__ if base in DOMAIN_PROBLEMS)


def problem(
    kind: ProblemKind,
    detail: str | None = None,
    *,
    invalid: Sequence[Mapping[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> ProblemResponse:
    """Create the response, with Retry-After for a 503 and WWW-Authenticate for a 401."""
    instance = f"urn:uuid:{uuid.uuid4()}"
    content: dict[str, Any] = {
        "type": kind.type,
        "title": kind.title,
        "status": kind.status,
        "detail": kind.meaning if detail is None else detail,
        "instance": instance,
    }
    if invalid is not None:
        content["errors"] = list(invalid)
    _log.info("problem", code=kind.code, status=kind.status, instance=instance)
    extra = {"Retry-After": _RETRY_AFTER_SECONDS} if kind.status == 503 else {}  # noqa: PLR2004 - the status itself
    if kind.status == 401:  # noqa: PLR2004 - the status itself
        extra["WWW-Authenticate"] = "Bearer"
    return ProblemResponse(content, kind.status, headers={**extra, **(headers or {})})


def install(app: FastAPI) -> None:
    """Install handlers that answer every error with a problem document."""
    app.add_exception_handler(LetheError, _on_domain_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)


async def _on_domain_error(request: Request, error: Exception) -> ProblemResponse:
    if isinstance(error, errors.LedgerAheadError):
        request.scope[LEDGER_AHEAD] = True
    kind = kind_of(type(error) if isinstance(error, LetheError) else LetheError)
    # The message of an internal error is only for the log; a caller cannot act on it.
    internal = kind is DOMAIN_PROBLEMS[errors.LetheError]
    retry_after = error.context.get("retry_after") if isinstance(error, LetheError) else None
    headers = None if retry_after is None else {"Retry-After": str(retry_after)}
    return problem(kind, None if internal else str(error), headers=headers)


async def _on_invalid(_request: Request, error: Exception) -> ProblemResponse:
    validation_errors = error.errors() if isinstance(error, RequestValidationError) else []
    return problem(
        DOMAIN_PROBLEMS[errors.InvalidInputError],
        "The request does not have the expected form.",
        invalid=[
            {
                "location": [str(part) for part in failure["loc"]],
                "code": failure["type"],
                "detail": failure["msg"],
            }
            for failure in validation_errors
        ],
    )


async def _on_http_error(_request: Request, error: Exception) -> ProblemResponse:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    kind = HTTP_PROBLEMS.get(status) or ProblemKind("http", status, "HTTP error", "HTTP error.")
    return problem(kind, headers=headers)
