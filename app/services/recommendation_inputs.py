"""Reads what one recommendation may use, and checks again right before its answer is sent."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.catalog import Interaction, User
from app.domain.errors import GoneError, UnknownItemError, UnknownUserError
from app.domain.requests import Scope
from app.services.validation import some_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from app.domain.recommendations import Visitor
    from app.domain.releases import Alias
    from app.services.ports import UnitOfWork
    from app.services.pseudonyms import Pseudonyms

#: The id that a visitor's interactions carry while an answer is made. Nothing stored has it.
VISITOR_ID: Final = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """All that a recommendation may use about a person, as of `data_version`."""

    #: A visitor's id is VISITOR_ID.
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

    #: Those of the users who have asked to be forgotten meanwhile: answer 410.
    gone: frozenset[str]
    #: Somebody or something was forgotten meanwhile, and the answer may rest on it: make it anew.
    changed_by_forget: bool
    data_version: int
    alias: Alias


@dataclass(frozen=True, slots=True)
class _Hidden:
    version: int
    item_ids: frozenset[str]
    any_pairs: bool


class SuppressedItemsCache:
    """What open requests hide from everybody, kept for as long as the data's version lasts.

    Requests open, close and are cancelled with a change of that version, in one transaction.
    Thread-safe. It holds no person's id.
    """

    def __init__(self) -> None:
        """Start knowing nothing."""
        self._known: _Hidden | None = None

    def as_of(self, uow: UnitOfWork, version: int) -> _Hidden:
        """Return what is hidden in this snapshot, which is of this version."""
        known = self._known
        if known is None or known.version != version:
            known = _Hidden(
                version, frozenset(uow.requests.open_item_ids()), uow.requests.any_open_pairs()
            )
            self._known = known
        return known


def read_inputs(
    uow: UnitOfWork, pseudonyms: Pseudonyms, user_id: str, open_items: SuppressedItemsCache | None = None
) -> Inputs:
    """Read the inputs from one snapshot; raises GoneError or UnknownUserError.

    Suppressed pairs are found through the user's open requests: once one completes the rows are
    gone, and tombstones keep them from coming back, so no hash per pair is needed.
    """
    standing = uow.state.standing([pseudonyms.user(user_id)])
    if standing.suppressed:
        raise GoneError
    user = uow.people.user(user_id)
    if user is None:
        raise UnknownUserError
    history = uow.people.history(user_id)
    hidden = (open_items or SuppressedItemsCache()).as_of(uow, standing.data_version)
    suppressed_pairs = {
        item_id
        for request in (uow.requests.open_of_user(user_id) if hidden.any_pairs else ())
        if request.subject is not None and request.scope is Scope.USER_ITEMS
        for item_id in request.subject.item_ids
    }
    excluded = hidden.item_ids | suppressed_pairs
    return Inputs(
        user=user,
        history=tuple(one for one in history if one.item_id not in excluded),
        seen_item_ids=frozenset(one.item_id for one in history),
        suppressed_item_ids=hidden.item_ids,
        data_version=standing.data_version,
        alias=standing.alias,
    )


def read_visitor(uow: UnitOfWork, visitor: Visitor, open_items: SuppressedItemsCache) -> Inputs:
    """Return the inputs of somebody of whom nothing is stored; raises UnknownItemError."""
    standing = uow.state.standing(())
    rated = {item_id for item_id, _ in visitor.history}
    require_items(rated, uow.people.known_items(rated))
    hidden = open_items.as_of(uow, standing.data_version)
    now = int(time.time())
    return Inputs(
        user=User(id=VISITOR_ID, attributes=dict(visitor.attributes)),
        history=tuple(
            Interaction(user_id=VISITOR_ID, item_id=item_id, rating=rating, timestamp=now)
            for item_id, rating in visitor.history
            if item_id not in hidden.item_ids
        ),
        seen_item_ids=frozenset(rated),
        suppressed_item_ids=hidden.item_ids,
        data_version=standing.data_version,
        alias=standing.alias,
    )


def recheck(
    uow: UnitOfWork, pseudonyms: Pseudonyms, user_ids: Sequence[str], seen_version: int
) -> Recheck:
    """Look once more, in a new snapshot, right before an answer is sent.

    Any deletion counts, not only these users': the candidates' statistics held the other person.
    """
    hashes = {pseudonyms.user(user_id): user_id for user_id in user_ids}
    standing = uow.state.standing(hashes)
    version = standing.data_version
    changes = uow.state.changes_since(seen_version) if version > seen_version else []
    return Recheck(
        gone=frozenset(hashes[each] for each in standing.suppressed),
        changed_by_forget=any(change.kind == "forget" for change in changes),
        data_version=version,
        alias=standing.alias,
    )


def require_items(asked: Iterable[str], known: Container[str]) -> None:
    """Raise UnknownItemError, naming some, unless all that is asked for is known."""
    unknown = sorted(each for each in asked if each not in known)
    if unknown:
        raise UnknownItemError(item_id=some_of(unknown))
