"""Find the earlier deletion request that a call repeats: by idempotency key, or by subject."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from app.domain.errors import IdempotencyConflictError
from app.domain.requests import IdempotencyEntry
from app.services.validation import normal_subject

if TYPE_CHECKING:
    from app.domain.requests import ForgetRequest, Subject
    from app.services.forget import ForgetCommand
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWork


def remember_key(
    uow: UnitOfWork, pseudonyms: Pseudonyms, key: str, command: ForgetCommand, request_id: str
) -> None:
    """Store the idempotency key of a call, with keyed hashes of its body."""
    entry = IdempotencyEntry(
        body_hash=_body_hash(pseudonyms, normal_subject(pseudonyms, command.subject())),
        options_hash=_options_hash(pseudonyms, command),
        request_id=request_id,
    )
    uow.idempotency.add(pseudonyms.opaque("idempotency-key", key), entry)


def replay(
    uow: UnitOfWork, pseudonyms: Pseudonyms, key: str, command: ForgetCommand
) -> ForgetRequest | None:
    """Return the request that was recorded under this key, or None for a new key.

    Raises IdempotencyConflictError if the key was used with another body.
    """
    entry = uow.idempotency.find(pseudonyms.opaque("idempotency-key", key))
    if entry is None:
        return None
    if entry.options_hash not in {None, _options_hash(pseudonyms, command)}:
        raise IdempotencyConflictError
    request = uow.requests.get(entry.request_id)
    spelled = command.subject()
    if entry.body_hash:
        # Keys from before the id rule have the hash of the caller's spelling.
        subjects = (spelled, normal_subject(pseudonyms, spelled))
        is_same = entry.body_hash in {_body_hash(pseudonyms, subject) for subject in subjects}
    else:
        # Completion empties the hash. The request's subject hashes still allow a comparison.
        is_same = covers(request, pseudonyms, spelled)
    if not is_same:
        raise IdempotencyConflictError
    return request


def _body_hash(pseudonyms: Pseudonyms, subject: Subject) -> str:
    body = [subject.scope, subject.user_id, subject.item_ids]
    return pseudonyms.opaque("body", json.dumps(body))


def _options_hash(pseudonyms: Pseudonyms, command: ForgetCommand) -> str:
    attribution = command.attribution
    options = [command.suppress_unknown, attribution.requested_by, attribution.reason]
    return pseudonyms.opaque("options", json.dumps([*options, attribution.reference]))


def covers(request: ForgetRequest, pseudonyms: Pseudonyms, subject: Subject) -> bool:
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


def covering(
    uow: UnitOfWork,
    pseudonyms: Pseudonyms,
    command: ForgetCommand,
) -> ForgetRequest | None:
    """Return an open or completed request that already covers the subject of the command.

    A completed deletion of another spelling, from before the id rule, covers the subject only if no
    data is stored in the normal spelling. A request whose suppression was lifted covers no command
    that suppresses unknown users.
    """
    spelled = command.subject()
    subject = normal_subject(pseudonyms, spelled)
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
        if covers(request, pseudonyms, wanted):
            return request
    if wanted.user_id is not None and not is_stored and not command.suppress_unknown:
        # The user was deleted and has consented since, but no new data is stored: the completed
        # request still describes the state.
        completed = map(uow.requests.latest_completed, pseudonyms.user_hashes(wanted.user_id))
        return next((request for request in completed if request is not None), None)
    return None
