"""Checks of what comes from outside. Raises InvalidInputError with a message for the caller."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from app.domain.errors import InvalidInputError
from app.domain.requests import Scope

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from app.domain.catalog import Interaction
    from app.domain.requests import Subject

MAX_ID_LENGTH: Final = 200
MAX_ITEMS_PER_REQUEST: Final = 1000
_MIN_STARS, _MAX_STARS = 0.5, 5.0
_MAX_SECONDS: Final = 2**31
#: How many ids a problem names.
_NAMED: Final = 10


def some_of(ids: Sequence[str]) -> str:
    """Return the first ids for a message, and how many more there are."""
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ", ".join(ids[:_NAMED]) + more


def check_id(name: str, value: str) -> None:
    """Refuse ids that are empty, too long, or hold what no database stores (NUL, surrogates)."""
    if not value or len(value) > MAX_ID_LENGTH:
        raise InvalidInputError(f"{name} must have 1 to {MAX_ID_LENGTH} characters.")
    if not value.isprintable():
        raise InvalidInputError(f"{name} must consist of printable characters.")


def check_interaction(interaction: Interaction, now: datetime) -> None:
    """Refuse ids, stars or times that cannot be."""
    check_id("user_id", interaction.user_id)
    check_id("item_id", interaction.item_id)
    in_range = _MIN_STARS <= interaction.rating <= _MAX_STARS  # False for NaN as well.
    if not in_range or not float(interaction.rating * 2).is_integer():
        raise InvalidInputError("rating must be 0.5 to 5 stars in steps of half a star.")
    latest = max(_MAX_SECONDS, int((now + timedelta(days=1)).timestamp()))
    if not 0 <= interaction.timestamp <= latest:
        raise InvalidInputError("timestamp must be Unix seconds, no later than tomorrow.")


def check_subject(subject: Subject) -> None:
    """Refuse a subject whose parts do not fit its scope."""
    user_id, item_ids = subject.user_id, subject.item_ids
    fits = {
        Scope.USER: user_id is not None and not item_ids,
        Scope.USER_ITEMS: user_id is not None and len(item_ids) > 0,
        Scope.ITEM: user_id is None and len(item_ids) == 1,
    }[subject.scope]
    if not fits:
        raise InvalidInputError("Give a user_id, a user_id with item_ids, or an item_id.")
    if len(item_ids) > MAX_ITEMS_PER_REQUEST:
        raise InvalidInputError(f"At most {MAX_ITEMS_PER_REQUEST} items per request.")
    if user_id is not None:
        check_id("user_id", user_id)
    for item_id in item_ids:
        check_id("item_id", item_id)
