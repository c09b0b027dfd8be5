"""Adds, changes, shows and forgets people, one or many at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.domain.errors import GoneError, UnknownUserError
from app.services.forget import ForgetCommand, request_forget
from app.services.suppression import refuse_forgotten
from app.services.validation import some_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.catalog import User
    from app.domain.requests import ForgetRequest
    from app.services.pseudonyms import Pseudonyms
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """What is held about somebody: the attributes, and how many interactions."""

    user: User
    interactions: int


def store_users(uow: UnitOfWork, pseudonyms: Pseudonyms, users: Sequence[User]) -> int:
    """Add the users or replace their attributes, all or none; return how many.

    Of two entries for one user the later wins. A forgotten person is refused.
    """
    # A deletion that commits meanwhile waits for this one, or is seen by it.
    uow.state.lock()
    latest = {user.id: user for user in users}
    refuse_forgotten(uow, {pseudonyms.user(user_id): user_id for user_id in latest})
    if latest:
        uow.people.upsert_users(list(latest.values()))
        # Replicas then drop whatever they keep of these people's earlier inputs.
        uow.state.bump("interactions", sorted(latest))
    return len(latest)


def read_user(uow: UnitOfWork, pseudonyms: Pseudonyms, user_id: str) -> Person:
    """Return what is held about somebody; raises GoneError or UnknownUserError."""
    if uow.suppressions.matching([pseudonyms.user(user_id)]):
        raise GoneError
    user = uow.people.user(user_id)
    if user is None:
        raise UnknownUserError
    return Person(user=user, interactions=uow.people.count_of(user_id))


def forget_users(
    uow: UnitOfWork, pseudonyms: Pseudonyms, settings: Settings, user_ids: Sequence[str]
) -> list[ForgetRequest]:
    """Record one request for each person, in this order and once each.

    Raises UnknownUserError naming some where anybody is unknown; the transaction of the caller
    then takes the other requests back. Somebody forgotten earlier has the earlier request.
    """
    requests, unknown = [], []
    for user_id in dict.fromkeys(user_ids):
        command = ForgetCommand.of(user_id, (), None)
        try:
            requests.append(request_forget(uow, pseudonyms, settings, command)[0])
        except UnknownUserError:
            unknown.append(user_id)
    if unknown:
        raise UnknownUserError(
            f"No data is held about {some_of(unknown)}. Nobody has been forgotten."
        )
    return requests
