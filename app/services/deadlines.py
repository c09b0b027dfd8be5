"""The times that a deletion request promises."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from datetime import datetime

    from app.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """The end of the cancel window, and the times of the completed and of the exact deletion."""

    cancellable_until: datetime
    due_at: datetime
    exact_due_at: datetime

    @classmethod
    def of(cls, settings: Settings, created_at: datetime) -> Self:
        """Return the times of a request that is created at this time."""
        return cls(
            cancellable_until=created_at + timedelta(seconds=settings.cancel_window),
            due_at=created_at + timedelta(days=settings.due_days),
            exact_due_at=created_at + timedelta(days=settings.exact_days),
        )
