"""Deletion requests: record, cancel, hold, release and read them.

`app.services.jobs` collects the recorded requests into batches, and `app.services.completion`
completes them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from app.domain.catalog import NO_USER
from app.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotCancellableError,
    UnknownInteractionError,
    UnknownItemError,
)
from app.domain.identifiers import new_id
from app.domain.outbox import Topic
from app.domain.requests import (
    UNATTRIBUTED,
    Attribution,
    ForgetRequest,
    RequestStatus,
    Scope,
    Subject,
)
from app.services.deadlines import Deadlines
from app.services.earlier_requests import covering, remember_key, replay
from app.services.ledger import record_accepted, record_cancelled
from app.services.validation import (
    SUPPRESS_HINT,
    check_subject,
    normal_attribution,
    normal_subject,
    unknown_user,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from app.services.pseudonyms import Pseudonyms
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetCommand:
    """The caller's input: a user, some interactions of a user, or an item.

    With `suppress_unknown`, a user without data is suppressed too, so that later data is refused.
    """

    user_id: str | None = None
    item_ids: tuple[str, ...] = ()
    item_id: str | None = None
    suppress_unknown: bool = False
    attribution: Attribution = UNATTRIBUTED

    @classmethod
    def of(
        cls,
        user_id: str | None,
        item_ids: Sequence[str],
        item_id: str | None,
        *,
        suppress_unknown: bool = False,
        attribution: Attribution = UNATTRIBUTED,
    ) -> Self:
        return cls(
            user_id=user_id,
            item_ids=tuple(item_ids),
            item_id=item_id,
            suppress_unknown=suppress_unknown,
            attribution=attribution,
        )

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
        if self.suppress_unknown and subject.scope is not Scope.USER:
            raise InvalidInputError(
                "suppress_unknown is for a whole user. Give a user_id without item_ids."
            )
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
    subject = normal_subject(pseudonyms, command.subject())
    command = replace(command, attribution=normal_attribution(command.attribution, subject))
    uow.state.lock()
    if idempotency_key is not None:
        replayed = replay(uow, pseudonyms, idempotency_key, command)
        if replayed is not None:
            return replayed, False
    request = covering(uow, pseudonyms, command)
    created = request is None
    if request is None:
        is_stored = check_stored(uow, pseudonyms, command, subject)
        request = record_request(
            uow, pseudonyms, settings, subject, command.attribution, is_stored=is_stored
        )
    if idempotency_key is not None:
        remember_key(uow, pseudonyms, idempotency_key, command, request.id)
    return request, created


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


def check_stored(
    uow: UnitOfWork, pseudonyms: Pseudonyms, command: ForgetCommand, subject: Subject
) -> bool:
    """Return whether the command's subject is stored, or only to be suppressed.

    Raises the NotFoundError for a part of the subject that should be stored and is not.
    """
    if subject.user_id is None:
        (item_id,) = subject.item_ids
        if item_id not in uow.people.known_items([item_id]):
            raise UnknownItemError(item_id=item_id)
        return True
    if uow.people.user(subject.user_id) is None:
        if command.suppress_unknown:
            return False
        raise unknown_user(pseudonyms, SUPPRESS_HINT)
    rated_ids = {interaction.item_id for interaction in uow.people.history(subject.user_id)}
    missing_ids = [item_id for item_id in subject.item_ids if item_id not in rated_ids]
    if missing_ids:
        raise UnknownInteractionError(item_ids=", ".join(missing_ids))
    return True


def record_request(
    uow: UnitOfWork,
    pseudonyms: Pseudonyms,
    settings: Settings,
    subject: Subject,
    attribution: Attribution = UNATTRIBUTED,
    *,
    is_stored: bool = True,
) -> ForgetRequest:
    """Write the request, its suppressions, the change log entries and the wake-up message.

    Of a subject that is not stored, only keyed hashes are written: there are no rows to delete, so
    nothing would remove the plain ids again.
    """
    request = new_request(
        pseudonyms, settings, subject, attribution, uow.state.now(), is_stored=is_stored
    )
    uow.requests.add(request)
    uow.suppressions.add(request.subject_hashes, request)
    # The deletion of an item is one entry: replicas leave the item out by the open request.
    user_id = subject.user_id if is_stored else None
    uow.state.bump("forget", [NO_USER if user_id is None else user_id])
    uow.outbox.add(Topic.REQUEST, request.id)
    record_accepted(uow, request, request.user_hash if request.scope is Scope.USER_ITEMS else None)
    return request


def new_request(
    pseudonyms: Pseudonyms,
    settings: Settings,
    subject: Subject,
    attribution: Attribution,
    created_at: datetime,
    *,
    is_stored: bool,
) -> ForgetRequest:
    """Return the request for a subject, without plain ids if the subject is not stored."""
    deadlines = Deadlines.of(settings, created_at)
    subject_hashes = pseudonyms.of(subject)
    user_hash = None
    if subject.user_id is not None:
        is_user = subject.scope is Scope.USER
        user_hash = subject_hashes[0] if is_user else pseudonyms.user(subject.user_id)
    return ForgetRequest(
        id=new_id("req"),
        scope=subject.scope,
        subject=subject if is_stored else None,
        subject_hashes=subject_hashes,
        requested_by=attribution.requested_by,
        reason=attribution.reason,
        reference=attribution.reference,
        user_hash=user_hash,
        status=RequestStatus.SCHEDULED,
        created_at=created_at,
        due_at=deadlines.due_at,
        exact_due_at=deadlines.exact_due_at,
        cancellable_until=deadlines.cancellable_until,
        recovered=None if is_stored else {},
    )


def _affected_users(uow: UnitOfWork, subject: Subject) -> Sequence[str]:
    """Return the users whose interactions count again: the subject's, or all raters of the item."""
    if subject.user_id is not None:
        return [subject.user_id]
    raters = {user for item_id in subject.item_ids for user in uow.people.raters_of(item_id)}
    return sorted(raters) or [NO_USER]
