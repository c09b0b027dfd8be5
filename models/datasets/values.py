"""How the texts of a data set become ids, stars, instants and attribute values.

Every function returns the value or raises RejectedLineError with the reason.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final

from models.datasets.errors import RejectedLineError

#: As `app.services.validation` has it, which is asked again before anything is stored.
MAX_ID: Final = 200
MIN_STARS: Final = 0.5
MAX_STARS: Final = 5.0
#: The year 2100. What lies beyond is no instant in seconds; most likely it is in milliseconds.
MAX_TIMESTAMP: Final = 4_102_444_800

#: The brackets of MovieLens-1M: its code, the first age beyond it, and what it stands for.
#: Single years would be fingerprints: many a year has one person only.
_AGE_BRACKETS: Final = (
    (18, "under 18"),
    (25, "18-24"),
    (35, "25-34"),
    (45, "35-44"),
    (50, "45-49"),
    (56, "50-55"),
    (130, "56+"),
)


def parse_id(text: str, kind: str) -> str:
    """Return the id without surrounding blanks; `kind` is "user" or "item"."""
    identity = text.strip()
    if not identity:
        raise RejectedLineError(f"the {kind} id is missing")
    if len(identity) > MAX_ID or not identity.isprintable():
        raise RejectedLineError(f"the {kind} id is too long or not printable")
    return identity


def parse_stars(text: str) -> float:
    """Return a rating of half or whole stars from 0.5 to 5."""
    try:
        # float() takes "1_0" for ten.
        stars = float(text) if "_" not in text else math.nan
    except ValueError:
        stars = math.nan
    if not math.isfinite(stars):
        raise RejectedLineError("the rating is not a number")
    if not MIN_STARS <= stars <= MAX_STARS:
        raise RejectedLineError("the rating is not within 0.5 to 5 stars")
    if not (2 * stars).is_integer():
        raise RejectedLineError("the rating is not a whole or half star")
    return stars


def parse_timestamp(text: str) -> int:
    """Return Unix seconds from Unix seconds or from ISO 8601, which without a zone means UTC."""
    text = text.strip()
    try:
        seconds = float(text) if "_" not in text else math.nan
    except ValueError:
        seconds = _iso_seconds(text)
    if not math.isfinite(seconds):
        raise RejectedLineError("the timestamp is neither Unix seconds nor ISO 8601")
    if not 0 <= seconds <= MAX_TIMESTAMP:
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


def age_bracket(text: str) -> str | None:
    """Return the bracket of an age in years, None where it is not known."""
    years = text.strip()
    if not (years.isascii() and years.isdigit()):
        return None
    return next((name for end, name in _AGE_BRACKETS if 0 < int(years[:4]) < end), None)


def one_line(text: str) -> str:
    """Return a title with every run of blanks as one space."""
    return " ".join(text.split())


def natural_order(identity: str) -> tuple[int, int, str]:
    """Sort key of ids: numbers by value and before other texts."""
    if identity.isascii() and identity.isdigit():
        return (0, int(identity), identity)
    return (1, 0, identity)
