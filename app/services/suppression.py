"""Suppressed ids: find them, refuse data for them, and lift tombstones after new consent."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from app.domain.catalog import EntryOutcome
from app.domain.errors import ConflictError, ForgottenPersonError
from app.domain.requests import OPEN_STATUSES, Scope, Subject
from app.services import ledger
from app.services.validation import normal_item_id, some_of, unknown_user

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWork


def forgotten_ids(uow: UnitOfWork, ids_by_hash: Mapping[str, str]) -> set[str]:
    """Return the ids whose keyed hashes are suppressed."""
    return {ids_by_hash[subject_hash] for subject_hash in uow.suppressions.matching(ids_by_hash)}


def refuse_entries(is_forgotten: Sequence[bool]) -> None:
    """Raise ForgottenPersonError with the numbers of the forgotten entries, if there are any."""
    numbers = [str(number) for number, refused in enumerate(is_forgotten, start=1) if refused]
    if numbers:
        raise ForgottenPersonError(entries=some_of(numbers))


def outcomes_of(ids: Sequence[str], forgotten: Container[str]) -> list[EntryOutcome]:
    """Return the outcomes of entries with these ids; the last of several for one id is stored."""
    last_positions = {entry_id: position for position, entry_id in enumerate(ids)}
    outcomes = []
    for position, entry_id in enumerate(ids):
        is_last = last_positions[entry_id] == position
        outcome = EntryOutcome.STORED if is_last else EntryOutcome.REPLACED
        outcomes.append(EntryOutcome.FORGOTTEN if entry_id in forgotten else outcome)
    return outcomes


def forgotten_pairs(
    uow: UnitOfWork, pseudonyms: Pseudonyms, pairs: Iterable[tuple[str, str]]
) -> set[tuple[str, str]]:
    """Return the (user id, item id) pairs that may not be stored.

    The pairs have the ids of the caller, because a suppression from before the id rule is found by
    the hash of that spelling only.
    """
    pairs = list(pairs)
    user_hashes = {user: pseudonyms.user_hashes(user) for user in {user for user, _ in pairs}}
    item_hashes = {item: pseudonyms.item_hashes(item) for item in {item for _, item in pairs}}
    pair_hashes = {pair: pseudonyms.interaction_hashes(*pair) for pair in pairs}
    suppressed = uow.suppressions.matching(
        chain.from_iterable(
            (*user_hashes.values(), *item_hashes.values(), *pair_hashes.values()),
        )
    )
    return {
        (user_id, item_id)
        for user_id, item_id in pairs
        if not suppressed.isdisjoint(user_hashes[user_id])
        or not suppressed.isdisjoint(item_hashes[item_id])
        or not suppressed.isdisjoint(pair_hashes[user_id, item_id])
    }


def record_consent(
    uow: UnitOfWork, pseudonyms: Pseudonyms, user_id: str, item_ids: Iterable[str] = ()
) -> int:
    """Lift the tombstones of a user and return how many were lifted.

    A tombstone holds a keyed hash only, so tombstones of single interactions are lifted only for
    the given item ids. Raises ConflictError while a deletion of this user is open, and
    UnknownUserError for a user without data, tombstones or completed deletions.
    """
    normal_user_id = pseudonyms.user_id(user_id)
    # The spellings of the caller are hashed as well: they may be in older tombstones.
    spelled_items = {normal_item_id(item_id): item_id for item_id in item_ids}
    uow.state.lock()
    user_hashes = pseudonyms.user_hashes(user_id)
    subjects = [user_hashes]
    subjects += (pseudonyms.interaction_hashes(user_id, i) for i in spelled_items.values())
    # After its rows are deleted, an open request has no plain id, only hashes.
    suppressing = uow.requests.suppressing(chain.from_iterable(subjects))
    open_requests = uow.requests.open_of_user(normal_user_id) or [
        request for request in suppressing if request.status in OPEN_STATUSES
    ]
    if open_requests:
        raise ConflictError(
            f"The deletion {open_requests[0].id} of this user is not completed yet. "
            "Record the consent after its completion."
        )
    lifted_of_subjects = [
        [h for h in hashes if uow.suppressions.lift_hash(h)] for hashes in subjects
    ]
    lifted = sum(map(bool, lifted_of_subjects))
    is_known = (
        lifted
        or uow.people.user(normal_user_id)
        or any(map(uow.requests.latest_completed, user_hashes))
    )
    if not is_known:
        raise unknown_user(pseudonyms)
    if lifted and uow.people.count_of(normal_user_id):
        # A training may have left the rows out meanwhile, so no release may count them as known.
        version = uow.state.bump("interactions", [normal_user_id])
        uow.people.mark_changed(Subject(scope=Scope.USER, user_id=normal_user_id), version)
    if lifted:
        ledger.record_consent(uow, chain.from_iterable(lifted_of_subjects))
    return lifted
