"""Parse the text fields of data sets: ids, ages and titles.

The `parse_*` functions raise RejectedLineError for invalid text.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Final

from models.datasets.errors import RejectedLineError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The same limit as in `app.domain.id_rules`, which normalizes ids again before they are stored.
MAX_ID: Final = 200
MAX_TITLE: Final = 500
MAX_NAME: Final = 64
MAX_VALUE: Final = 200
MAX_ATTRIBUTES: Final = 32
MAX_VALUES: Final = 32
#: Up to this length, no text of several values is beyond a limit: the values have a separator.
_SURELY_WITHIN_LIMITS: Final = min(MAX_NAME, 2 * MAX_VALUES, 2 * MAX_ATTRIBUTES)
#: NFC makes a text at most four times shorter.
_MAX_SPELLING: Final = 4 * MAX_ID
#: Texts that programs write for a missing value.
_MISSING: Final = frozenset(
    {"", "\\N", "NULL", "null", "(null)", "<null>", "NaN", "nan", "NaT", "None"}
    | {"NA", "N/A", "n/a", "#N/A", "<NA>"}
)
#: With a comma, several zeros are thousands, as in 1,000.
_WHOLE_FLOAT: Final = re.compile(r"(-?\d+)(?:\.0+|,0)")
_DECIMAL_COMMA: Final = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")
#: Spreadsheets write the decimal sign of their language.
_ROUNDED_ID: Final = re.compile(r"-?\d(?:[.,]\d+)?[eE]\+\d+")
#: A float from here on does not hold every whole number.
EXACT_BELOW: Final = 2**53
_EXACT_DIGITS: Final = len(str(EXACT_BELOW))
_BREAKS: Final = re.compile("[ \\t\\n\\v\\f\\r\\x85\\u2028\\u2029]+")
_JOINERS: Final = frozenset("\u200c\u200d")
_BIDI_CONTROLS: Final = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
#: Control characters, surrogates, and separators of lines and paragraphs.
_REFUSED: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})

#: The age brackets of MovieLens-1M: the first age above the bracket, and its name. Brackets
#: protect users, because a single year of age could identify a user.
_AGE_BRACKETS: Final = (
    (18, "under 18"),
    (25, "18-24"),
    (35, "25-34"),
    (45, "35-44"),
    (50, "45-49"),
    (56, "50-55"),
    (130, "56+"),
)
_UNKNOWN_OCCUPATIONS: Final = frozenset({"", "none", "other"})


def decimal_point(text: str) -> str:
    """Return a number with a decimal comma, such as 4,5, with a point; other texts unchanged."""
    return text.replace(",", ".") if "," in text and _DECIMAL_COMMA.fullmatch(text) else text


class MalformedIdError(RejectedLineError):
    """An id is too long or has forbidden characters."""


def is_missing(text: str) -> bool:
    """Return whether a trimmed text stands for a missing value."""
    return text in _MISSING


def parse_id(text: str, kind: str) -> str:
    """Return the id in NFC, without surrounding whitespace; `kind` is "user" or "item".

    A whole number that a table of floats gave a fraction of zero, such as 42.0, is the number.
    """
    identity = text.strip()
    if not identity.isascii() and len(identity) <= _MAX_SPELLING:
        identity = unicodedata.normalize("NFC", identity)
    if is_missing(identity):
        raise RejectedLineError(f"the {kind} id is missing")
    if len(identity) > MAX_ID:
        raise MalformedIdError(f"the {kind} id is too long or not printable")
    if not identity.isprintable():
        _check_characters(identity, kind)
    if is_whole_float(identity):
        return _WHOLE_FLOAT.sub(r"\1", identity)
    return identity


def is_whole_float(text: str) -> bool:
    """Return whether the id is a whole number with a fraction of zero: 42.0 or 42,0."""
    return (".0" in text or ",0" in text) and _WHOLE_FLOAT.fullmatch(text.strip()) is not None


def is_rounded_id(text: str) -> bool:
    """Return whether a spreadsheet or a table of floats rounded the id, as in 9.00719925E+15.

    A whole float that is too large to be exact, such as 9007199254740994.0, may be rounded as well.
    """
    if is_whole_float(text):
        digits = _WHOLE_FLOAT.sub(r"\1", text.strip()).lstrip("-0")
        return len(digits) > _EXACT_DIGITS or int(digits or "0") >= EXACT_BELOW
    return "+" in text and _ROUNDED_ID.fullmatch(text.strip()) is not None


def _check_characters(identity: str, kind: str) -> None:
    """Refuse characters that no id may have; the rule is that of `app.domain.id_rules`."""
    for character in identity:
        category = unicodedata.category(character)
        if (
            category in _REFUSED
            or (category == "Cf" and character not in _JOINERS)
            or (category == "Zs" and character != " ")
        ):
            raise MalformedIdError(f"the {kind} id is too long or not printable")


def check_text(text: str) -> None:
    """Refuse a title or an attribute with control characters or bidirectional controls.

    The rule is that of `app.domain.id_rules`. Line breaks are replaced before, see `one_line`.
    """
    if text.isprintable():
        return
    for character in text:
        if character in _BIDI_CONTROLS:
            raise RejectedLineError("a text has a bidirectional control")
        if unicodedata.category(character) in _REFUSED:
            raise RejectedLineError("a text has a control character")


def is_surely_within_limits(text: str) -> bool:
    """Return whether the text is so short that neither its length nor its values can be refused."""
    return len(text) <= _SURELY_WITHIN_LIMITS


def check_limits(title: str, attributes: Mapping[str, str | tuple[str, ...]]) -> None:
    """Refuse a title or attributes that are too long or too many, as the REST API does."""
    if len(title) > MAX_TITLE:
        raise RejectedLineError(f"a title is longer than {MAX_TITLE} characters")
    if len(attributes) > MAX_ATTRIBUTES:
        raise RejectedLineError(f"there are more than {MAX_ATTRIBUTES} attributes")
    for name, values in attributes.items():
        texts = (values,) if isinstance(values, str) else values
        if len(name) > MAX_NAME:
            raise RejectedLineError(f"an attribute's name is longer than {MAX_NAME} characters")
        if len(texts) > MAX_VALUES:
            raise RejectedLineError(f"an attribute has more than {MAX_VALUES} values")
        if any(len(text) > MAX_VALUE for text in texts):
            raise RejectedLineError(f"an attribute is longer than {MAX_VALUE} characters")


def check_texts(title: str, attributes: Mapping[str, str | tuple[str, ...]]) -> None:
    """Raise RejectedLineError for a title or attributes that no door accepts."""
    check_limits(title, attributes)
    check_text(title)
    for name, values in attributes.items():
        check_text(name)
        for value in (values,) if isinstance(values, str) else values:
            check_text(value)


def _age_bracket(text: str) -> str | None:
    """Return the bracket of an age in years, or None if the age is unknown."""
    years = text.strip()
    if not (years.isascii() and years.isdigit()):
        return None
    return next((name for end, name in _AGE_BRACKETS if 0 < int(years[:4]) < end), None)


def demographics(gender: str, age: str, occupation: str) -> dict[str, str]:
    """Return the known attributes among gender, age (given in years) and occupation."""
    attributes = {
        "gender": gender.strip().upper(),
        "age": _age_bracket(age),
        "occupation": occupation.strip().lower(),
    }
    if attributes["gender"] not in {"F", "M"}:
        del attributes["gender"]
    if attributes["occupation"] in _UNKNOWN_OCCUPATIONS:
        del attributes["occupation"]
    return {name: value for name, value in attributes.items() if value is not None}


def one_line(text: str) -> str:
    """Return the text with every run of blanks, tabs and line breaks replaced by one blank.

    Other white space stays, because titles contain no-break spaces.
    """
    return _BREAKS.sub(" ", text).strip(" ")


def natural_order(identity: str) -> tuple[int, int, str]:
    """Return a sort key for ids: numbers by value, before other texts."""
    if identity.isascii() and identity.isdigit():
        return (0, int(identity), identity)
    return (1, 0, identity)
