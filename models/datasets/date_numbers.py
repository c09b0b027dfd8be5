"""Recognize columns of numbers that are dates in another form than Unix times.

Read as Unix times, almost all of these forms are times of 1970. A column of consecutive numbers is
an order, which is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from models.datasets.options import TimeUnit

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]

#: The share of the numbers that must have the form.
_MIN_SHARE: Final = 0.99
#: An order may lack a few numbers, of rejected lines.
_MAX_GAPS: Final = 1.1
_YEARS: Final = (1970, 2100)
#: Day numbers of the years 1970 to 2100 in spreadsheets and in astronomy.
_SPREADSHEET_DAYS: Final = (25_569, 73_415)
_JULIAN_DAYS: Final = (2_440_587, 2_488_434)
#: .NET counts tenths of microseconds since the year 1; as nanoseconds, 1980 to 2100 are these
#: seconds since 1970.
_TICKS: Final = (624_500_000, 662_500_000)
_MONTHS: Final = 12
_DAYS: Final = 31


def unlike_times(seconds: Numbers, unit: TimeUnit, *, has_fractions: bool) -> str:
    """Return what the numbers seem to be if they are no times; empty if they may be times.

    `seconds` are the times that the numbers are in `unit`, [N], all before 1980 or in nanoseconds.
    """
    if unit is not TimeUnit.SECONDS:
        return "numbers of a date, such as 180707220911, or ticks, such as 131754822000000000"
    for form, matches in _FORMS.items():
        if np.count_nonzero(matches(seconds)) >= _MIN_SHARE * len(seconds):
            is_order = form != _YEARS_FORM and not has_fractions and _is_order(seconds)
            return "" if is_order else form
    return ""


def are_ticks(seconds: Numbers) -> bool:
    """Return whether numbers that were read as nanoseconds seem to be ticks of .NET."""
    return bool(np.count_nonzero(_within(seconds, *_TICKS)) >= _MIN_SHARE * len(seconds))


def _is_order(numbers: Numbers) -> bool:
    """Return whether the numbers are distinct and almost consecutive."""
    distinct = np.unique(numbers)
    if len(distinct) < len(numbers):
        return False
    return int(distinct[-1] - distinct[0]) < _MAX_GAPS * len(numbers)


def _within(numbers: Numbers, low: int, high: int) -> NDArray[np.bool_]:
    return (numbers >= low) & (numbers <= high)


def _day_and_month(first: Numbers, second: Numbers) -> NDArray[np.bool_]:
    """Return where the two numbers are a day and a month, in any order."""
    are_days = _within(first, 1, _DAYS) & _within(second, 1, _DAYS)
    return are_days & (np.minimum(first, second) <= _MONTHS)


def _day_month_year(numbers: Numbers) -> NDArray[np.bool_]:
    is_year = _within(numbers % 10_000, *_YEARS)
    return is_year & _day_and_month(numbers // 1_000_000, numbers // 10_000 % 100)


def _short_dates(numbers: Numbers) -> NDArray[np.bool_]:
    """Return where the numbers are 180707 or 070718, perhaps without the first zero."""
    first, second, third = numbers // 10_000, numbers // 100 % 100, numbers % 100
    year_first = _within(second, 1, _MONTHS) & _within(third, 1, _DAYS)
    return _within(first, 1, 99) & (year_first | _day_and_month(first, second))


def _year_and_month(numbers: Numbers) -> NDArray[np.bool_]:
    return _within(numbers // 100, *_YEARS) & _within(numbers % 100, 1, _MONTHS)


_YEARS_FORM: Final = "years, such as 2018"
_FORMS: Final[dict[str, Callable[[Numbers], NDArray[np.bool_]]]] = {
    _YEARS_FORM: lambda numbers: _within(numbers, *_YEARS),
    "days of a spreadsheet, such as 43288.92": lambda n: _within(n, *_SPREADSHEET_DAYS),
    "Julian days, such as 2458307.42": lambda n: _within(n, *_JULIAN_DAYS),
    "months, such as 201807": _year_and_month,
    "dates, such as 07072018": _day_month_year,
    "dates, such as 180707": _short_dates,
}
