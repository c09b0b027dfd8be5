"""Reads what one recommendation may use, and checks again right before its answer is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.domain.errors import GoneError, UnknownUserError
from app.domain.requests import Scope

if TYPE_CHECKING:
    from app.domain.catalogue import Interaction, User
    from app.domain.releases import Alias
    from app.services.ports import UnitOfWork
    from app.services.pseudonyms import Pseudonyms


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """All that a recommendation may use about a user, as of `data_version`."""

    user: User
    #: In order of (timestamp, item id), without anything suppressed.
    history: tuple[Interaction, ...]
    #: Everything held that the user rated, suppressed pairs included: not to be proposed again.
    seen_item_ids: frozenset[str]
    #: Items that an open request asks to forget: never to be proposed to anybody.
    suppressed_item_ids: frozenset[str]
    data_version: int
    alias: Alias


@dataclass(frozen=True, slots=True, kw_only=True)
class Recheck:
    """What has changed since the inputs were read."""

    #: The user has asked to be forgotten meanwhile: answer 410.
    gone: bool
    #: Somebody or something was forgotten meanwhile, and the answer may rest on it: make it anew.
    changed_by_forget: bool
    data_version: int
    alias: Alias


def read_inputs(uow: UnitOfWork, pseudonyms: Pseudonyms, user_id: str) -> Inputs:
    """Read the inputs from one snapshot; raises GoneError or UnknownUserError.

    Suppressed pairs are found through the user's open requests: once one completes the rows are
    gone, and tombstones keep them from coming back, so no hash per pair is needed.
    """
    if uow.suppressions.matching([pseudonyms.user(user_id)]):
        raise GoneError
    user = uow.people.user(user_id)
    if user is None:
        raise UnknownUserError
    history = uow.people.history(user_id)
    suppressed_items = uow.requests.open_item_ids()
    suppressed_pairs = {
        item_id
        for request in uow.requests.open_of_user(user_id)
        if request.subject is not None and request.scope is Scope.USER_ITEMS
        for item_id in request.subject.item_ids
    }
    hidden = suppressed_items | suppressed_pairs
    return Inputs(
        user=user,
        history=tuple(one for one in history if one.item_id not in hidden),
        seen_item_ids=frozenset(one.item_id for one in history),
        suppressed_item_ids=frozenset(suppressed_items),
        data_version=uow.state.data_version(),
        alias=uow.releases.alias(),
    )


def recheck(uow: UnitOfWork, pseudonyms: Pseudonyms, user_id: str, seen_version: int) -> Recheck:
    """Look once more, in a new snapshot, right before an answer is sent.

    Any deletion counts, not only this user's: the candidates' statistics held the other person.
    """
    version = uow.state.data_version()
    changes = uow.state.changes_since(seen_version) if version > seen_version else []
    return Recheck(
        gone=bool(uow.suppressions.matching([pseudonyms.user(user_id)])),
        changed_by_forget=any(change.kind == "forget" for change in changes),
        data_version=version,
        alias=uow.releases.alias(),
    )
