"""Store and read users."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from app.domain.errors import GoneError
from app.domain.requests import Assurance
from app.services.suppression import forgotten_ids, outcomes_of, refuse_entries
from app.services.validation import check_texts, unknown_user

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from app.domain.catalog import EntryOutcome, User
    from app.domain.requests import ForgetRequest
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWork

#: Assurances from the weakest to the strongest.
_STRENGTH: Final = {assurance: number for number, assurance in enumerate(Assurance)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """The stored data of a user: the attributes, and the number of interactions."""

    user: User
    interactions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """Whether a user is forgotten: suppressed by a request for all data of the user."""

    forgotten: bool
    #: The time of the suppression; None for a user who is not forgotten.
    since: datetime | None = None
    #: Of several requests, the one with the weakest assurance; after a consent, the last one.
    request: ForgetRequest | None = None


def store_users(
    uow: UnitOfWork,
    pseudonyms: Pseudonyms,
    users: Sequence[User],
    *,
    skip_forgotten: bool = False,
) -> list[EntryOutcome]:
    """Add the users or replace their attributes, all or none; return the outcome of each entry.

    The last of several entries for one user wins. Raises ForgottenPersonError for suppressed users,
    unless `skip_forgotten`.
    """
    # With the lock, a concurrent deletion either commits first and is seen, or waits.
    uow.state.lock()
    normal: list[User] = []
    ids_by_hash: dict[str, str] = {}
    for user in users:
        check_texts("", user.attributes)
        user_id = pseudonyms.user_id(user.id)
        normal.append(replace(user, id=user_id))
        ids_by_hash |= dict.fromkeys(pseudonyms.user_hashes(user.id), user_id)
    forgotten = forgotten_ids(uow, ids_by_hash)
    if not skip_forgotten:
        refuse_entries([user.id in forgotten for user in normal])
    latest = {user.id: user for user in normal if user.id not in forgotten}
    if latest:
        holdout = pseudonyms.drawn_as_holdout(latest)
        uow.people.upsert_users(list(latest.values()), holdout=holdout)
        # Replicas drop cached states of these users when they read the change log.
        uow.state.bump("interactions", sorted(latest))
    return outcomes_of([user.id for user in normal], forgotten)


def read_user(uow: UnitOfWork, pseudonyms: Pseudonyms, user_id: str) -> Person:
    """Return the stored data of a user. Raises GoneError, UnknownUserError."""
    normal_user_id = pseudonyms.user_id(user_id)
    if uow.suppressions.matching(pseudonyms.user_hashes(user_id)):
        raise GoneError
    user = uow.people.user(normal_user_id)
    if user is None:
        raise unknown_user(pseudonyms)
    return Person(user=user, interactions=uow.people.count_of(user.id))


def read_erasure(uow: UnitOfWork, pseudonyms: Pseudonyms, user_id: str) -> Erasure:
    """Return whether a user is forgotten; raises UnknownUserError for a user without any trace."""
    normal_user_id = pseudonyms.user_id(user_id)
    user_hashes = pseudonyms.user_hashes(user_id)
    # The same statements for every user, so that the time of an answer tells nothing.
    suppressing = uow.requests.suppressing(user_hashes)
    completed = [uow.requests.latest_completed(user_hash) for user_hash in user_hashes]
    user = uow.people.user(normal_user_id)
    if suppressing:
        weakest = min(suppressing, key=lambda request: _STRENGTH[request.assurance])
        return Erasure(forgotten=True, since=suppressing[0].created_at, request=weakest)
    earlier = [request for request in completed if request is not None]
    if user is None and not earlier:
        raise unknown_user(pseudonyms)
    latest = max(earlier, key=lambda request: request.id, default=None)
    return Erasure(forgotten=False, request=latest)
