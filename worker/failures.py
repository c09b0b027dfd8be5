"""Describe an error of a job for operators, and tell faults of the environment from others.

A fault of the environment never counts against the job's requests. When in doubt an error counts:
a request is dead only if other batches pass the stage in which the request fails.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from app.domain.errors import (
    InvalidInputError,
    KeyMismatchError,
    LetheError,
    StaleDataError,
    UnavailableError,
)
from app.domain.jobs import Failure
from app.tracebacks import error_location
from worker.errors import ReleaseMissingError, ReleaseUnusableError, storable_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from app.domain.jobs import Stage

log = structlog.get_logger(__name__)
_Result = TypeVar("_Result")

#: Disks and networks. FileNotFoundError and the like are not here: a learner may cause them.
_ENVIRONMENT_ERRNOS: Final = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOMEM, errno.EACCES),
        *(errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ENXIO, errno.ENODEV),
        *(errno.EBUSY, errno.ENOTCONN, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN),
        *(errno.EHOSTUNREACH, errno.ETIMEDOUT),
    }
)
_ENVIRONMENT: Final = (
    UnavailableError,
    StaleDataError,
    InvalidInputError,
    KeyMismatchError,
    ReleaseMissingError,
    ReleaseUnusableError,
    ConnectionError,
    TimeoutError,
    MemoryError,
)
#: Classes of `models` by name, because their modules load torch. The out-of-memory error of a
#: device is not here: a smaller batch may fit.
_ENVIRONMENT_NAMES: Final = frozenset(
    {"BackboneUnavailableError", "CheckpointError", "UnknownDeviceError", "UnknownMethodError"}
)
#: Packages of remote artifact stores, whose errors have no common base class.
_STORE_PACKAGES: Final = frozenset(
    {"adlfs", "aiohttp", "azure", "botocore", "gcsfs", "google", "requests", "s3fs", "urllib3"}
)


def describe_failure(error: Exception, stage: Stage, roots: Iterable[Path]) -> Failure:
    """Return the failure without personal data, which messages of other packages may quote.

    A path is named relative to the first of `roots` that contains the path, or not at all. Paths
    of artifacts consist of ids of releases and jobs.
    """
    name = type(error).__name__
    if isinstance(error, LetheError):
        text, code = storable_message(error), error.code
    elif isinstance(error, OSError):
        text = ": ".join(filter(None, [name, error.strerror, _relative_path(error, roots)]))
        code = errno.errorcode.get(error.errno or 0, "")
    else:
        text, code = name, ""
    return Failure(
        text=f"{stage.value}: {text}",
        signature=" ".join(filter(None, [f"{stage.value}: {name}", code])),
        is_environmental=_is_environmental(error),
        is_transient=isinstance(error, UnavailableError),
    )


def attempt(action: Callable[[], _Result], event: str) -> _Result | None:
    """Return the action's result. Log an error as `event`, and return None.

    For work on files that is repeated later, and that nothing else may wait for.
    """
    try:
        return action()
    except Exception as error:  # noqa: BLE001 # errors of remote stores have no common base class
        log.warning(event, **error_location(error))
        return None


def _is_environmental(error: Exception) -> bool:
    if isinstance(error, _ENVIRONMENT):
        return True
    if isinstance(error, OSError) and error.errno in _ENVIRONMENT_ERRNOS:
        return True
    kinds = type(error).__mro__
    return any(
        kind.__name__ in _ENVIRONMENT_NAMES or kind.__module__.split(".")[0] in _STORE_PACKAGES
        for kind in kinds
    )


def _relative_path(error: OSError, roots: Iterable[Path]) -> str | None:
    if not isinstance(error.filename, str | Path):
        return None
    path = Path(error.filename)
    for root in roots:
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return None
