"""Normalize ids, so that every spelling of an id names the same user or item at every door.

The same module checks titles and attribute texts, which are stored as given, and references.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final
from unicodedata import category, normalize

MAX_ID_LENGTH: Final = 200
#: The limits of titles and attributes, of items and users; `models.datasets.values` has the same.
MAX_TITLE_LENGTH: Final = 500
MAX_NAME_LENGTH: Final = 64
MAX_VALUE_LENGTH: Final = 200
MAX_ATTRIBUTES: Final = 32
MAX_VALUES: Final = 32
MAX_REFERENCE_LENGTH: Final = 100
#: NFC makes a text at most four times shorter, so a longer text cannot be an id.
_MAX_SPELLING_LENGTH: Final = 4 * MAX_ID_LENGTH
#: Zero-width non-joiner and joiner: Persian words and emoji need them.
_JOINERS: Final = frozenset("\u200c\u200d")
#: Characters that change the direction of the text around them.
_BIDI_CONTROLS: Final = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


class IdRule(StrEnum):
    """The comparison of user ids, chosen by LETHE_ID_RULE and fixed at the first start."""

    #: Upper and lower case differ.
    EXACT = "exact"
    #: User ids are email addresses or the like, and are stored in lower case.
    EMAIL = "email"


class MalformedTextError(ValueError):
    """A text cannot be an id, a title, an attribute or a reference.

    The message never quotes the text.
    """


def normal_id(text: str, rule: IdRule = IdRule.EXACT) -> str:
    """Return the normal form of an id: NFC, trimmed, and in lower case under the rule `email`.

    Item ids always use the rule `exact`. Raises MalformedTextError.
    """
    if not _is_plain(text):
        text = _trimmed(text)
    if rule is IdRule.EMAIL:
        text = normalize("NFC", text.lower())
        if len(text) > MAX_ID_LENGTH:
            raise MalformedTextError(f"must have at most {MAX_ID_LENGTH} characters")
    return text


def spellings(text: str, rule: IdRule = IdRule.EXACT) -> tuple[str, ...]:
    """Return the normal form, then other spellings that a hash from before the rule may have.

    A text that is not a valid id is its own only spelling.
    """
    # First, because every recommendation hashes such an id.
    if _is_plain(text) and (rule is IdRule.EXACT or text == text.lower()):
        return (text,)
    try:
        normal = normal_id(text, rule)
    except MalformedTextError:
        return (text,)
    trimmed = text.strip()
    composed, decomposed = normalize("NFC", trimmed), normalize("NFD", trimmed)
    others = (text, trimmed, composed, decomposed, normalize("NFD", normal))
    return tuple(dict.fromkeys((normal, *others)))


def check_text(text: str) -> str:
    """Return a title or an attribute text; raises MalformedTextError for a forbidden character."""
    if not text.isprintable():
        for character in text:
            _check_character(character)
    return text


def normal_reference(text: str) -> str:
    """Return the NFC form of a text that a caller gives a request, such as a ticket number.

    Raises MalformedTextError, also for an e-mail address: such a text outlives the person's data.
    """
    text = normalize("NFC", check_text(text))
    if not 0 < len(text) <= MAX_REFERENCE_LENGTH:
        raise MalformedTextError(f"must have 1 to {MAX_REFERENCE_LENGTH} characters")
    if text != text.strip():
        raise MalformedTextError("must not have white space around it")
    for character in text:
        _check_visible(character)
    if "@" in normalize("NFKC", text):  # NFKC turns the other signs, such as U+FF20, into `@`.
        raise MalformedTextError(
            "must not have an @: give no e-mail address or other personal data"
        )
    return text


def _is_plain(text: str) -> bool:
    """Return whether the text is ASCII and already a trimmed, valid id. Most ids are."""
    return (
        text.isascii()
        and text.isprintable()
        and 0 < len(text) <= MAX_ID_LENGTH
        and text[0] != " "
        and text[-1] != " "
    )


def _trimmed(text: str) -> str:
    text = text.strip()
    if len(text) <= _MAX_SPELLING_LENGTH:
        text = normalize("NFC", text)
    if not text:
        raise MalformedTextError("must not be empty")
    if len(text) > MAX_ID_LENGTH:
        raise MalformedTextError(f"must have at most {MAX_ID_LENGTH} characters")
    for character in text:
        _check_character(character)
        _check_visible(character)
        if category(character) == "Zs" and character != " ":
            raise MalformedTextError("must not have white space other than blanks")
    return text


def _check_visible(character: str) -> None:
    """Refuse a character that would let two texts look the same and differ."""
    if category(character) == "Cf" and character not in _JOINERS:
        raise MalformedTextError("must not have invisible characters")


def _check_character(character: str) -> None:
    """Refuse a character that no text may have."""
    if character in _BIDI_CONTROLS:
        raise MalformedTextError("must not have bidirectional controls")
    kind = category(character)
    if kind in {"Zl", "Zp"}:
        raise MalformedTextError("must not have line breaks")
    if kind in {"Cc", "Cs"}:
        raise MalformedTextError("must not have control characters")
