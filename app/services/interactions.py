"""Add or replace interactions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.catalog import EntryOutcome
from app.domain.errors import UnknownItemError
from app.services.suppression import forgotten_pairs, refuse_entries
from app.services.validation import normal_interaction, some_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from app.domain.catalog import Interaction
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWork


def add_interactions(
    uow: UnitOfWork,
    pseudonyms: Pseudonyms,
    interactions: Sequence[Interaction],
    *,
    skip_forgotten: bool = False,
) -> list[EntryOutcome]:
    """Store the interactions, all or none, and return the outcome of each.

    Of several ratings of one item by one user the latest wins, whether stored or in this call; of
    two at the same time, the last one. Unknown users are created. Ratings that are stored already
    with the same value change nothing. Raises InvalidInputError, UnknownItemError, or
    ForgottenPersonError for suppressed ids, unless `skip_forgotten`.
    """
    uow.state.lock()
    now = uow.state.now()
    rows = [normal_interaction(pseudonyms, row, now) for row in interactions]
    if not rows:
        return []
    pairs = [(row.user_id, row.item_id) for row in interactions]
    forgotten = forgotten_pairs(uow, pseudonyms, dict.fromkeys(pairs))
    if not skip_forgotten:
        refuse_entries([pair in forgotten for pair in pairs])
    # By the normal ids: the pair of another spelling is forgotten as well.
    skipped = {_pair(row) for pair, row in zip(pairs, rows, strict=True) if pair in forgotten}
    latest = _latest(row for row in rows if _pair(row) not in skipped)
    item_ids = {row.item_id for row in latest.values()}
    unknown_ids = item_ids - uow.people.known_items(item_ids)
    if unknown_ids:
        raise UnknownItemError(
            f"The catalog does not have {some_of(sorted(unknown_ids))}. Check the item ids, or add "
            "the items first. No rating of this call was stored."
        )
    changed, older = uow.people.newer(latest.values())
    if changed:
        user_ids = sorted({row.user_id for row in changed})
        version = uow.state.bump("interactions", user_ids)
        uow.people.ensure_users(user_ids, holdout=pseudonyms.drawn_as_holdout(user_ids))
        uow.people.upsert_interactions(changed, version)
    older_pairs = set(map(_pair, older))
    return [_outcome(row, latest.get(_pair(row)), older_pairs) for row in rows]


def _pair(row: Interaction) -> tuple[str, str]:
    return row.user_id, row.item_id


def _latest(rows: Iterable[Interaction]) -> dict[tuple[str, str], Interaction]:
    """Return the latest rating of each (user, item) pair."""
    latest: dict[tuple[str, str], Interaction] = {}
    for row in rows:
        other = latest.get(_pair(row))
        if other is None or other.timestamp <= row.timestamp:
            latest[_pair(row)] = row
    return latest


def _outcome(
    row: Interaction, latest: Interaction | None, older_pairs: Container[tuple[str, str]]
) -> EntryOutcome:
    """Return the outcome of a rating; `latest` is the latest of its pair, None if forgotten."""
    if latest is None:
        return EntryOutcome.FORGOTTEN
    if row.timestamp < latest.timestamp or _pair(row) in older_pairs:
        return EntryOutcome.OLDER
    return EntryOutcome.STORED if row is latest else EntryOutcome.REPLACED
