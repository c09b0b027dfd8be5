"""Store and read users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.domain.errors import GoneError, UnknownUserError
from app.services.suppression import refuse_forgotten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.catalog import User
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """The stored data of a user: the attributes, and the number of interactions."""

    user: User
    interactions: int


def store_users(uow: UnitOfWork, pseudonyms: Pseudonyms, users: Sequence[User]) -> int:
    """Add the users or replace their attributes, all or none, and return the number of users.

    The last of several entries for one user wins. Raises ForgottenPersonError for suppressed users.
    """
    # With the lock, a concurrent deletion either commits first and is seen, or waits.
    uow.state.lock()
    latest = {user.id: user for user in users}
    refuse_forgotten(uow, {pseudonyms.user(user_id): user_id for user_id in latest})
    if latest:
        uow.people.upsert_users(list(latest.values()))
        # Replicas drop cached states of these users when they read the change log.
        uow.state.bump("interactions", sorted(latest))
    return len(latest)


def read_user(uow: UnitOfWork, pseudonyms: Pseudonyms, user_id: str) -> Person:
    """Return the stored data of a user. Raises GoneError or UnknownUserError."""
    if uow.suppressions.matching([pseudonyms.user(user_id)]):
        raise GoneError
    user = uow.people.user(user_id)
    if user is None:
        raise UnknownUserError
    return Person(user=user, interactions=uow.people.count_of(user_id))
