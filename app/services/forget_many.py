"""Record the deletion requests of many users with a few statements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from app.domain.catalog import NO_USER
from app.domain.errors import InvalidInputError
from app.domain.forget_lists import InvalidRow, RowOutcome, RowResult
from app.domain.outbox import Topic
from app.domain.requests import Scope, Subject
from app.services.forget import new_request
from app.services.ledger import record_accepted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.domain.requests import Attribution, ForgetRequest, SuppressedBy
    from app.services.pseudonyms import Pseudonyms
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class HashedUser:
    """A user to delete, with keyed hashes that were computed outside of the transaction."""

    user_id: str
    #: Of the normal id, and of the caller's spelling: a request from before the id rule has the
    #: hash of that spelling. The hash of the normal form is the first of both.
    hashes: tuple[str, ...]
    spelled_hashes: tuple[str, ...]

    @classmethod
    def of(cls, pseudonyms: Pseudonyms, text: str) -> Self | InvalidRow:
        """Return the user with this id, or an invalid row."""
        try:
            user_id = pseudonyms.user_id(text)
        except InvalidInputError as error:
            return InvalidRow(str(error.context.get("reason", "user_id is not valid")))
        hashes = pseudonyms.user_hashes(user_id)
        spelled_hashes = hashes if text == user_id else pseudonyms.user_hashes(text)
        return cls(user_id=user_id, hashes=hashes, spelled_hashes=spelled_hashes)


def record_users(
    uow: UnitOfWork,
    pseudonyms: Pseudonyms,
    settings: Settings,
    rows: Sequence[HashedUser | InvalidRow],
    attribution: Attribution,
    *,
    suppress_unknown: bool = False,
) -> list[RowResult]:
    """Record one request per user that no request deletes yet; return the result of each row.

    A request of a user is the same as one of `request_forget`. The caller holds the data lock. The
    number of statements does not depend on the number of rows, up to 500 rows.
    """
    uow.state.prefer_indexes()
    users = [row for row in rows if isinstance(row, HashedUser)]
    stored_ids = uow.people.known_users({user.user_id for user in users})
    hashes = {h for user in users for h in (*user.hashes, *user.spelled_hashes)}
    suppressed_by = uow.suppressions.requests_of(sorted(hashes))
    now = uow.state.now()
    new: dict[str, ForgetRequest] = {}
    results: list[RowResult] = []
    for row in rows:
        if isinstance(row, InvalidRow):
            results.append(RowResult(outcome=RowOutcome.INVALID, detail=row.detail))
            continue
        is_stored = row.user_id in stored_ids
        earlier = new.get(row.user_id)
        covering_id = _covering(
            row, suppressed_by, is_stored=is_stored, suppress_unknown=suppress_unknown
        )
        if earlier is not None or covering_id is not None:
            request_id = covering_id if earlier is None else earlier.id
            results.append(RowResult(outcome=RowOutcome.COVERED, request_id=request_id))
        elif is_stored or suppress_unknown:
            subject = Subject(scope=Scope.USER, user_id=row.user_id)
            request = new_request(
                pseudonyms, settings, subject, attribution, now, is_stored=is_stored
            )
            new[row.user_id] = request
            outcome = RowOutcome.ACCEPTED if is_stored else RowOutcome.SUPPRESSED
            results.append(RowResult(outcome=outcome, request_id=request.id))
        else:
            results.append(RowResult(outcome=RowOutcome.NOT_FOUND))
    _write(uow, list(new.values()))
    return results


def _covering(
    user: HashedUser,
    suppressed_by: Mapping[str, SuppressedBy],
    *,
    is_stored: bool,
    suppress_unknown: bool,
) -> str | None:
    """Return the request that deletes the user already, as `earlier_requests.covering` does."""
    wanted = user.hashes if is_stored else user.spelled_hashes
    active = [suppressed_by[h].active for h in wanted if h in suppressed_by]
    active_ids = [request_id for request_id in active if request_id is not None]
    if active_ids:
        return min(active_ids)
    if is_stored or suppress_unknown:
        return None
    completed = (suppressed_by[h].completed for h in user.hashes if h in suppressed_by)
    return next((request_id for request_id in completed if request_id is not None), None)


def _write(uow: UnitOfWork, requests: Sequence[ForgetRequest]) -> None:
    """Write new requests, their suppressions, change log entries and one wake-up message."""
    if not requests:
        return
    uow.requests.add_all(requests)
    uow.suppressions.add_all(requests)
    uow.state.bump(
        "forget", [NO_USER if r.subject is None else r.subject.user_id for r in requests]
    )
    # The message only means "look for work", so one message serves all requests.
    uow.outbox.add(Topic.REQUEST, requests[-1].id)
    for request in requests:
        record_accepted(uow, request)
