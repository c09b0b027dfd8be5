"""Normalize ids, so that every spelling of an id names the same user or item at every door.

The same module checks titles and attribute texts, which are stored as given.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final
from unicodedata import category, normalize

MAX_ID_LENGTH: Final = 200
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
    """A text cannot be an id, a title or an attribute. The message does not quote the text."""


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
        kind = category(character)
        if kind == "Cf" and character not in _JOINERS:
            raise MalformedTextError("must not have invisible characters")
        if kind == "Zs" and character != " ":
            raise MalformedTextError("must not have white space other than blanks")
    return text


def _check_character(character: str) -> None:
    """Refuse a character that no text may have."""
    if character in _BIDI_CONTROLS:
        raise MalformedTextError("must not have bidirectional controls")
    kind = category(character)
    if kind in {"Zl", "Zp"}:
        raise MalformedTextError("must not have line breaks")
    if kind in {"Cc", "Cs"}:
        raise MalformedTextError("must not have control characters")
