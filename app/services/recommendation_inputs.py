"""Read everything that a recommendation may use, and recheck it before the answer is sent."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from app.domain.catalog import Interaction, User
from app.domain.errors import GoneError, UnknownItemError
from app.domain.recommendations import Visitor
from app.services.validation import normal_item_id, some_of, unknown_user

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence
    from collections.abc import Set as AbstractSet

    from app.domain.catalog import RecordedInteraction, UserVersion
    from app.domain.recommendations import RecommendationQuery
    from app.domain.releases import Alias
    from app.domain.standing import Standing
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWork

#: The user id of a visitor's interactions while an answer is computed. No stored user has this id.
VISITOR_ID: Final = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskerInputs:
    """What an answer uses about a user besides the history, at `data_version`."""

    #: The id is VISITOR_ID for a visitor.
    user: User
    data_version: int
    alias: Alias
    #: The version of the user's own data; None for a visitor, or if it is not known.
    user_version: UserVersion | None = None
    #: Whether deletions are repeated after a restore, so that no recommendation may be given.
    is_restoring: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs(AskerInputs):
    """Everything that a recommendation may use about a user, read from the database."""

    #: Ordered by (timestamp, item id), without suppressed interactions.
    history: tuple[Interaction, ...]
    #: All items that the user rated, including suppressed pairs; for excluding seen items.
    seen_item_ids: frozenset[str]
    #: Items of open deletion requests, which must not be recommended to any user.
    suppressed_item_ids: frozenset[str]


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
    suppressed_item_ids = frozenset(uow.requests.open_item_ids())
    suppressed_pairs = uow.requests.open_pairs_of([user_id]).get(user_id, set())
    excluded = suppressed_item_ids | suppressed_pairs
    return Inputs(
        user=user,
        history=tuple(event for event in history if event.item_id not in excluded),
        seen_item_ids=frozenset(event.item_id for event in history),
        suppressed_item_ids=suppressed_item_ids,
        data_version=standing.data_version,
        alias=standing.alias,
        user_version=user_version,
        is_restoring=standing.is_restoring,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRows:
    """The stored interactions of a user who is not suppressed, oldest first."""

    rows: Sequence[RecordedInteraction] = ()
    #: The items of the rows that an open deletion request names.
    suppressed_item_ids: frozenset[str] = frozenset()

    def history(self, suppressed_item_ids: AbstractSet[str]) -> list[Interaction]:
        """Return the rows as `read_inputs` reads them."""
        excluded = suppressed_item_ids | self.suppressed_item_ids
        return [row[0] for row in self.rows if row[0].item_id not in excluded]


def rows_of_users(
    uow: UnitOfWork, pseudonyms: Pseudonyms, user_ids: Sequence[str]
) -> dict[str, UserRows]:
    """Return user id → rows; no rows for suppressed users.

    The number of statements does not grow with the number of users, up to 500 of them.
    """
    if not user_ids:
        return {}
    ids_by_hash = {h: user_id for user_id in user_ids for h in pseudonyms.user_hashes(user_id)}
    suppressed = {ids_by_hash[h] for h in uow.suppressions.matching(ids_by_hash)}
    usable = [user_id for user_id in user_ids if user_id not in suppressed]
    pairs = uow.requests.open_pairs_of(usable)
    rows = {user_id: UserRows() for user_id in user_ids}
    for user_id, history in uow.people.recorded_histories(usable).items():
        rows[user_id] = UserRows(
            rows=history, suppressed_item_ids=frozenset(pairs.get(user_id, ()))
        )
    return rows


def visitor_inputs(
    standing: Standing,
    visitor: Visitor,
    known_items: Container[str],
    suppressed_item_ids: frozenset[str],
) -> Inputs:
    """Return the inputs of a visitor; raises UnknownItemError for an item that is not known."""
    rated = {item_id for item_id, _ in visitor.history}
    require_items(rated, known_items)
    timestamp = int(time.time())
    return Inputs(
        user=User(id=VISITOR_ID, attributes=dict(visitor.attributes)),
        history=tuple(
            Interaction(user_id=VISITOR_ID, item_id=item_id, rating=rating, timestamp=timestamp)
            for item_id, rating in visitor.history
            if item_id not in suppressed_item_ids
        ),
        seen_item_ids=frozenset(rated),
        suppressed_item_ids=suppressed_item_ids,
        data_version=standing.data_version,
        alias=standing.alias,
        is_restoring=standing.is_restoring,
    )


def recheck(
    standing_of: Callable[..., Standing],
    pseudonyms: Pseudonyms,
    user_ids: Sequence[str],
    seen_version: int,
) -> Recheck:
    """Return the changes since `seen_version`, from a new snapshot; call before sending an answer.

    `standing_of` is `StateRepository.standing`, or `UnitOfWorkFactory.standing` outside of a unit
    of work. A deletion of any user counts, because the first stage's statistics contained that
    user. A change of the catalog counts, because it may be the end of an item that only this user
    rated.
    """
    hashes = {
        user_hash: user_id for user_id in user_ids for user_hash in pseudonyms.user_hashes(user_id)
    }
    standing = standing_of(hashes, seen_version)
    changes = standing.changes
    return Recheck(
        gone=frozenset(hashes[user_hash] for user_hash in standing.suppressed),
        # A pruned log may have lost a deletion.
        is_overtaken=not changes.is_complete or changes.overtaking > seen_version,
        data_version=standing.data_version,
        alias=standing.alias,
        is_restoring=standing.is_restoring,
    )


def require_items(item_ids: Iterable[str], known: Container[str]) -> None:
    """Raise UnknownItemError, with some of the ids, unless all items are known."""
    unknown = sorted(item_id for item_id in item_ids if item_id not in known)
    if unknown:
        raise UnknownItemError(item_id=some_of(unknown))
