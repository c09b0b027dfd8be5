"""Adds or replaces interactions, unless they concern somebody or something forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.errors import ForgottenPersonError, UnknownItemError
from app.services.validation import check_interaction

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from app.domain.catalog import Interaction
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWork


def add_interactions(
    uow: UnitOfWork, pseudonyms: Pseudonyms, interactions: Sequence[Interaction]
) -> int:
    """Store the interactions and return how many; a batch is taken whole or not at all.

    Of two ratings of one item by one user the later in the batch wins. Unknown users are created.
    """
    uow.state.lock()
    now = uow.state.now()
    for interaction in interactions:
        check_interaction(interaction, now)
    if not interactions:
        return 0
    latest = {(one.user_id, one.item_id): one for one in interactions}
    forgotten = forgotten_pairs(uow, pseudonyms, latest)
    if forgotten:
        raise ForgottenPersonError(ids=", ".join(sorted(set(forgotten.values()))))
    item_ids = {item_id for _, item_id in latest}
    unknown = item_ids - uow.people.known_items(item_ids)
    if unknown:
        raise UnknownItemError(item_id=", ".join(sorted(unknown)))
    user_ids = sorted({user_id for user_id, _ in latest})
    uow.people.ensure_users(user_ids)
    uow.people.upsert_interactions(list(latest.values()))
    uow.state.bump("interactions", user_ids)
    return len(latest)


def forgotten_pairs(
    uow: UnitOfWork, pseudonyms: Pseudonyms, pairs: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], str]:
    """Return the pairs that may not be stored, each with the id that is suppressed."""
    pairs = list(pairs)
    users = {user_id: pseudonyms.user(user_id) for user_id in {user for user, _ in pairs}}
    items = {item_id: pseudonyms.item(item_id) for item_id in {item for _, item in pairs}}
    singles = {pair: pseudonyms.interaction(*pair) for pair in pairs}
    hashes = uow.suppressions.matching([*users.values(), *items.values(), *singles.values()])
    if not hashes:
        return {}
    found: dict[tuple[str, str], str] = {}
    for user_id, item_id in pairs:
        if users[user_id] in hashes:
            found[user_id, item_id] = user_id
        elif items[item_id] in hashes:
            found[user_id, item_id] = item_id
        elif singles[user_id, item_id] in hashes:
            found[user_id, item_id] = f"{user_id}/{item_id}"
    return found
