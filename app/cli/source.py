"""Where commands read and change deletion requests, jobs, releases and keys.

With `--url`, commands call a running service; without, they open the installation on this machine.
Both give the JSON documents of the API, so that commands do not depend on the place.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from app.cli.client import Service
from app.cli.installation import open_installation
from app.cli.local_source import LocalSource
from app.cli.remote_source import RemoteSource
from app.settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from app.cli.installation import Installation
    from app.domain.renewal import ExactMode
    from app.services.forget import ForgetCommand
    from app.services.request_filters import RequestQuery

Document = dict[str, Any]


class Source(Protocol):
    """The installation on this machine, or a running service."""

    @property
    def installation(self) -> Installation | None:
        """The installation on this machine; None with a service, which has its own workers."""

    @property
    def exact(self) -> ExactMode | None:
        """LETHE_EXACT of the installation; None if unset, and with a service."""

    def forget(self, command: ForgetCommand) -> tuple[Document, bool]:
        """Record a deletion; return the request, and whether the call created the request."""

    def consent(self, user_id: str, item_ids: Sequence[str]) -> int:
        """Record a consent, and return the number of lifted tombstones."""

    def requests(self, query: RequestQuery, limit: int, cursor: str | None) -> Document:
        """Return a page of deletion requests."""

    def request(self, request_id: str) -> Document: ...

    def change_request(self, change: str, request_id: str) -> Document:
        """Apply `cancel`, `hold` or `release`, and return the request."""

    def certificate(self, request_id: str, number: int | None) -> Document:
        """Return the newest signed certificate, or the one with this number."""

    def jobs(self) -> Document:
        """Return the first page of jobs, newest first."""

    def job(self, job_id: str) -> Document:
        """Return the job with the findings of its requests."""

    def progress_of(self, job_id: str) -> Document:
        """Return the job, for a display that reads often: findings may be missing."""

    def cancel_job(self, job_id: str) -> Document: ...

    def waiting(self) -> int:
        """Return the number of deletion requests that wait for a job."""

    def releases(self) -> Document: ...

    def keys(self) -> Document:
        """Return the document of /.well-known/lethe-keys."""


@contextmanager
def open_source(url: str | None, key: str | None) -> Iterator[Source]:
    """Open the service at `url`, or without `url` the installation on this machine."""
    settings = get_settings()
    if url is not None:
        with Service.of(settings, url, key) as service:
            yield RemoteSource(service)
    else:
        with open_installation(settings) as installation:
            yield LocalSource(installation)
