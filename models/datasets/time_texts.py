"""Parse the texts of times: ISO 8601, RFC 5322, and forms of Goodreads, Amazon and others."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), 1
    )
}
_GOODREADS: Final = re.compile(
    r"\w{3} (\w{3}) (\d\d?) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d) (\d{4})"
)
_YEAR_FIRST: Final = re.compile(r"(\d{4})([-/.])(\d\d?)\2(\d\d?)((?:[ T].+)?)")
_MAIL: Final = re.compile(r"[A-Z][a-z]{2}, \d\d? [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d( [+-]\d{4})?")
_AMERICAN: Final = re.compile(r"(\w+) (\d\d?), (\d{4})")


def seconds_of_text(text: str) -> float:
    """Return the time of a date, such as ISO 8601, or NaN; a time without a zone is UTC."""
    for ending in (" UTC", " GMT"):
        text = text.removesuffix(ending)
    for parse in (datetime.fromisoformat, _year_first, _goodreads_time, _american_date, _mail_date):
        try:
            instant = parse(text)
            return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            continue
    return math.nan


def _year_first(text: str) -> datetime:
    """Parse "2018/7/7" or "2018-7-7 22:09:11"; other orders are ambiguous. Raises ValueError."""
    match = _YEAR_FIRST.fullmatch(text)
    if match is None:
        raise ValueError("another form")
    return datetime.fromisoformat(f"{match[1]}-{int(match[3]):02}-{int(match[4]):02}{match[5]}")


def _goodreads_time(text: str) -> datetime:
    """Parse "Tue Oct 17 09:40:11 -0700 2017", the form of Goodreads; raises ValueError.

    `strptime` also parses this form, but takes five times as long and depends on the locale.
    """
    match = _GOODREADS.fullmatch(text)
    if match is None or match[1].lower() not in _MONTHS:
        raise ValueError("another form")
    month, sign = _MONTHS[match[1].lower()], 1 if match[6] == "+" else -1
    day, hour, minute, second = (int(match[n]) for n in (2, 3, 4, 5))
    local = datetime(int(match[9]), month, day, hour, minute, second, tzinfo=UTC)
    return local - sign * timedelta(hours=int(match[7]), minutes=int(match[8]))


def _american_date(text: str) -> datetime:
    """Parse "July 7, 2018" or the "07 7, 2018" of Amazon reviews; raises ValueError."""
    match = _AMERICAN.fullmatch(text)
    if match is None:
        raise ValueError("another form")
    month = int(match[1]) if match[1].isdigit() else _MONTHS.get(match[1][:3].lower(), 0)
    return datetime(int(match[3]), month, int(match[2]), tzinfo=UTC)


def _mail_date(text: str) -> datetime:
    """Parse "Sat, 07 Jul 2018 22:09:11 +0000" (RFC 5322); raises ValueError."""
    if _MAIL.fullmatch(text) is None:
        raise ValueError("another form")
    return parsedate_to_datetime(text)
