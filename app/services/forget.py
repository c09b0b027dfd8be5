"""Deletion requests: record, cancel, hold, release and read them.

`app.services.jobs` collects the recorded requests into batches, and `app.services.completion`
completes them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

from app.domain.catalog import NO_USER
from app.domain.errors import (
    ConflictError,
    IdempotencyConflictError,
    NotCancellableError,
    UnknownInteractionError,
    UnknownItemError,
    UnknownUserError,
)
from app.domain.identifiers import new_id
from app.domain.outbox import Topic
from app.domain.requests import ForgetRequest, RequestStatus, Scope, Subject
from app.services.ledger import record_accepted, record_cancelled
from app.services.validation import (
    check_subject,
    id_rule_hint,
    normal_subject,
    some_of,
    unknown_user,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.services.pseudonyms import Pseudonyms
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetCommand:
    """The caller's input: a user, some interactions of a user, or an item."""

    user_id: str | None = None
    item_ids: tuple[str, ...] = ()
    item_id: str | None = None

    @classmethod
    def of(cls, user_id: str | None, item_ids: Sequence[str], item_id: str | None) -> Self:
        return cls(user_id=user_id, item_ids=tuple(item_ids), item_id=item_id)

    def subject(self) -> Subject:
        """Return the subject with sorted, distinct items; raise InvalidInputError if malformed."""
        item_ids = tuple(sorted(set(self.item_ids)))
        if self.item_id is not None:
            # `check_subject` refuses an item_id that comes with a user_id or item_ids.
            all_ids = (*item_ids, self.item_id)
            subject = Subject(scope=Scope.ITEM, user_id=self.user_id, item_ids=all_ids)
        elif item_ids:
            subject = Subject(scope=Scope.USER_ITEMS, user_id=self.user_id, item_ids=item_ids)
        else:
            subject = Subject(scope=Scope.USER, user_id=self.user_id)
        check_subject(subject)
        return subject


def request_forget(
    uow: UnitOfWork,
    pseudonyms: Pseudonyms,
    settings: Settings,
    command: ForgetCommand,
    idempotency_key: str | None = None,
) -> tuple[ForgetRequest, bool]:
    """Record a deletion request and suppress its subject.

    Return the request, and whether this call created it: a repeated idempotency key, or an earlier
    request that covers the subject, returns the earlier request. The data lock serializes
    concurrent calls, so two calls with the same user or key create one request.
    """
    spelled = command.subject()
    subject = normal_subject(pseudonyms, spelled)
    uow.state.lock()
    replayed = _replay(uow, pseudonyms, spelled, idempotency_key)
    if replayed is not None:
        return replayed, False
    request = _covering(uow, pseudonyms, subject, spelled)
    created = request is None
    if request is None:
        _check_stored(uow, pseudonyms, subject)
        request = record_request(uow, pseudonyms, settings, subject)
    if idempotency_key is not None:
        uow.idempotency.add(
            pseudonyms.opaque("idempotency-key", idempotency_key),
            _body_hash(pseudonyms, subject),
            request.id,
        )
    return request, created


def forget_users(
    uow: UnitOfWork, pseudonyms: Pseudonyms, settings: Settings, user_ids: Sequence[str]
) -> list[ForgetRequest]:
    """Record one request per distinct user, in the given order.

    A user with an earlier deletion request gets that request. Raises UnknownUserError if any user
    is unknown; the caller's transaction then rolls back the other requests.
    """
    requests, unknown_ids = [], []
    spellings: dict[str, str] = {}
    for user_id in user_ids:
        spellings.setdefault(pseudonyms.user_id(user_id), user_id)
    for user_id in spellings.values():
        command = ForgetCommand(user_id=user_id)
        try:
            requests.append(request_forget(uow, pseudonyms, settings, command)[0])
        except UnknownUserError:
            unknown_ids.append(user_id)
    if unknown_ids:
        raise UnknownUserError(
            f"No data is stored for the users {some_of(unknown_ids)}. "
            f"No deletion was recorded for any user of this call.{id_rule_hint(pseudonyms)}"
        )
    return requests


