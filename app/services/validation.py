"""Check input from callers and files. The checks raise InvalidInputError."""

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
#: The most ids that an error message lists.
_MAX_LISTED: Final = 10


def some_of(ids: Sequence[str]) -> str:
    """Return the first ids for an error message, and the number of further ids."""
    rest = f" and {len(ids) - _MAX_LISTED} more" if len(ids) > _MAX_LISTED else ""
    return ", ".join(ids[:_MAX_LISTED]) + rest


def check_id(name: str, value: str) -> None:
    """Refuse an id that is empty, too long, or has unprintable characters.

    The databases cannot store NUL and surrogates.
    """
    if not value or len(value) > MAX_ID_LENGTH:
        raise InvalidInputError(
            f"{name} has {len(value)} characters, but must have 1 to {MAX_ID_LENGTH}."
        )
    if not value.isprintable():
        raise InvalidInputError(f"{name} must contain printable characters only.")


def check_interaction(interaction: Interaction, now: datetime) -> None:
    """Refuse an interaction with an invalid id, rating or timestamp."""
    check_id("user_id", interaction.user_id)
    check_id("item_id", interaction.item_id)
    is_in_range = _MIN_STARS <= interaction.rating <= _MAX_STARS  # False for NaN as well.
    if not is_in_range or not float(interaction.rating * 2).is_integer():
        raise InvalidInputError(
            f"rating is {interaction.rating}, but must be 0.5 to 5 stars in steps of 0.5."
        )
    latest = max(_MAX_SECONDS, int((now + timedelta(days=1)).timestamp()))
    if not 0 <= interaction.timestamp <= latest:
        raise InvalidInputError(
            f"timestamp is {interaction.timestamp}, but must be Unix seconds, at most a day ahead."
        )


def check_subject(subject: Subject) -> None:
    """Refuse a subject whose ids do not fit its scope."""
    user_id, item_ids = subject.user_id, subject.item_ids
    fits_scope = {
        Scope.USER: user_id is not None and not item_ids,
        Scope.USER_ITEMS: user_id is not None and len(item_ids) > 0,
        Scope.ITEM: user_id is None and len(item_ids) == 1,
    }[subject.scope]
    if not fits_scope:
        raise InvalidInputError("Give either a user_id, a user_id with item_ids, or an item_id.")
    if len(item_ids) > MAX_ITEMS_PER_REQUEST:
        raise InvalidInputError(
            f"item_ids has {len(item_ids)} items, but one request allows {MAX_ITEMS_PER_REQUEST}."
        )
    if user_id is not None:
        check_id("user_id", user_id)
    for item_id in item_ids:
        check_id("item_id", item_id)
