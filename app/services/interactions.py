"""Add or replace interactions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.domain.errors import ForgottenPersonError, UnknownItemError
from app.services.suppression import forgotten_pairs
from app.services.validation import normal_interaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.catalog import Interaction
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInteractions:
    """Numbers of (user, item) pairs of a call."""

    #: Stored with the values of this call.
    stored: int = 0
    #: Not stored, because a later rating of the pair is stored or in the same call.
    older: int = 0
    #: Not stored, because the user, the item or the pair is forgotten.
    forgotten: int = 0


def add_interactions(
    uow: UnitOfWork,
    pseudonyms: Pseudonyms,
    interactions: Sequence[Interaction],
    *,
    skip_forgotten: bool = False,
) -> StoredInteractions:
    """Store the interactions, all or none, and count them.

    Of several ratings of one item by one user the latest wins, whether stored or in this call; of
    two at the same time, the last one. Unknown users are created. Ratings that are stored already
    with the same value change nothing. Raises InvalidInputError, UnknownItemError, or
    ForgottenPersonError for suppressed ids, unless `skip_forgotten`.
    """
    uow.state.lock()
    now = uow.state.now()
    rows = [normal_interaction(pseudonyms, row, now) for row in interactions]
    if not rows:
        return StoredInteractions()
    forgotten = forgotten_pairs(
        uow, pseudonyms, {(row.user_id, row.item_id): None for row in interactions}
    )
    if forgotten and not skip_forgotten:
        raise ForgottenPersonError(ids=", ".join(sorted(set(forgotten.values()))))
    skipped = {
        (row.user_id, row.item_id)
        for given, row in zip(interactions, rows, strict=True)
        if (given.user_id, given.item_id) in forgotten
    }
    latest, older_in_call = _latest(rows)
    kept = {pair: row for pair, row in latest.items() if pair not in skipped}
    item_ids = {item_id for _, item_id in kept}
    unknown_ids = item_ids - uow.people.known_items(item_ids)
    if unknown_ids:
        raise UnknownItemError(item_id=", ".join(sorted(unknown_ids)))
    changed, older = uow.people.newer(kept.values())
    if changed:
        user_ids = sorted({row.user_id for row in changed})
        version = uow.state.bump("interactions", user_ids)
        uow.people.ensure_users(user_ids, holdout=pseudonyms.drawn_as_holdout(user_ids))
        uow.people.upsert_interactions(changed, version)
    return StoredInteractions(
        stored=len(kept) - len(older),
        older=len(older) + sum(pair in kept for pair in older_in_call),
        forgotten=len(skipped),
    )


def _latest(
    rows: Sequence[Interaction],
) -> tuple[dict[tuple[str, str], Interaction], list[tuple[str, str]]]:
    """Return the latest rating of each (user, item) pair, and the pair of each older rating."""
    latest: dict[tuple[str, str], Interaction] = {}
    older: list[tuple[str, str]] = []
    for row in rows:
        pair = row.user_id, row.item_id
        other = latest.get(pair)
        if other is not None and other.timestamp != row.timestamp:
            older.append(pair)
        if other is None or other.timestamp <= row.timestamp:
            latest[pair] = row
    return latest, older
