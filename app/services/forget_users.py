"""Record the deletion requests of a list of users."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.errors import UnknownUserError
from app.domain.forget_lists import RowOutcome
from app.domain.requests import UNATTRIBUTED
from app.services.forget_many import HashedUser, record_users
from app.services.validation import SUPPRESS_HINT, id_rule_hint, some_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.requests import ForgetRequest
    from app.services.pseudonyms import Pseudonyms
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork


def forget_users(
    uow: UnitOfWork,
    pseudonyms: Pseudonyms,
    settings: Settings,
    user_ids: Sequence[str],
    *,
    suppress_unknown: bool = False,
) -> list[ForgetRequest]:
    """Record one request per distinct user, in the given order.

    A user with an earlier deletion request gets that request. Raises UnknownUserError if any user
    is unknown; the caller's transaction then rolls back the other requests.
    """
    requests, unknown_ids = forget_known_users(
        uow, pseudonyms, settings, user_ids, suppress_unknown=suppress_unknown
    )
    if unknown_ids:
        raise UnknownUserError(
            f"No data is stored for the users {some_of(unknown_ids)}. "
            "No deletion was recorded for any user of this call."
            f"{id_rule_hint(pseudonyms)}{SUPPRESS_HINT}"
        )
    return requests


def forget_known_users(
    uow: UnitOfWork,
    pseudonyms: Pseudonyms,
    settings: Settings,
    user_ids: Sequence[str],
    *,
    suppress_unknown: bool = False,
) -> tuple[list[ForgetRequest], list[str]]:
    """Record one request per distinct user with data; return the requests and the other ids.

    With `suppress_unknown`, the users without data get a request too.
    """
    spellings: dict[str, str] = {}
    for user_id in user_ids:
        spellings.setdefault(pseudonyms.user_id(user_id), user_id)
    users = [HashedUser.of(pseudonyms, spelling) for spelling in spellings.values()]
    uow.state.lock()
    results = record_users(
        uow, pseudonyms, settings, users, UNATTRIBUTED, suppress_unknown=suppress_unknown
    )
    request_ids = [result.request_id for result in results if result.request_id is not None]
    requests = {request.id: request for request in uow.requests.with_ids(set(request_ids))}
    unknown_ids = [
        spelling
        for spelling, result in zip(spellings.values(), results, strict=True)
        if result.outcome is RowOutcome.NOT_FOUND
    ]
    return [requests[request_id] for request_id in request_ids], unknown_ids