def cancel_forget(uow: UnitOfWork, request_id: str) -> ForgetRequest:
    """Cancel a scheduled request and lift its suppressions, or raise NotCancellableError.

    The plain ids are cleared, because a later deletion of the same person could not find them. The
    update requires the status `scheduled`, as does the assignment to a batch, so only one of
    the two can succeed.
    """
    uow.state.lock()
    request = uow.requests.get(request_id)
    if request.status is not RequestStatus.SCHEDULED or not withdraw(uow, request):
        raise NotCancellableError(status=uow.requests.get(request_id).status)
    record_cancelled(uow, request)
    return uow.requests.get(request_id)


def withdraw(uow: UnitOfWork, request: ForgetRequest) -> bool:
    """Set a scheduled request to `cancelled` and lift its suppressions.

    Return False if the request is not `scheduled` any more. The caller holds the data lock.
    """
    if not uow.requests.change_status(
        request, [RequestStatus.SCHEDULED], status=RequestStatus.CANCELLED, subject=None
    ):
        return False
    uow.suppressions.lift(request.id)
    uow.idempotency.forget_bodies([request.id])
    if request.subject is not None:
        version = uow.state.bump("cancel", _affected_users(uow, request.subject))
        # A training may have left the rows out meanwhile, so no release may count them as known.
        uow.people.mark_changed(request.subject, version)
    return True


def hold_forget(uow: UnitOfWork, request_id: str) -> ForgetRequest:
    """Put a scheduled request on hold, so that no batch takes it."""
    uow.state.lock()
    request = uow.requests.get(request_id)
    if request.status is RequestStatus.ON_HOLD:
        return request
    return _change_status(uow, request, RequestStatus.ON_HOLD)


def release_forget(uow: UnitOfWork, request_id: str) -> ForgetRequest:
    """Return a held request to `scheduled`, or a dead request to `batched`."""
    uow.state.lock()
    request = uow.requests.get(request_id)
    is_dead = request.status is RequestStatus.DEAD
    status = RequestStatus.BATCHED if is_dead else RequestStatus.SCHEDULED
    released = _change_status(uow, request, status)
    uow.outbox.add(Topic.REQUEST, request_id)
    return released


def _change_status(uow: UnitOfWork, request: ForgetRequest, status: RequestStatus) -> ForgetRequest:
    changes: dict[str, Any] = {"status": status}
    if request.status is RequestStatus.DEAD:
        # The request starts fresh, as if no job had failed.
        changes |= {"failures": 0, "retry_group": None, "last_failure": None}
        changes |= {"failed_at": None, "retry_at": None}
    if not uow.requests.change_status(request, [request.status], **changes):
        raise ConflictError(
            f"The status of the request {request.id} changed during this call. "
            "Read the request again before you retry."
        )
    return uow.requests.get(request.id)


def _body_hash(pseudonyms: Pseudonyms, subject: Subject) -> str:
    body = [subject.scope, subject.user_id, subject.item_ids]
    return pseudonyms.opaque("body", json.dumps(body))


def _replay(
    uow: UnitOfWork, pseudonyms: Pseudonyms, spelled: Subject, key: str | None
) -> ForgetRequest | None:
    """Return the request that was recorded under this key, or None for a new key.

    Keys from before the id rule have the body hash of the caller's spelling.

    Raises IdempotencyConflictError if the key was used for another subject.
    """
    if key is None:
        return None
    entry = uow.idempotency.find(pseudonyms.opaque("idempotency-key", key))
    if entry is None:
        return None
    body_hash, request_id = entry
    request = uow.requests.get(request_id)
    # The completion of a request empties the body hash. The request's subject hashes still allow
    # a comparison.
    is_same = (
        body_hash
        in {_body_hash(pseudonyms, s) for s in (spelled, normal_subject(pseudonyms, spelled))}
        if body_hash
        else _covers(request, pseudonyms, spelled)
    )
    if not is_same:
        raise IdempotencyConflictError
    return request


