"""Add or replace interactions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.errors import ForgottenPersonError, UnknownItemError
from app.services.suppression import forgotten_pairs
from app.services.validation import normal_interaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.catalog import Interaction
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWork


def add_interactions(
    uow: UnitOfWork, pseudonyms: Pseudonyms, interactions: Sequence[Interaction]
) -> int:
    """Store the interactions, all or none, and return the number of (user, item) pairs.

    The last of several ratings of one item by one user wins. Unknown users are created. Ratings
    that are stored already with the same value change nothing. Raises
    InvalidInputError, ForgottenPersonError for suppressed ids, or UnknownItemError.
    """
    uow.state.lock()
    now = uow.state.now()
    rows = [normal_interaction(pseudonyms, row, now) for row in interactions]
    if not rows:
        return 0
    latest = {(row.user_id, row.item_id): row for row in rows}
    forgotten = forgotten_pairs(
        uow, pseudonyms, {(row.user_id, row.item_id): None for row in interactions}
    )
    if forgotten:
        raise ForgottenPersonError(ids=", ".join(sorted(set(forgotten.values()))))
    item_ids = {item_id for _, item_id in latest}
    unknown_ids = item_ids - uow.people.known_items(item_ids)
    if unknown_ids:
        raise UnknownItemError(item_id=", ".join(sorted(unknown_ids)))
    changed = uow.people.unequal(latest.values())
    if changed:
        user_ids = sorted({row.user_id for row in changed})
        version = uow.state.bump("interactions", user_ids)
        uow.people.ensure_users(user_ids, holdout=pseudonyms.drawn_as_holdout(user_ids))
        uow.people.upsert_interactions(changed, version)
    return len(latest)
