"""Read everything that a recommendation may use, and recheck it before the answer is sent."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from app.domain.catalog import CATALOG_KINDS, Interaction, User
from app.domain.errors import GoneError, UnknownItemError
from app.domain.recommendations import Visitor
from app.domain.requests import Scope
from app.services.validation import normal_item_id, some_of, unknown_user

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from app.domain.catalog import UserVersion
    from app.domain.recommendations import RecommendationQuery
    from app.domain.releases import Alias
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWork

#: The user id of a visitor's interactions while an answer is computed. No stored user has this id.
VISITOR_ID: Final = ""
#: Kinds of entries of the change log after which an answer in progress needs repair.
_OVERTAKING: Final = frozenset({"forget"}) | CATALOG_KINDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything that a recommendation may use about a user, at `data_version`."""

    #: The id is VISITOR_ID for a visitor.
    user: User
    #: Ordered by (timestamp, item id), without suppressed interactions.
    history: tuple[Interaction, ...]
    #: All items that the user rated, including suppressed pairs; for excluding seen items.
    seen_item_ids: frozenset[str]
    #: Items of open deletion requests, which must not be recommended to any user.
    suppressed_item_ids: frozenset[str]
    data_version: int
    alias: Alias
    #: The version of the user's own data; None for a visitor, or if it is not known.
    user_version: UserVersion | None = None
    #: Whether deletions are repeated after a restore, so that no recommendation may be given.
    is_restoring: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recheck:
    """The changes since the inputs were read."""

    #: The users of the query who have requested deletion; they get 410 Gone.
    gone: frozenset[str]
    #: Whether a deletion was accepted or the catalog changed, so that the answer needs repair.
    is_overtaken: bool
    data_version: int
    alias: Alias
    is_restoring: bool = False


@dataclass(frozen=True, slots=True)
class _SuppressedItems:
    version: int
    item_ids: frozenset[str]
    has_open_pairs: bool


class SuppressedItemsCache:
    """Cache the items of open deletion requests for one data version. Thread-safe.

    Opening, closing or canceling a request changes the data version in the same transaction, so an
    entry of the current version is never stale. The cache holds no user ids.
    """

    def __init__(self) -> None:
        """Start with an empty cache."""
        self._entry: _SuppressedItems | None = None

    def at(self, uow: UnitOfWork, version: int) -> _SuppressedItems:
        """Return the suppressed items of this snapshot, whose data version is `version`."""
        # The entry is read once and replaced as a whole, so concurrent calls need no lock.
        entry = self._entry
        if entry is None or entry.version != version:
            entry = _SuppressedItems(
                version, frozenset(uow.requests.open_item_ids()), uow.requests.any_open_pairs()
            )
            self._entry = entry
        return entry


def normal_query(pseudonyms: Pseudonyms, query: RecommendationQuery) -> RecommendationQuery:
    """Return the query with normal ids, and with the caller's spelling of the user's id.

    Raises InvalidInputError.
    """
    person = query.person
    if isinstance(person, Visitor):
        history = tuple((normal_item_id(item_id), stars) for item_id, stars in person.history)
        if history != person.history:
            query = replace(query, person=replace(person, history=history))
    elif (user_id := pseudonyms.user_id(person)) != person:
        query = replace(query, person=user_id, spelling=person)
    if query.item_ids is None:
        return query
    item_ids = tuple(dict.fromkeys(map(normal_item_id, query.item_ids)))
    return query if item_ids == query.item_ids else replace(query, item_ids=item_ids)


def distinct_queries(
    pseudonyms: Pseudonyms, queries: Sequence[RecommendationQuery]
) -> list[RecommendationQuery]:
    """Return the queries with normal ids, one for each user, in their order."""
    distinct: dict[str | Visitor, RecommendationQuery] = {}
    for query in queries:
        normal = normal_query(pseudonyms, query)
        distinct.setdefault(normal.person, normal)
    return list(distinct.values())


