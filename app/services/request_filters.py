"""Filters of lists of deletion requests, from the caller's values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.domain.errors import InvalidInputError
from app.domain.renewal import ExactMode
from app.domain.requests import Assurance, RequestFilter, RequestStatus
from app.services.validation import normal_reference_of

if TYPE_CHECKING:
    from datetime import datetime

    from app.services.pseudonyms import Pseudonyms
    from app.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestQuery:
    """The caller's filter; see `RequestFilter`. The user is given by id, in any spelling."""

    statuses: tuple[RequestStatus, ...] = ()
    assurance: Assurance | None = None
    overdue: bool | None = None
    due_before: datetime | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    user_id: str | None = None
    requested_by: str | None = None
    reference: str | None = None

    def filter(self, pseudonyms: Pseudonyms, settings: Settings) -> RequestFilter:
        """Return the filter with the normal id and its keyed hashes; raises InvalidInputError."""
        after, before = self.created_after, self.created_before
        if after is not None and before is not None and after >= before:
            raise InvalidInputError("created_after must be earlier than created_before.")
        user_id = user_hashes = None
        if self.user_id is not None:
            user_id = pseudonyms.user_id(self.user_id)
            user_hashes = pseudonyms.user_hashes(self.user_id)
        return RequestFilter(
            statuses=frozenset(self.statuses),
            assurance=self.assurance,
            overdue=self.overdue,
            due_before=self.due_before,
            created_after=after,
            created_before=before,
            user_hashes=user_hashes,
            user_id=user_id,
            requested_by=_normal("requested_by", self.requested_by),
            reference=_normal("reference", self.reference),
            exact_is_due=settings.exact is not ExactMode.OFF,
        )


def _normal(name: str, text: str | None) -> str | None:
    return None if text is None else normal_reference_of(name, text)
