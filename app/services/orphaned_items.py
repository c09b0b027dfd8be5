"""Retire items that only deleted interactions named: their ids may be about the deleted user.

Items of a catalog stay. An item that rows of one user described, and that others rated too, loses
its title and attributes. An item of unknown origin was stored before origins were recorded; such an
item is retired if nothing describes it and no interaction is left, and is counted if described.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.domain.catalog import ItemOrigin
from app.domain.requests import Scope

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.domain.jobs import Lease
    from app.domain.requests import ForgetRequest
    from app.storage.unit_of_work import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanedItems:
    """Items of the deleted interactions, of which other users may have rated some too.

    `retired` are ids. `kept` is the number of items of unknown origin with a title or attributes
    that may have come with the deleted interactions. `described_by_rater` are the ids of items that
    stay and whose description came with the interactions of one user.
    """

    retired: frozenset[str] = frozenset()
    kept: int = 0
    described_by_rater: frozenset[str] = frozenset()


def rated_item_ids(uow: UnitOfWork, requests: Iterable[ForgetRequest]) -> set[str]:
    """Return the items of the interactions that the requests of users will delete."""
    item_ids: set[str] = set()
    for subject in (request.subject for request in requests):
        if subject is None or subject.user_id is None:
            continue
        rated = {event.item_id for event in uow.people.history(subject.user_id)}
        item_ids |= rated if subject.scope is Scope.USER else rated.intersection(subject.item_ids)
    return item_ids


def retire_orphans(uow: UnitOfWork, item_ids: Iterable[str]) -> OrphanedItems:
    """Retire those of the items that no interaction names any more, and count what may be left.

    Call this after the deletion, in its transaction and under the state lock.
    """
    distinct_ids = sorted(set(item_ids))
    orphans = [item for item in uow.people.unrated_items(distinct_ids) if item.is_from_ratings]
    items = uow.people.items_by_id(distinct_ids).values()
    kept = sum(item.origin is None and item.is_described for item in items)
    for item in orphans:
        uow.people.retire_item(item.id)
    if orphans:
        uow.state.bump("items")
    retired = frozenset(item.id for item in orphans)
    described = frozenset(item.id for item in items if item.origin is ItemOrigin.RATER)
    return OrphanedItems(retired=retired, kept=kept, described_by_rater=described - retired)


def retire_orphans_of_job(uow: UnitOfWork, lease: Lease, item_ids: Iterable[str]) -> frozenset[str]:
    """Retire orphaned items, add their numbers to the job's metrics, and return their ids.

    Other items lose a description that may have come with the deleted interactions.

    The numbers are written with the deletion, because a repetition finds no interactions and so
    adds zero.
    """
    orphans = retire_orphans(uow, item_ids)
    if orphans.described_by_rater:
        uow.people.clear_descriptions(orphans.described_by_rater)
        uow.state.bump("items")
    metrics = uow.jobs.get(lease.job_id).metrics
    counts = {"catalog_entries_retired": len(orphans.retired), "catalog_entries_kept": orphans.kept}
    totals = {name: metrics.get(name, 0) + count for name, count in counts.items()}
    uow.jobs.update(lease, metrics={**metrics, **totals})
    return orphans.retired
