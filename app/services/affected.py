"""Whose statistics a subject takes part in, for the change log that replicas follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.requests import Subject
    from app.services.ports import UnitOfWork


def affected_users(uow: UnitOfWork, subject: Subject) -> Sequence[str | None]:
    """Return the users to log: the subject's own, or for an item all who rated it.

    An item that nobody rated still needs an entry, so that answers under way are thrown away.
    """
    if subject.user_id is not None:
        return [subject.user_id]
    raters = sorted({user for item in subject.item_ids for user in uow.people.raters_of(item)})
    return raters or [None]
