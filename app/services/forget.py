"""Deletion requests: record, cancel, hold, release and read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

from app.domain.errors import (
    CertificateNotReadyError,
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
from app.services.validation import check_subject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.services.pseudonyms import Pseudonyms
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetCommand:
    """What a caller asks: a user, some interactions of a user, or an item."""

    user_id: str | None = None
    item_ids: tuple[str, ...] = ()
    item_id: str | None = None

    @classmethod
    def of(cls, user_id: str | None, item_ids: Sequence[str], item_id: str | None) -> Self:
        return cls(user_id=user_id, item_ids=tuple(item_ids), item_id=item_id)

    def subject(self) -> Subject:
        """Return the subject, its items in one order and once each, or raise InvalidInputError."""
        items = tuple(sorted(set(self.item_ids)))
        if self.item_id is not None:
            # A user or items beside an item are refused by the check below.
            extra = (*items, self.item_id)
            subject = Subject(scope=Scope.ITEM, user_id=self.user_id, item_ids=extra)
        elif items:
            subject = Subject(scope=Scope.USER_ITEMS, user_id=self.user_id, item_ids=items)
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
    """Record the request and suppress its subject; return it and whether it is a new one.

    All of it is one transaction. The lock on the data's state makes concurrent calls take turns,
    so that two calls for one person, or with one key, give one request.
    """
    subject = command.subject()
    uow.state.lock()
    replayed = _replay(uow, pseudonyms, subject, idempotency_key)
    if replayed is not None:
        return replayed, False
    request = _covering(uow, pseudonyms, subject)
    created = request is None
    if request is None:
        _check_held(uow, subject)
        request = _record(uow, pseudonyms, settings, subject)
    if idempotency_key is not None:
        uow.idempotency.add(
            pseudonyms.opaque("idempotency-key", idempotency_key),
            _body_hash(pseudonyms, subject),
            request.id,
        )
    return request, created


def _body_hash(pseudonyms: Pseudonyms, subject: Subject) -> str:
    body = [subject.scope, subject.user_id, subject.item_ids]
    return pseudonyms.opaque("body", json.dumps(body))


def _replay(
    uow: UnitOfWork, pseudonyms: Pseudonyms, subject: Subject, key: str | None
) -> ForgetRequest | None:
    """Return the request that this key made, if the key was used with this very body."""
    found = None
    if key is not None:
        found = uow.idempotency.find(pseudonyms.opaque("idempotency-key", key))
    if found is None:
        return None
    body_hash, request_id = found
    request = uow.requests.get(request_id)
    # Completion empties the body's hash; what the request covers still tells the bodies apart.
    same = (
        body_hash == _body_hash(pseudonyms, subject)
        if body_hash
        else _covers(request, pseudonyms, subject)
    )
    if not same:
        raise IdempotencyConflictError
    return request


def _covers(request: ForgetRequest, pseudonyms: Pseudonyms, subject: Subject) -> bool:
    """Say whether what the request suppresses includes all of the subject."""
    hashes = set(request.subject_hashes)
    if subject.user_id is not None and pseudonyms.user(subject.user_id) in hashes:
        return True
    if hashes.issuperset(pseudonyms.of(subject)):
        return True
    # An item that is forgotten altogether takes each of its interactions along.
    items = {pseudonyms.item(item_id) for item_id in subject.item_ids}
    return bool(items) and hashes.issuperset(items)


def _covering(uow: UnitOfWork, pseudonyms: Pseudonyms, subject: Subject) -> ForgetRequest | None:
    """Return an open or completed request that makes a new one needless."""
    hashes = [*pseudonyms.of(subject), *map(pseudonyms.item, subject.item_ids)]
    if subject.user_id is not None:
        hashes.append(pseudonyms.user(subject.user_id))
    for request in uow.requests.suppressing(hashes):
        if _covers(request, pseudonyms, subject):
            return request
    user_id = subject.user_id
    if user_id is not None and uow.people.user(user_id) is None:
        # Forgotten, consent recorded since, but nothing new held: the earlier request stands.
        return uow.requests.latest_completed(pseudonyms.user(user_id))
    return None


def _check_held(uow: UnitOfWork, subject: Subject) -> None:
    """Raise the NotFoundError that says what of the subject is not held."""
    if subject.user_id is None:
        (item_id,) = subject.item_ids
        if item_id not in uow.people.known_items([item_id]):
            raise UnknownItemError(item_id=item_id)
        return
    if uow.people.user(subject.user_id) is None:
        raise UnknownUserError
    held = {interaction.item_id for interaction in uow.people.history(subject.user_id)}
    missing = [item_id for item_id in subject.item_ids if item_id not in held]
    if missing:
        raise UnknownInteractionError(item_ids=", ".join(missing))


def _record(
    uow: UnitOfWork, pseudonyms: Pseudonyms, settings: Settings, subject: Subject
) -> ForgetRequest:
    """Write the request with its suppressions, the change of data and the wake-up."""
    now = uow.state.now()
    request = ForgetRequest(
        id=new_id("req"),
        scope=subject.scope,
        subject=subject,
        subject_hashes=pseudonyms.of(subject),
        status=RequestStatus.SCHEDULED,
        created_at=now,
        due_at=now + timedelta(days=settings.due_days),
        cancellable_until=now + timedelta(seconds=settings.cancel_window),
    )
    uow.requests.add(request)
    uow.suppressions.add(request.subject_hashes, request)
    uow.state.bump("forget", affected_users(uow, subject))
    uow.outbox.add(Topic.REQUEST, request.id)
    return request


def cancel_forget(uow: UnitOfWork, request_id: str) -> ForgetRequest:
    """Cancel the request, or raise NotCancellableError.

    The update is conditional on the status, as is the freezing of a batch: exactly one of the two
    takes the request.
    """
    uow.state.lock()
    request = uow.requests.get(request_id)
    if request.status is not RequestStatus.SCHEDULED or not uow.requests.change_status(
        request, [RequestStatus.SCHEDULED], status=RequestStatus.CANCELLED
    ):
        raise NotCancellableError(status=uow.requests.get(request_id).status)
    uow.suppressions.lift(request_id)
    if request.subject is not None:
        uow.state.bump("cancel", affected_users(uow, request.subject))
    return uow.requests.get(request_id)


def hold_forget(uow: UnitOfWork, request_id: str) -> ForgetRequest:
    """Put a scheduled request on hold, so that no batch takes it."""
    uow.state.lock()
    request = uow.requests.get(request_id)
    if request.status is RequestStatus.ON_HOLD:
        return request
    return _move(uow, request, RequestStatus.ON_HOLD)


def release_forget(uow: UnitOfWork, request_id: str) -> ForgetRequest:
    """Return a held request to its schedule, or a dead one, seen by a person, to the next batch."""
    uow.state.lock()
    request = uow.requests.get(request_id)
    if request.status is RequestStatus.DEAD:
        released = _move(uow, request, RequestStatus.BATCHED)
    else:
        released = _move(uow, request, RequestStatus.SCHEDULED)
    uow.outbox.add(Topic.REQUEST, request_id)
    return released


def _move(uow: UnitOfWork, request: ForgetRequest, status: RequestStatus) -> ForgetRequest:
    failures = 0 if request.status is RequestStatus.DEAD else request.failures
    moved = uow.requests.change_status(request, [request.status], status=status, failures=failures)
    if not moved:
        raise ConflictError("The request has just changed its state. Look again.")
    return uow.requests.get(request.id)


def forget_status(uow: UnitOfWork, request_id: str) -> ForgetRequest:
    """Return the request, or raise UnknownRequestError."""
    return uow.requests.get(request_id)


def certificate_of(uow: UnitOfWork, request_id: str) -> dict[str, Any]:
    """Return the signed certificate, or raise CertificateNotReadyError before completion."""
    request = uow.requests.get(request_id)
    if request.certificate is None:
        raise CertificateNotReadyError(status=request.status)
    return request.certificate


def affected_users(uow: UnitOfWork, subject: Subject) -> Sequence[str | None]:
    """Return the users to log: the subject's own, or for an item all who rated it.

    An item that nobody rated still needs an entry, so that answers under way are thrown away.
    """
    if subject.user_id is not None:
        return [subject.user_id]
    raters = sorted({user for item in subject.item_ids for user in uow.people.raters_of(item)})
    return raters or [None]
