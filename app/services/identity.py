"""Fix the id rule at the first start, and give stored ids their normal form.

Databases from before the rule have ids as callers spelled them. Afterwards every spelling of an id
names the same person, and no suppression is lost: suppressed spellings suppress the normal form.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import structlog

from app.domain.errors import IdRuleMismatchError, InvalidInputError
from app.domain.requests import OPEN_STATUSES, Scope, Subject
from app.services.forget import record_request
from app.services.secrets import check_hash_key
from app.services.validation import normal_item_id, normal_subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from app.services.pseudonyms import Pseudonyms
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork

_log = structlog.get_logger(__name__)


def open_identity(uow: UnitOfWork, pseudonyms: Pseudonyms, settings: Settings) -> None:
    """Check the hash key and the id rule against the database; fix the rule at the first start.

    Raises KeyMismatchError or IdRuleMismatchError. Processes that start at the same time wait for
    the data lock, and find the rule stored.
    """
    check_hash_key(uow, pseudonyms)
    if uow.identity.rule() is None:
        uow.state.allow_long()
        uow.state.lock()
        if uow.identity.rule() is None:
            _apply_id_rule(uow, pseudonyms, settings)
            uow.identity.store_rule(pseudonyms.id_rule.value)
    stored = uow.identity.rule()
    if stored != pseudonyms.id_rule:
        raise IdRuleMismatchError(stored=stored, configured=pseudonyms.id_rule.value)


def _apply_id_rule(uow: UnitOfWork, pseudonyms: Pseudonyms, settings: Settings) -> None:
    """Draw the holdout users, rename or merge all stored ids, and keep every suppression."""
    users, kept_users = _changed_ids(uow.identity.user_ids(), pseudonyms.user_id)
    items, kept_items = _changed_ids(uow.identity.item_ids(), normal_item_id)
    _draw_holdout(uow, pseudonyms, settings.holdout_share)
    _rename_users(uow, users)
    spellings_of_items: dict[str, list[str]] = defaultdict(list)
    for spelled, normal in items.items():
        spellings_of_items[normal].append(spelled)
    for normal, spellings in spellings_of_items.items():
        _merge_items(uow, normal, spellings)
    logged, _ = _changed_ids(uow.identity.logged_ids(), pseudonyms.user_id)
    uow.identity.rename_in_log(logged)
    requests = _rewrite_requests(uow, pseudonyms)
    if users or items or requests:
        uow.state.bump("items")
        # As after a deletion: replicas rebuild their statistics before the next answer.
        uow.state.bump("forget")
    repeated = _repeat_deletions(uow, pseudonyms, settings, {*users.values(), *items.values()})
    numbers = {
        "renamed_users": len(users),
        "renamed_items": len(items),
        "rewritten_requests": requests,
        "repeated_deletions": repeated,
        "ids_without_normal_form": kept_users + kept_items,
    }
    if any(numbers.values()):
        # A warning, so that the command line shows it too.
        _log.warning("identity.rule_fixed", rule=pseudonyms.id_rule.value, **numbers)


def _changed_ids(ids: Iterable[str], normal: Callable[[str], str]) -> tuple[dict[str, str], int]:
    """Return stored id → normal form where they differ, and the number of ids without one."""
    changed: dict[str, str] = {}
    malformed = 0
    for stored_id in ids:
        try:
            normal_form = normal(stored_id)
        except InvalidInputError:
            malformed += 1
        else:
            if normal_form != stored_id:
                changed[stored_id] = normal_form
    return changed, malformed


def _draw_holdout(uow: UnitOfWork, pseudonyms: Pseudonyms, share: float) -> None:
    """Mark the holdout users, drawn from the ids from which earlier releases drew them."""
    drawn = [
        user_id for user_id in uow.identity.user_ids() if pseudonyms.never_trained(user_id, share)
    ]
    uow.identity.set_holdout(drawn, holdout=True)


def _rename_users(uow: UnitOfWork, normal_forms: Mapping[str, str]) -> None:
    """Give users their normal ids, and merge users with the same normal id."""
    shared = uow.identity.known_users(set(normal_forms.values()))
    shared |= {normal for normal, n in Counter(normal_forms.values()).items() if n > 1}
    uow.identity.rename_users({old: new for old, new in normal_forms.items() if new not in shared})
    for spelled, normal in normal_forms.items():
        if normal in shared:
            uow.identity.rename_user(spelled, normal)


def _merge_items(uow: UnitOfWork, normal: str, spellings: Sequence[str]) -> None:
    """Give the item with the lowest index the normal id and all ratings; retire the others.

    The merged item is available only if all of the items were.
    """
    stored = [uow.people.item(item_id) for item_id in (normal, *spellings)]
    kept, *others = sorted(
        (item for item in stored if item is not None), key=lambda item: item.item_index
    )
    for other in others:
        uow.identity.move_ratings(other.id, kept.id)
        uow.people.retire_item(other.id)
    if not all(item.available for item in (kept, *others)):
        uow.people.set_available([kept.id], available=False)
    if kept.id != normal:
        uow.identity.rename_item(kept.id, normal)


def _rewrite_requests(uow: UnitOfWork, pseudonyms: Pseudonyms) -> int:
    """Give the ids in requests their normal form and suppress them; return the number of requests.

    The hashes of the former spellings stay suppressed.
    """
    rewritten = 0
    for request_id in uow.identity.named_request_ids():
        request = uow.requests.get(request_id)
        if request.subject is None:
            continue
        try:
            subject = normal_subject(pseudonyms, request.subject)
        except InvalidInputError:
            continue
        if subject != request.subject:
            hashes = pseudonyms.of(subject) if request.status in OPEN_STATUSES else ()
            uow.identity.rewrite_request(request, subject, hashes)
            rewritten += 1
    return rewritten


def _repeat_deletions(
    uow: UnitOfWork, pseudonyms: Pseudonyms, settings: Settings, changed_ids: set[str]
) -> int:
    """Request the deletion of stored data whose other spelling was forgotten; return the number.

    Without the requests, the tombstone of one spelling would not protect the data of another.
    """
    tombstones = uow.identity.tombstones()
    if not tombstones:
        return 0

    def is_forgotten(hashes: Callable[..., Iterable[str]], *ids: str) -> bool:
        # An unchanged ASCII id has no other spelling that can be derived from the id.
        candidates = any(not one.isascii() or one in changed_ids for one in ids)
        return candidates and not tombstones.isdisjoint(hashes(*ids))

    items = [i for i in uow.identity.item_ids() if is_forgotten(pseudonyms.item_hashes, i)]
    users = [u for u in uow.identity.user_ids() if is_forgotten(pseudonyms.user_hashes, u)]
    pairs: dict[str, list[str]] = defaultdict(list)
    for row in uow.people.interactions():
        if is_forgotten(pseudonyms.interaction_hashes, row.user_id, row.item_id):
            pairs[row.user_id].append(row.item_id)
    open_items = uow.requests.open_item_ids()
    subjects = [
        *(Subject(scope=Scope.ITEM, item_ids=(i,)) for i in items if i not in open_items),
        *(Subject(scope=Scope.USER, user_id=user_id) for user_id in users),
        *(
            Subject(scope=Scope.USER_ITEMS, user_id=user_id, item_ids=tuple(sorted(item_ids)))
            for user_id, item_ids in pairs.items()
            if user_id not in users
        ),
    ]
    requested = 0
    for subject in subjects:
        open_requests = uow.requests.open_of_user(subject.user_id or "")
        if not any(request.scope is Scope.USER for request in open_requests):
            record_request(uow, pseudonyms, settings, subject)
            requested += 1
    return requested
