"""Suppressed ids: find them, refuse data for them, and lift tombstones after new consent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.errors import ConflictError, ForgottenPersonError, UnknownUserError
from app.domain.requests import OPEN_STATUSES
from app.services.validation import check_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWork


def forgotten_ids(uow: UnitOfWork, ids_by_hash: Mapping[str, str]) -> set[str]:
    """Return the ids whose keyed hashes are suppressed."""
    return {ids_by_hash[subject_hash] for subject_hash in uow.suppressions.matching(ids_by_hash)}


def refuse_forgotten(uow: UnitOfWork, ids_by_hash: Mapping[str, str]) -> None:
    """Raise ForgottenPersonError with all suppressed ids, if there are any."""
    forgotten = forgotten_ids(uow, ids_by_hash)
    if forgotten:
        raise ForgottenPersonError(ids=", ".join(sorted(forgotten)))


def forgotten_pairs(
    uow: UnitOfWork, pseudonyms: Pseudonyms, pairs: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], str]:
    """Return the (user id, item id) pairs that may not be stored, each with the suppressed id."""
    pairs = list(pairs)
    user_hashes = {user_id: pseudonyms.user(user_id) for user_id in {user for user, _ in pairs}}
    item_hashes = {item_id: pseudonyms.item(item_id) for item_id in {item for _, item in pairs}}
    pair_hashes = {pair: pseudonyms.interaction(*pair) for pair in pairs}
    suppressed = uow.suppressions.matching(
        [*user_hashes.values(), *item_hashes.values(), *pair_hashes.values()]
    )
    if not suppressed:
        return {}
    forgotten: dict[tuple[str, str], str] = {}
    for user_id, item_id in pairs:
        if user_hashes[user_id] in suppressed:
            forgotten[user_id, item_id] = user_id
        elif item_hashes[item_id] in suppressed:
            forgotten[user_id, item_id] = item_id
        elif pair_hashes[user_id, item_id] in suppressed:
            forgotten[user_id, item_id] = f"{user_id}/{item_id}"
    return forgotten


def record_consent(
    uow: UnitOfWork, pseudonyms: Pseudonyms, user_id: str, item_ids: Iterable[str] = ()
) -> int:
    """Lift the tombstones of a user and return how many were lifted.

    A tombstone holds a keyed hash only, so tombstones of single interactions are lifted only for
    the given item ids. Raises ConflictError while a deletion of this user is open, and
    UnknownUserError for a user without data, tombstones or completed deletions.
    """
    check_id("user_id", user_id)
    distinct_item_ids = sorted(set(item_ids))
    for item_id in distinct_item_ids:
        check_id("item_id", item_id)
    uow.state.lock()
    user_hash = pseudonyms.user(user_id)
    hashes = [
        user_hash,
        *(pseudonyms.interaction(user_id, item_id) for item_id in distinct_item_ids),
    ]
    # After its rows are deleted, an open request has no plain id, only hashes.
    suppressing = [r for r in uow.requests.suppressing(hashes) if r.status in OPEN_STATUSES]
    open_requests = uow.requests.open_of_user(user_id) or suppressing
    if open_requests:
        raise ConflictError(
            f"The deletion {open_requests[0].id} of this user is not completed yet. "
            "Record the consent after its completion."
        )
    lifted = sum(uow.suppressions.lift_hash(subject_hash) for subject_hash in hashes)
    is_known = lifted or uow.people.user(user_id) or uow.requests.latest_completed(user_hash)
    if not is_known:
        raise UnknownUserError
    return lifted