def read_inputs(
    uow: UnitOfWork,
    pseudonyms: Pseudonyms,
    user_id: str,
    suppressed_items: SuppressedItemsCache | None = None,
    spelling: str | None = None,
) -> Inputs:
    """Read a user's inputs from one snapshot; raises GoneError or UnknownUserError.

    `user_id` is a stored id, and `spelling` the id that the caller gave, if it differs.

    Suppressed pairs are read from the user's open requests. When a request completes, its rows are
    deleted, and tombstones prevent a new import, so the pairs need not be hashed here.
    """
    standing = uow.state.standing(pseudonyms.user_hashes(spelling or user_id))
    if standing.suppressed:
        raise GoneError
    stored = uow.people.user_with_version(user_id)
    if stored is None:
        raise unknown_user(pseudonyms)
    user, user_version = stored
    history = uow.people.history(user_id)
    suppressed = (suppressed_items or SuppressedItemsCache()).at(uow, standing.data_version)
    suppressed_pairs = {
        item_id
        for request in (uow.requests.open_of_user(user_id) if suppressed.has_open_pairs else ())
        if request.subject is not None and request.scope is Scope.USER_ITEMS
        for item_id in request.subject.item_ids
    }
    excluded = suppressed.item_ids | suppressed_pairs
    return Inputs(
        user=user,
        history=tuple(event for event in history if event.item_id not in excluded),
        seen_item_ids=frozenset(event.item_id for event in history),
        suppressed_item_ids=suppressed.item_ids,
        data_version=standing.data_version,
        alias=standing.alias,
        user_version=user_version,
        is_restoring=standing.is_restoring,
    )


def unsuppressed_histories(
    uow: UnitOfWork,
    pseudonyms: Pseudonyms,
    user_ids: Sequence[str],
    suppressed_item_ids: frozenset[str],
) -> dict[str, list[Interaction]]:
    """Return user id → history, as `read_inputs` reads it; empty for suppressed users.

    The number of statements does not grow with the number of users, up to 500 of them.
    """
    if not user_ids:
        return {}
    ids_by_hash = {h: user_id for user_id in user_ids for h in pseudonyms.user_hashes(user_id)}
    suppressed = {ids_by_hash[h] for h in uow.suppressions.matching(ids_by_hash)}
    usable = [user_id for user_id in user_ids if user_id not in suppressed]
    pairs = uow.requests.open_pairs_of(usable)
    histories: dict[str, list[Interaction]] = {user_id: [] for user_id in user_ids}
    for user_id, history in uow.people.histories(usable).items():
        excluded = suppressed_item_ids | pairs.get(user_id, set())
        histories[user_id] = [event for event in history if event.item_id not in excluded]
    return histories


def read_visitor(
    uow: UnitOfWork, visitor: Visitor, suppressed_items: SuppressedItemsCache
) -> Inputs:
    """Return the inputs of a visitor; raises UnknownItemError for an unknown item."""
    standing = uow.state.standing(())
    rated = {item_id for item_id, _ in visitor.history}
    require_items(rated, uow.people.known_items(rated))
    suppressed = suppressed_items.at(uow, standing.data_version)
    timestamp = int(time.time())
    return Inputs(
        user=User(id=VISITOR_ID, attributes=dict(visitor.attributes)),
        history=tuple(
            Interaction(user_id=VISITOR_ID, item_id=item_id, rating=rating, timestamp=timestamp)
            for item_id, rating in visitor.history
            if item_id not in suppressed.item_ids
        ),
        seen_item_ids=frozenset(rated),
        suppressed_item_ids=suppressed.item_ids,
        data_version=standing.data_version,
        alias=standing.alias,
        is_restoring=standing.is_restoring,
    )


def recheck(
    uow: UnitOfWork, pseudonyms: Pseudonyms, user_ids: Sequence[str], seen_version: int
) -> Recheck:
    """Return the changes since `seen_version`, from a new snapshot; call before sending an answer.

    A deletion of any user counts, because the first stage's statistics contained that user. A
    change of the catalog counts, because it may be the end of an item that only this user rated.
    """
    hashes = {
        user_hash: user_id for user_id in user_ids for user_hash in pseudonyms.user_hashes(user_id)
    }
    standing = uow.state.standing(hashes)
    version = standing.data_version
    changes = uow.state.newest_changes(seen_version) if version > seen_version else {}
    first = min((change.first for change in changes.values()), default=version + 1)
    # A pruned log may have lost a deletion.
    is_incomplete = version > seen_version and first != seen_version + 1
    return Recheck(
        gone=frozenset(hashes[user_hash] for user_hash in standing.suppressed),
        is_overtaken=is_incomplete or bool(changes.keys() & _OVERTAKING),
        data_version=version,
        alias=standing.alias,
        is_restoring=standing.is_restoring,
    )


def require_items(item_ids: Iterable[str], known: Container[str]) -> None:
    """Raise UnknownItemError, with some of the ids, unless all items are known."""
    unknown = sorted(item_id for item_id in item_ids if item_id not in known)
    if unknown:
        raise UnknownItemError(item_id=some_of(unknown))
