"""Adds, changes, withdraws and shows items while the service answers.

Withdrawing is not forgetting: the item's ratings stay people's history, and nothing is unlearnt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.errors import InvalidInputError, UnknownItemError
from app.services.pages import DEFAULT_LIMIT, MAX_LIMIT, Page
from app.services.recommendation_inputs import require_items
from app.services.suppression import refuse_forgotten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.catalog import Item
    from app.services.imports import NewItem
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWork


def store_items(uow: UnitOfWork, pseudonyms: Pseudonyms, items: Sequence[NewItem]) -> int:
    """Add or change the items and put them on the shelf, all or none; return how many.

    Of two entries for one item the later wins. A forgotten item is refused.
    """
    # A deletion that commits meanwhile waits for this one, or is seen by it.
    uow.state.lock()
    latest = {item[0]: item for item in items}
    refuse_forgotten(uow, {pseudonyms.item(item_id): item_id for item_id in latest})
    if latest:
        uow.people.upsert_items(list(latest.values()))
        uow.people.set_available(latest, available=True)
        uow.state.bump("items")
    return len(latest)


def withdraw_items(uow: UnitOfWork, item_ids: Sequence[str]) -> int:
    """Take the items off the shelf, all or none; return how many are off it now."""
    uow.state.lock()
    asked = set(item_ids)
    require_items(asked, uow.people.known_items(asked) - uow.requests.open_item_ids())
    uow.people.set_available(sorted(asked), available=False)
    uow.state.bump("items")
    return len(asked)


def read_item(uow: UnitOfWork, item_id: str) -> Item:
    """Return an item, or raise UnknownItemError; one that is being forgotten is unknown."""
    item = uow.people.item(item_id)
    if item is None or item.retired or item_id in uow.requests.open_item_ids():
        raise UnknownItemError(item_id=item_id)
    return item


def list_items(
    uow: UnitOfWork, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[Item]:
    """Return one page of the catalogue in order of id; a cursor is the last id of the one before.

    A page may be shorter than `limit` where items are being forgotten.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidInputError(f"limit must be 1 to {MAX_LIMIT}.")
    if cursor is not None and not cursor.isprintable():
        raise InvalidInputError("cursor must be the next_cursor of an earlier page.")
    found = uow.people.page_of_items(limit + 1, cursor)
    hidden = uow.requests.open_item_ids()
    items = found[:limit]
    return Page(
        items=[item for item in items if item.id not in hidden],
        next_cursor=items[-1].id if len(found) > limit else None,
    )
