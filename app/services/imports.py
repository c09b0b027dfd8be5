"""Import users, items and interactions in chunks.

Each chunk is one transaction, so that the service can answer requests during an import.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from app.domain.catalog import ItemOrigin
from app.domain.errors import InvalidInputError
from app.domain.id_rules import spellings
from app.services.orphaned_items import retire_orphans
from app.services.suppression import forgotten_ids, forgotten_pairs
from app.services.validation import check_texts, normal_interaction, normal_item_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from app.domain.catalog import Interaction, NewItem, User
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWork, UnitOfWorkFactory

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """Numbers of stored rows, and of skipped rows by reason.

    The reasons are `forgotten`, `unknown_item` and `older`, which count interactions,
    `forgotten_users`, `forgotten_items`, and `invalid`. `invalid` has the number of invalid rows
    for each fault.
    """

    users: int = 0
    items: int = 0
    interactions: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    invalid: dict[str, int] = field(default_factory=dict)

    def plus(self, skipped: dict[str, int], invalid: Counter[str], **stored: int) -> ImportResult:
        """Return the sum of this result and the numbers of another chunk."""
        skipped = {**skipped, "invalid": invalid.total()}
        reasons = set(self.skipped) | {reason for reason, count in skipped.items() if count}
        return replace(
            self,
            skipped={r: self.skipped.get(r, 0) + skipped.get(r, 0) for r in sorted(reasons)},
            invalid=dict(sorted((invalid + Counter(self.invalid)).items())),
            **{name: getattr(self, name) + count for name, count in stored.items()},
        )


def import_data(  # noqa: PLR0913 - one parameter for each kind of row
    factory: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    *,
    users: Iterable[User],
    items: Iterable[NewItem],
    interactions: Iterable[Interaction],
    chunk: int = 5000,
    on_progress: Callable[[int], None] | None = None,
    rated_items: Iterable[NewItem] = (),
    described_by: Mapping[str, str] = MappingProxyType({}),
) -> ImportResult:
    """Import all valid rows that are not suppressed, `chunk` rows per transaction.

    `users` may contain only the users with attributes: users of interactions are created. An
    import can be repeated, because every row is added or replaced. `on_progress` receives the
    number of rows of each chunk. `items` are those of a catalog; `rated_items` are items that only
    the ratings of this import name, see `items_to_name`. `described_by` has the user whose rows
    alone describe a rated item; the description is stored after the user's interaction, and only
    if the interaction is stored, so that a deletion of the user finds both.
    """
    result = ImportResult()
    rated = list(rated_items)
    named = [(item[0], "", {}) if item[0] in described_by else item for item in rated]
    described = [(described_by[item[0]], item) for item in rated if item[0] in described_by]
    steps: list[tuple[Iterable[Iterable[object]], Callable[..., ImportResult]]] = [
        (_chunks(items, chunk), partial(_import_items, origin=ItemOrigin.CATALOG)),
        (_chunks(named, chunk), partial(_import_items, origin=ItemOrigin.RATINGS)),
        (_chunks(users, chunk), _import_users),
        (_chunks(interactions, chunk), _import_interactions),
        (_chunks(described, chunk), _describe_items),
    ]
    for chunks, store in steps:
        for rows_of_chunk in chunks:
            rows = list(rows_of_chunk)
            with factory() as uow:
                # With the lock, a concurrent deletion either commits first and is seen, or waits.
                uow.state.lock()
                result = store(uow, pseudonyms, rows, result)
            if on_progress is not None:
                on_progress(len(rows))
    if result.skipped:
        # The first spelling is the normal form, which is stored.
        _retire_unrated(factory, [spellings(item[0])[0] for item in rated], chunk)
    return result


def items_to_name(
    uow: UnitOfWork, pseudonyms: Pseudonyms, pairs: Iterable[tuple[str, str]]
) -> set[str]:
    """Return the item ids of those (user id, item id) pairs that are not suppressed.

    An import stores no item that only the rows of forgotten users name, because the id may be
    about the user.
    """
    suppressed = uow.suppressions.all_hashes()
    is_forgotten: dict[str, bool] = {}
    item_ids: set[str] = set()
    for user_id, item_id in pairs:
        if item_id in item_ids:
            continue
        if user_id not in is_forgotten:
            hashes = pseudonyms.user_hashes(user_id) if suppressed else ()
            is_forgotten[user_id] = not suppressed.isdisjoint(hashes)
        if is_forgotten[user_id]:
            continue
        pair_hashes = pseudonyms.interaction_hashes(user_id, item_id) if suppressed else ()
        if suppressed.isdisjoint(pair_hashes):
            item_ids.add(item_id)
    return item_ids


def authors_of_texts(uow: UnitOfWork, pseudonyms: Pseudonyms) -> Callable[[str, str], str | None]:
    """Return a function from (user id, item id) to the normal user id; None if suppressed.

    Spellings of one id are one author, who cannot confirm a text of the other spelling.
    """
    suppressed = uow.suppressions.all_hashes()

    def author(user_id: str, item_id: str) -> str | None:
        hashes: tuple[str, ...] = ()
        if suppressed:
            hashes = pseudonyms.user_hashes(user_id)
            hashes += pseudonyms.interaction_hashes(user_id, item_id)
        if not suppressed.isdisjoint(hashes):
            return None
        try:
            return pseudonyms.user_id(user_id)
        except InvalidInputError:  # The user's interaction will be counted as invalid.
            return None

    return author


def _retire_unrated(factory: UnitOfWorkFactory, item_ids: list[str], chunk: int) -> None:
    """Retire items whose ratings were skipped, because a user was forgotten during the import."""
    for ids in _chunks(item_ids, chunk):
        with factory() as uow:
            uow.state.lock()
            retire_orphans(uow, ids)


def _chunks(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _import_items(
    uow: UnitOfWork,
    pseudonyms: Pseudonyms,
    rows: list[NewItem],
    result: ImportResult,
    *,
    origin: ItemOrigin,
) -> ImportResult:
    pairs, invalid = _normal_rows(rows, _normal_item)
    valid = {item[0]: item for _, item in pairs}
    ids_by_hash = {h: item[0] for row, item in pairs for h in pseudonyms.item_hashes(row[0])}
    forgotten = forgotten_ids(uow, ids_by_hash)
    kept = [row for item_id, row in valid.items() if item_id not in forgotten]
    if kept:
        uow.people.upsert_items(kept, origin, erase=False)
        uow.state.bump("items")
    return result.plus({"forgotten_items": len(forgotten)}, invalid, items=len(kept))


def _describe_items(
    uow: UnitOfWork,
    pseudonyms: Pseudonyms,
    rows: list[tuple[str, NewItem]],
    result: ImportResult,
) -> ImportResult:
    """Describe items by rows of one user each, if the user's interaction with the item is stored.

    A row is the user's id and the described item. The items were counted when they were named.
    """
    pairs, invalid = _normal_rows(
        rows, lambda row: (pseudonyms.user_id(row[0]), _normal_item(row[1]))
    )
    stored = uow.people.rated_pairs((user_id, item[0]) for _, (user_id, item) in pairs)
    # The interaction of a user who was forgotten during the import may still be stored.
    forgotten = forgotten_pairs(uow, pseudonyms, {(row[0], row[1][0]) for row, _ in pairs})
    kept = [
        item
        for row, (user_id, item) in pairs
        if (user_id, item[0]) in stored and (row[0], row[1][0]) not in forgotten
    ]
    if kept:
        uow.people.upsert_items(kept, ItemOrigin.RATER, erase=False)
        uow.state.bump("items")
    return result.plus({}, invalid)


def _import_users(
    uow: UnitOfWork, pseudonyms: Pseudonyms, rows: list[User], result: ImportResult
) -> ImportResult:
    pairs, invalid = _normal_rows(rows, partial(_normal_user, pseudonyms))
    valid = {user.id: user for _, user in pairs}
    ids_by_hash = {h: user.id for row, user in pairs for h in pseudonyms.user_hashes(row.id)}
    forgotten = forgotten_ids(uow, ids_by_hash)
    kept = [user for user in valid.values() if user.id not in forgotten]
    if kept:
        holdout = pseudonyms.drawn_as_holdout(user.id for user in kept)
        uow.people.upsert_users(kept, holdout=holdout)
        uow.state.bump("interactions")
    return result.plus({"forgotten_users": len(forgotten)}, invalid, users=len(kept))


def _import_interactions(
    uow: UnitOfWork, pseudonyms: Pseudonyms, rows: list[Interaction], result: ImportResult
) -> ImportResult:
    now = uow.state.now()
    pairs, invalid = _normal_rows(rows, lambda row: normal_interaction(pseudonyms, row, now))
    suppressed = forgotten_pairs(uow, pseudonyms, {(row.user_id, row.item_id) for row, _ in pairs})
    valid: dict[tuple[str, str], Interaction] = {}
    forgotten: set[tuple[str, str]] = set()
    for row, normal in pairs:
        pair = normal.user_id, normal.item_id
        if (row.user_id, row.item_id) in suppressed:
            forgotten.add(pair)
        # Two spellings of one pair can have different times. The order of their rows means nothing.
        if pair not in valid or valid[pair].timestamp <= normal.timestamp:
            valid[pair] = normal
    known = uow.people.known_items({item_id for _, item_id in valid})
    kept = [row for pair, row in valid.items() if pair not in forgotten and row.item_id in known]
    changed, older = uow.people.newer(kept)
    skipped = {
        "forgotten": len(forgotten),
        "unknown_item": len(valid) - len(forgotten) - len(kept),
        "older": len(older),
    }
    if changed:
        version = uow.state.bump("interactions")
        user_ids = {row.user_id for row in changed}
        uow.people.ensure_users(user_ids, holdout=pseudonyms.drawn_as_holdout(user_ids))
        uow.people.upsert_interactions(changed, version)
    return result.plus(skipped, invalid, interactions=len(kept) - len(older))


def _normal_rows(
    rows: Iterable[T], normal: Callable[[T], T]
) -> tuple[list[tuple[T, T]], Counter[str]]:
    """Return the valid rows, as given and with normal ids, and the number of faults by reason."""
    pairs: list[tuple[T, T]] = []
    invalid: Counter[str] = Counter()
    for row in rows:
        try:
            pairs.append((row, normal(row)))
        except InvalidInputError as error:
            invalid[error.context["reason"]] += 1
    return pairs, invalid


def _normal_item(row: NewItem) -> NewItem:
    item_id, title, attributes = row
    check_texts(title, attributes)
    return normal_item_id(item_id), title, attributes


def _normal_user(pseudonyms: Pseudonyms, user: User) -> User:
    check_texts("", user.attributes)
    return replace(user, id=pseudonyms.user_id(user.id))
