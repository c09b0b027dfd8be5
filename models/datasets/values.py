"""Parse the text fields of data sets: ids, ratings, timestamps, ages and titles.

The `parse_*` functions raise RejectedLineError for invalid text.
"""

from __future__ import annotations

import math
import unicodedata
from datetime import UTC, datetime
from typing import Final

from models.datasets.errors import RejectedLineError

#: The same limit as in `app.domain.id_rules`, which normalizes ids again before they are stored.
MAX_ID: Final = 200
#: NFC makes a text at most four times shorter.
_MAX_SPELLING: Final = 4 * MAX_ID
_MIN_STARS: Final = 0.5
_MAX_STARS: Final = 5.0
#: The year 2100. Larger values are most likely milliseconds.
_MAX_TIMESTAMP: Final = 4_102_444_800

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


def parse_id(text: str, kind: str) -> str:
    """Return the id in NFC, without surrounding whitespace; `kind` is "user" or "item"."""
    identity = text.strip()
    if not identity.isascii() and len(identity) <= _MAX_SPELLING:
        identity = unicodedata.normalize("NFC", identity)
    if not identity:
        raise RejectedLineError(f"the {kind} id is missing")
    is_printable = identity.replace("\u200c", "").replace("\u200d", "").isprintable()
    if len(identity) > MAX_ID or not is_printable:
        raise RejectedLineError(f"the {kind} id is too long or not printable")
    return identity


def parse_stars(text: str) -> float:
    """Return a rating of half or whole stars from 0.5 to 5."""
    try:
        # float() reads "1_0" as 10.
        stars = float(text) if "_" not in text else math.nan
    except ValueError:
        stars = math.nan
    if not math.isfinite(stars):
        raise RejectedLineError("the rating is not a number")
    if not _MIN_STARS <= stars <= _MAX_STARS:
        raise RejectedLineError("the rating is not within 0.5 to 5 stars")
    if not (2 * stars).is_integer():
        raise RejectedLineError("the rating is not a whole or half star")
    return stars


def parse_timestamp(text: str) -> int:
    """Return Unix seconds from Unix seconds or ISO 8601; a time without a zone is UTC."""
    text = text.strip()
    try:
        seconds = float(text) if "_" not in text else math.nan
    except ValueError:
        seconds = _iso_seconds(text)
    if not math.isfinite(seconds):
        raise RejectedLineError("the timestamp is neither Unix seconds nor ISO 8601")
    if not 0 <= seconds <= _MAX_TIMESTAMP:
        raise RejectedLineError(
            "the timestamp is not within 1970 to 2100 (are these milliseconds?)"
        )
    return math.floor(seconds)


def _iso_seconds(text: str) -> float:
    try:
        instant = datetime.fromisoformat(text)
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return math.nan


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
    """Return the text with every run of whitespace replaced by one space."""
    return " ".join(text.split())


def natural_order(identity: str) -> tuple[int, int, str]:
    """Return a sort key for ids: numbers by value, before other texts."""
    if identity.isascii() and identity.isdigit():
        return (0, int(identity), identity)
    return (1, 0, identity)
