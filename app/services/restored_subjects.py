"""Find the plain ids of deletion requests of which only keyed hashes are known.

The ids of stored users and items are hashed and compared. A pair is looked for among the pairs of
its user, whose keyed hash the ledger has. Only for older entries, all pairs have to be hashed.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from app.domain.requests import Scope, Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from app.domain.requests import ForgetRequest
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWork


def find_subjects(uow: UnitOfWork, pseudonyms: Pseudonyms, owners: Mapping[str, str | None]) -> int:
    """Write the plain ids that are stored into these requests; return how many have none.

    `owners` has the keyed hash of the user for each request of pairs, or None if it is unknown.
    """
    requests = [uow.requests.get(request_id) for request_id in owners]
    by_scope: dict[Scope, list[ForgetRequest]] = defaultdict(list)
    for request in requests:
        by_scope[request.scope].append(request)
    subjects: dict[str, Subject] = {}
    users = by_scope[Scope.USER]
    if users or any(owners[request.id] for request in by_scope[Scope.USER_ITEMS]):
        wanted = {h for request in users for h in request.subject_hashes}
        wanted |= {owner for owner in owners.values() if owner is not None}
        stored = _matching(uow.identity.user_ids(), pseudonyms.user_hashes, wanted)
        for request in users:
            user_id = next((stored[h] for h in request.subject_hashes if h in stored), None)
            if user_id is not None:
                subjects[request.id] = Subject(scope=Scope.USER, user_id=user_id)
        subjects |= _pairs_of_owners(uow, pseudonyms, by_scope[Scope.USER_ITEMS], owners, stored)
    subjects |= _items(uow, pseudonyms, by_scope[Scope.ITEM])
    ownerless = [r for r in by_scope[Scope.USER_ITEMS] if owners[r.id] is None]
    subjects |= _pairs(uow, pseudonyms, ownerless)
    for request_id, subject in subjects.items():
        uow.requests.write_subject(request_id, subject)
    return len(requests) - len(subjects)


def _matching(
    ids: Iterable[str], hashes_of: Callable[[str], Iterable[str]], wanted: set[str]
) -> dict[str, str]:
    """Return keyed hash → stored id for the wanted hashes."""
    return {h: stored_id for stored_id in ids for h in hashes_of(stored_id) if h in wanted}


def _items(
    uow: UnitOfWork, pseudonyms: Pseudonyms, requests: list[ForgetRequest]
) -> dict[str, Subject]:
    if not requests:
        return {}
    wanted = {h for request in requests for h in request.subject_hashes}
    stored = _matching(uow.identity.item_ids(), pseudonyms.item_hashes, wanted)
    subjects: dict[str, Subject] = {}
    for request in requests:
        item_ids = tuple(sorted({stored[h] for h in request.subject_hashes if h in stored}))
        if item_ids:
            subjects[request.id] = Subject(scope=Scope.ITEM, item_ids=item_ids)
    return subjects


def _pairs_of_owners(
    uow: UnitOfWork,
    pseudonyms: Pseudonyms,
    requests: list[ForgetRequest],
    owners: Mapping[str, str | None],
    stored: Mapping[str, str],
) -> dict[str, Subject]:
    subjects: dict[str, Subject] = {}
    for request in requests:
        user_id = stored.get(owners[request.id] or "")
        if user_id is None:
            continue
        wanted = set(request.subject_hashes)
        item_ids = tuple(
            sorted(
                row.item_id
                for row in uow.people.history(user_id)
                if not wanted.isdisjoint(pseudonyms.interaction_hashes(user_id, row.item_id))
            )
        )
        if item_ids:
            subjects[request.id] = Subject(
                scope=Scope.USER_ITEMS, user_id=user_id, item_ids=item_ids
            )
    return subjects


def _pairs(
    uow: UnitOfWork, pseudonyms: Pseudonyms, requests: list[ForgetRequest]
) -> dict[str, Subject]:
    """Hash all stored pairs, which takes two minutes of processor time for ten million."""
    if not requests:
        return {}
    wanted = {h: request.id for request in requests for h in request.subject_hashes}
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for row in uow.people.interactions():
        for subject_hash in pseudonyms.interaction_hashes(row.user_id, row.item_id):
            if subject_hash in wanted:
                found[wanted[subject_hash]].add((row.user_id, row.item_id))
    return {
        request_id: Subject(
            scope=Scope.USER_ITEMS,
            user_id=min(user_id for user_id, _ in pairs),
            item_ids=tuple(sorted(item_id for _, item_id in pairs)),
        )
        for request_id, pairs in found.items()
    }
