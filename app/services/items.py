"""Store, withdraw and read items of the catalog.

A withdrawn item is no longer recommended, but its ratings stay in the users' histories and no
model unlearns them. `app.services.forget` deletes items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.errors import UnknownItemError
from app.domain.id_rules import MalformedTextError, check_text
from app.services.pagination import DEFAULT_LIMIT, Page, check_limit, invalid_cursor
from app.services.recommendation_inputs import require_items
from app.services.suppression import forgotten_ids, outcomes_of, refuse_entries
from app.services.validation import check_texts, normal_item_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.catalog import EntryOutcome, Item, NewItem
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWork


def store_items(
    uow: UnitOfWork,
    pseudonyms: Pseudonyms,
    items: Sequence[NewItem],
    *,
    skip_forgotten: bool = False,
) -> list[EntryOutcome]:
    """Add or change the items, all or none, and make them available.

    Return the outcome of each entry: the last of several entries for one item wins. Raises
    ForgottenPersonError for suppressed items, unless `skip_forgotten`.
    """
    # With the lock, a concurrent deletion either commits first and is seen, or waits.
    uow.state.lock()
    normal: list[NewItem] = []
    ids_by_hash: dict[str, str] = {}
    for spelled_id, title, attributes in items:
        check_texts(title, attributes)
        item_id = normal_item_id(spelled_id)
        normal.append((item_id, title, attributes))
        ids_by_hash |= dict.fromkeys(pseudonyms.item_hashes(spelled_id), item_id)
    forgotten = forgotten_ids(uow, ids_by_hash)
    if not skip_forgotten:
        refuse_entries([item[0] in forgotten for item in normal])
    latest = {item[0]: item for item in normal if item[0] not in forgotten}
    if latest:
        uow.people.upsert_items(list(latest.values()))
        uow.people.set_available(latest, available=True)
        uow.state.bump("items")
    return outcomes_of([item[0] for item in normal], forgotten)


def withdraw_items(uow: UnitOfWork, item_ids: Sequence[str]) -> int:
    """Make the items unavailable, all or none, and return the number of distinct items."""
    uow.state.lock()
    distinct_ids = set(map(normal_item_id, item_ids))
    require_items(distinct_ids, uow.people.known_items(distinct_ids) - uow.requests.open_item_ids())
    uow.people.set_available(sorted(distinct_ids), available=False)
    uow.state.bump("items")
    return len(distinct_ids)


def read_item(uow: UnitOfWork, item_id: str) -> Item:
    """Return an item, or raise UnknownItemError if it is unknown or has an open deletion."""
    item_id = normal_item_id(item_id)
    item = uow.people.item(item_id)
    if item is None or item.retired or item_id in uow.requests.open_item_ids():
        raise UnknownItemError(item_id=item_id)
    return item


def list_items(
    uow: UnitOfWork, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[Item]:
    """Return one page of the catalog in order of id. The cursor is the last id of a page.

    Items with an open deletion are left out, so a page may be shorter than `limit`.
    """
    check_limit(limit)
    if cursor is not None:
        try:
            check_text(cursor)
        except MalformedTextError as error:
            raise invalid_cursor() from error
    rows = uow.people.page_of_items(limit + 1, cursor)
    suppressed_ids = uow.requests.open_item_ids()
    items = rows[:limit]
    return Page(
        items=[item for item in items if item.id not in suppressed_ids],
        next_cursor=items[-1].id if len(rows) > limit else None,
    )
