"""Which ids are forgotten, and what is said of those that are refused for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.errors import ConflictError, ForgottenPersonError, UnknownUserError
from app.services.validation import check_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWork


def forgotten_ids(uow: UnitOfWork, hashes: Mapping[str, str]) -> set[str]:
    """Return those of the ids, given by their keyed hashes, that are suppressed."""
    return {hashes[found] for found in uow.suppressions.matching(hashes)}


def refuse_forgotten(uow: UnitOfWork, hashes: Mapping[str, str]) -> None:
    """Raise ForgottenPersonError, naming them, where any of the ids is suppressed."""
    forgotten = forgotten_ids(uow, hashes)
    if forgotten:
        raise ForgottenPersonError(ids=", ".join(sorted(forgotten)))


def record_consent(
    uow: UnitOfWork, pseudonyms: Pseudonyms, user_id: str, item_ids: Iterable[str] = ()
) -> int:
    """Lift the tombstones of this user and return how many were lifted.

    A tombstone is a keyed hash: those of single interactions can be found only when the item ids
    are given. Raises ConflictError while a deletion of this user is still open.
    """
    check_id("user_id", user_id)
    wanted = sorted(set(item_ids))
    for item_id in wanted:
        check_id("item_id", item_id)
    uow.state.lock()
    still_open = uow.requests.open_of_user(user_id)
    if still_open:
        raise ConflictError(f"The deletion {still_open[0].id} of this user is still open.")
    user_hash = pseudonyms.user(user_id)
    hashes = [user_hash, *(pseudonyms.interaction(user_id, item_id) for item_id in wanted)]
    lifted = sum(uow.suppressions.lift_hash(subject_hash) for subject_hash in hashes)
    known = lifted or uow.people.user(user_id) or uow.requests.latest_completed(user_hash)
    if not known:
        raise UnknownUserError
    return lifted