def _covers(request: ForgetRequest, pseudonyms: Pseudonyms, subject: Subject) -> bool:
    """Return whether the request suppresses everything in the subject, in any spelling."""
    hashes = set(request.subject_hashes)
    user_id, item_ids = subject.user_id, subject.item_ids
    if user_id is not None and not hashes.isdisjoint(pseudonyms.user_hashes(user_id)):
        return True
    # The deletion of an item includes all interactions with the item.
    alternatives = [[pseudonyms.item_hashes(item_id) for item_id in item_ids]]
    if user_id is not None:
        alternatives.append([pseudonyms.interaction_hashes(user_id, i) for i in item_ids])
    return any(
        bool(parts) and not any(hashes.isdisjoint(part) for part in parts) for parts in alternatives
    )


def _covering(
    uow: UnitOfWork, pseudonyms: Pseudonyms, subject: Subject, spelled: Subject
) -> ForgetRequest | None:
    """Return an open or completed request that already covers the subject.

    A completed deletion of another spelling, from before the id rule, covers the subject only if no
    data is stored in the normal spelling.
    """
    user_id = subject.user_id
    if user_id is None:
        is_stored = bool(uow.people.known_items(subject.item_ids))
    else:
        is_stored = uow.people.user(user_id) is not None
    wanted = subject if is_stored else spelled
    hashes = [h for item_id in wanted.item_ids for h in pseudonyms.item_hashes(item_id)]
    if wanted.user_id is not None:
        hashes += pseudonyms.user_hashes(wanted.user_id)
        for item_id in wanted.item_ids:
            hashes += pseudonyms.interaction_hashes(wanted.user_id, item_id)
    for request in uow.requests.suppressing(hashes):
        if _covers(request, pseudonyms, wanted):
            return request
    if wanted.user_id is not None and not is_stored:
        # The user was deleted and has consented since, but no new data is stored: the completed
        # request still describes the state.
        completed = map(uow.requests.latest_completed, pseudonyms.user_hashes(wanted.user_id))
        return next((request for request in completed if request is not None), None)
    return None


def _check_stored(uow: UnitOfWork, pseudonyms: Pseudonyms, subject: Subject) -> None:
    """Raise the NotFoundError for a part of the subject that is not stored."""
    if subject.user_id is None:
        (item_id,) = subject.item_ids
        if item_id not in uow.people.known_items([item_id]):
            raise UnknownItemError(item_id=item_id)
        return
    if uow.people.user(subject.user_id) is None:
        raise unknown_user(pseudonyms)
    rated_ids = {interaction.item_id for interaction in uow.people.history(subject.user_id)}
    missing_ids = [item_id for item_id in subject.item_ids if item_id not in rated_ids]
    if missing_ids:
        raise UnknownInteractionError(item_ids=", ".join(missing_ids))


def record_request(
    uow: UnitOfWork, pseudonyms: Pseudonyms, settings: Settings, subject: Subject
) -> ForgetRequest:
    """Write the request, its suppressions, the change log entries and the wake-up message."""
    now = uow.state.now()
    request = ForgetRequest(
        id=new_id("req"),
        scope=subject.scope,
        subject=subject,
        subject_hashes=pseudonyms.of(subject),
        status=RequestStatus.SCHEDULED,
        created_at=now,
        due_at=now + timedelta(days=settings.due_days),
        exact_due_at=now + timedelta(days=settings.exact_days),
        cancellable_until=now + timedelta(seconds=settings.cancel_window),
    )
    uow.requests.add(request)
    uow.suppressions.add(request.subject_hashes, request)
    # The deletion of an item is one entry: replicas leave the item out by the open request.
    uow.state.bump("forget", [NO_USER if subject.user_id is None else subject.user_id])
    uow.outbox.add(Topic.REQUEST, request.id)
    owner = pseudonyms.user(subject.user_id or "") if subject.scope is Scope.USER_ITEMS else None
    record_accepted(uow, request, owner)
    return request


def _affected_users(uow: UnitOfWork, subject: Subject) -> Sequence[str]:
    """Return the users whose interactions count again: the subject's, or all raters of the item."""
    if subject.user_id is not None:
        return [subject.user_id]
    raters = {user for item_id in subject.item_ids for user in uow.people.raters_of(item_id)}
    return sorted(raters) or [NO_USER]
