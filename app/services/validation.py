"""Check input from callers and files. The checks raise InvalidInputError."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from inspect import cleandoc
from typing import TYPE_CHECKING, Final

from app.domain.errors import InvalidInputError, UnknownUserError
from app.domain.id_rules import (
    MAX_ATTRIBUTES,
    MAX_NAME_LENGTH,
    MAX_TITLE_LENGTH,
    MAX_VALUE_LENGTH,
    MAX_VALUES,
    IdRule,
    MalformedTextError,
    check_text,
    normal_id,
    normal_reference,
)
from app.domain.requests import Scope

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from app.domain.catalog import Interaction
    from app.domain.requests import Attribution, Subject
    from app.services.pseudonyms import Pseudonyms

MAX_ITEMS_PER_REQUEST: Final = 1000
#: For the error of a deletion: it must not advise to post the person's data.
SUPPRESS_HINT: Final = " With `suppress_unknown`, later data about the user is refused."
_MIN_STARS, _MAX_STARS = 0.5, 5.0
#: The one bound of future times at every door: clocks differ, but no rating is from tomorrow.
_MAX_AHEAD: Final = timedelta(days=1)
#: The most ids that an error message lists.
_MAX_LISTED: Final = 10


def some_of(ids: Sequence[str]) -> str:
    """Return the first ids for an error message, and the number of further ids."""
    rest = f" and {len(ids) - _MAX_LISTED} more" if len(ids) > _MAX_LISTED else ""
    return ", ".join(ids[:_MAX_LISTED]) + rest


def normal_item_id(text: str) -> str:
    """Return the normal form of an item id; raises InvalidInputError."""
    try:
        return normal_id(text)
    except MalformedTextError as error:
        raise InvalidInputError(f"item_id {error}.", reason=f"item_id {error}") from error


def normal_subject(pseudonyms: Pseudonyms, subject: Subject) -> Subject:
    """Return the subject with normal ids, the items sorted and distinct."""
    user_id = None if subject.user_id is None else pseudonyms.user_id(subject.user_id)
    item_ids = tuple(sorted({normal_item_id(item_id) for item_id in subject.item_ids}))
    return replace(subject, user_id=user_id, item_ids=item_ids)


def normal_attribution(attribution: Attribution, subject: Subject) -> Attribution:
    """Return the attribution with texts in NFC; raises InvalidInputError for personal data."""
    texts = {
        name: None if text is None else normal_reference_of(name, text)
        for name, text in _texts(attribution).items()
    }
    normal = replace(attribution, requested_by=texts["requested_by"], reference=texts["reference"])
    check_no_user_id(normal, () if subject.user_id is None else (subject.user_id,))
    return normal


def check_no_user_id(attribution: Attribution, user_ids: Iterable[str]) -> None:
    """Refuse an attribution with a text that is one of these normal user ids, in any case."""
    names = {
        text.casefold(): name for name, text in _texts(attribution).items() if text is not None
    }
    if not names:
        return
    name = next((names[i.casefold()] for i in user_ids if i.casefold() in names), None)
    if name is not None:
        raise InvalidInputError(
            f"{name} is the user's id, but must not contain personal data. Give a reference such "
            "as a ticket number, or leave it out."
        )


def _texts(attribution: Attribution) -> dict[str, str | None]:
    return {"requested_by": attribution.requested_by, "reference": attribution.reference}


def normal_reference_of(name: str, text: str) -> str:
    """Return the NFC form of `requested_by` or `reference`; raises InvalidInputError."""
    try:
        return normal_reference(text)
    except MalformedTextError as error:
        raise InvalidInputError(f"{name} {error}.") from error


def unknown_user(pseudonyms: Pseudonyms, hint: str = "") -> UnknownUserError:
    """Return the error for a user without data, with hints at the id rule and at another call."""
    message = cleandoc(UnknownUserError.__doc__ or "")
    return UnknownUserError(f"{message}{id_rule_hint(pseudonyms)}{hint}")


def id_rule_hint(pseudonyms: Pseudonyms) -> str:
    """Return a sentence for messages about unknown users under the rule `exact`, or no text."""
    if pseudonyms.id_rule is IdRule.EXACT:
        return " Ids are compared exactly, with upper and lower case (LETHE_ID_RULE=exact)."
    return ""


def check_texts(title: str, attributes: Mapping[str, str | Iterable[str]]) -> None:
    """Refuse a title or attributes with forbidden characters, or beyond the limits of the API."""
    _check_text("title", title, MAX_TITLE_LENGTH)
    _check_number("attributes", len(attributes), MAX_ATTRIBUTES)
    for name, values in attributes.items():
        _check_text("attribute", name, MAX_NAME_LENGTH)
        texts = (values,) if isinstance(values, str) else tuple(values)
        _check_number("values of an attribute", len(texts), MAX_VALUES)
        for value in texts:
            _check_text("attribute", value, MAX_VALUE_LENGTH)


def _check_number(name: str, number: int, most: int) -> None:
    if number > most:
        fault = f"{name} must be at most {most}"
        raise InvalidInputError(f"{fault}.", reason=fault)


def _check_text(name: str, text: str, longest: int) -> None:
    if len(text) > longest:
        fault = f"{name} must have at most {longest} characters"
        raise InvalidInputError(f"{fault}.", reason=fault)
    try:
        check_text(text)
    except MalformedTextError as error:
        raise InvalidInputError(f"{name} {error}.", reason=f"{name} {error}") from error


def normal_interaction(
    pseudonyms: Pseudonyms, interaction: Interaction, now: datetime
) -> Interaction:
    """Return the interaction with normal ids. Raises InvalidInputError for an invalid value."""
    user_id = pseudonyms.user_id(interaction.user_id)
    item_id = normal_item_id(interaction.item_id)
    is_in_range = _MIN_STARS <= interaction.rating <= _MAX_STARS  # False for NaN as well.
    if not is_in_range or not float(interaction.rating * 2).is_integer():
        raise InvalidInputError(
            f"rating is {interaction.rating}, but must be 0.5 to 5 stars in steps of 0.5.",
            reason="rating must be 0.5 to 5 stars in steps of 0.5",
        )
    latest = int((now + _MAX_AHEAD).timestamp())
    if not 0 <= interaction.timestamp <= latest:
        raise InvalidInputError(
            f"timestamp is {interaction.timestamp}, but must be Unix seconds, at most a day ahead.",
            reason="timestamp must be Unix seconds, at most a day ahead",
        )
    if user_id == interaction.user_id and item_id == interaction.item_id:
        return interaction
    return replace(interaction, user_id=user_id, item_id=item_id)


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
