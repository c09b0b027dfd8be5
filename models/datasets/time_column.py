"""Turn the texts of a timestamp column into Unix seconds, and find the unit of its numbers.

The unit belongs to the column: a reading assumes one unit, counts the numbers that only another
unit explains, and then accepts, asks for another reading with the unit of the majority, or refuses.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from models.datasets.date_numbers import are_ticks, unlike_times
from models.datasets.errors import RejectedLineError
from models.datasets.options import TimeUnit
from models.datasets.rating_column import MAX_MISFIT_SHARE
from models.datasets.time_texts import seconds_of_text
from models.datasets.unreadable import LineCount, UnreadableValues
from models.datasets.values import decimal_point, is_missing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.datasets.options import ReadOptions
    from models.datasets.read_report import ReadReport

#: The year 2100.
_MAX_SECONDS: Final = 4_102_444_800
#: Numbers from here on, per unit, are times after 1973.
_MIN_OF_FINE_UNITS: Final = 100_000_000
#: Before this time (1980) there are no data sets: most likely the numbers are no times.
_EARLIEST: Final = 315_532_800
#: Units finer than a second, and their number per second.
_PER_SECOND: Final = {
    TimeUnit.SECONDS: 1,
    TimeUnit.MILLISECONDS: 1_000,
    TimeUnit.MICROSECONDS: 1_000_000,
    TimeUnit.NANOSECONDS: 1_000_000_000,
}
_UNREADABLE: Final = "the timestamp is neither Unix seconds nor ISO 8601"
_NEGATIVE: Final = "the timestamp is negative, so before 1970"
_OUT_OF_RANGE: Final = "the timestamp is not within 1970 to 2100"
_MISSING: Final = "the timestamp is missing"
#: MySQL writes this date for a missing one, with or without a time of day.
_NO_DATE: Final = "0000-00-00"
_ROUNDED: Final = "the timestamp is rounded, as 1.5E+09"
#: Lengths of the digits of dates: 20180707, 201807072209 and 20180707220911.
_DATE_PATTERNS: Final = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_SHORT_DIGITS: Final = 8
#: Longer texts of digits are no times; int() refuses very long texts.
_MAX_DIGITS: Final = 25
_SCIENTIFIC: Final = re.compile(r"[+-]?\d+(?:\.(\d*))?[eE]\+?(\d+)")
#: The number of readable times after which a wrong unit is noticed without reading the rest.
_EARLY: Final = 1000


class OtherTimeUnitError(Exception):
    """The column has another unit than this reading assumed; the data set is read again."""

    def __init__(self, unit: TimeUnit) -> None:
        super().__init__(unit)
        self.unit = unit


class TimeColumn:
    """Parse timestamps in one unit, and count the numbers by the unit that explains them."""

    def __init__(self, report: ReadReport, options: ReadOptions) -> None:
        self._report = report
        self._is_given = options.time_unit is not TimeUnit.AUTO and not options.is_found
        self._is_found = options.is_found
        self._unit = TimeUnit.SECONDS if options.time_unit is TimeUnit.AUTO else options.time_unit
        self._counts: Counter[TimeUnit] = Counter()
        self._unreadable = UnreadableValues(report, options)
        self._rounded = LineCount(report)
        self._early = LineCount(report)
        self._long_digits = 0
        self._has_early_fractions = False

    def seconds(self, text: str) -> int:
        """Return Unix seconds; raises RejectedLineError."""
        text = text.strip()
        if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS:
            return self._of_number(int(text), text)
        text = decimal_point(text)
        match = _SCIENTIFIC.fullmatch(text)
        if match and len(match[1] or "") < int(match[2]) and not self._is_given:
            self._rounded.add()
            raise RejectedLineError(_ROUNDED)
        try:
            # float() reads "1_0" as 10.
            number = float(text) if "_" not in text else math.nan
        except ValueError:
            return self._of_text(text)
        if is_missing(text) or not math.isfinite(number):
            raise RejectedLineError(_MISSING) if is_missing(text) else self._unread(_UNREADABLE)
        return self._of_number(number, text.partition(".")[0])

    def _of_text(self, text: str) -> int:
        if is_missing(text) or text.startswith(_NO_DATE):
            raise RejectedLineError(_MISSING)
        seconds = seconds_of_text(text)
        if not math.isfinite(seconds):
            raise self._unread(_UNREADABLE)
        return self._in_range(seconds)

    def _unread(self, reason: str) -> RejectedLineError:
        self._unreadable.add()
        return RejectedLineError(reason)

    def _in_range(self, seconds: float) -> int:
        if not math.isfinite(seconds) or seconds > _MAX_SECONDS:
            raise self._unread(_OUT_OF_RANGE)
        if seconds < 0:
            raise self._unread(_NEGATIVE)
        return math.floor(seconds)

    def _of_number(self, number: float, digits: str) -> int:
        if number < 0:
            raise self._unread(_NEGATIVE)
        unit = _unit_of(number, digits)
        if unit is None and not self._is_given:
            raise self._unread(_OUT_OF_RANGE)
        if unit is not None:
            self._counts[unit] += 1
            self._long_digits += unit is TimeUnit.DATE and len(digits) > _SHORT_DIGITS
        if unit is not self._unit and not self._is_given:
            if self._counts.total() == _EARLY and not self._is_found:
                self._check_early()
            raise RejectedLineError(
                f"the timestamp seems to be in {unit}, others are in {self._unit}"
                if unit is not TimeUnit.DATE
                else "the timestamp seems to be the digits of a date"
            )
        if self._unit is TimeUnit.DATE:
            return self._in_range(_seconds_of_digits(digits))
        # Integers are divided exactly: a double has too few digits for nanoseconds.
        seconds = self._in_range(number // _PER_SECOND[self._unit])
        if seconds < _EARLIEST:
            self._early.add()
            self._has_early_fractions |= number != seconds
        return seconds

    def _check_early(self) -> None:
        """Stop a reading whose first times show another unit."""
        unit, count = self._counts.most_common(1)[0]
        if self._long_digits == 0 and count >= (1 - MAX_MISFIT_SHARE) * _EARLY:
            raise OtherTimeUnitError(unit)

    def obstacle(self, accepted: int) -> str:
        """Return why the times cannot be imported, as a sentence; empty if they can.

        Raises OtherTimeUnitError if another reading, with the unit of the majority, may succeed.
        """
        numbers = self._counts.total()
        if self._rounded.count > MAX_MISFIT_SHARE * (numbers + self._rounded.count):
            return (
                f"{self._rounded.count:,} timestamps are rounded, as 1.5E+09 (first: "
                f"{self._rounded.first}). Export the column as text, or take the rounded times "
                "with --time-unit seconds."
            )
        if self._unreadable.are_too_many(max(accepted, numbers)):
            return (
                f"{self._unreadable.count:,} timestamps cannot be read, because they are neither "
                "numbers of a time from 1970 to 2100 nor dates such as 2018-07-07 22:09:11 (first: "
                f"{self._unreadable.first}). Export the column in this form, or import without "
                f"times: --no-timestamps random.{self._unreadable.advice(max(accepted, numbers))}"
            )
        if self._is_given or not numbers:
            return ""
        unit, count = self._counts.most_common(1)[0]
        if numbers - count > MAX_MISFIT_SHARE * numbers:
            shares = ", ".join(f"{n:,} in {name}" for name, n in self._counts.most_common())
            return (
                f"The timestamps have several units: {shares}. Give the unit with --time-unit if "
                "all have the same, export them in one unit, or import without times: "
                "--no-timestamps random."
            )
        if unit is TimeUnit.DATE and self._long_digits:
            return (
                "The timestamps seem to be dates of 12 or 14 digits, as 20180707220911, and not"
                " Unix seconds. Import with --time-unit date to read them as dates in UTC."
            )
        if unit is not self._unit:
            raise OtherTimeUnitError(unit)
        return ""

    def doubt(self, seconds: NDArray[np.int64]) -> str:
        """Return why the times, [N], are no times but dates in another form; empty if they may be.

        Call this method last, with all times that were read.
        """
        if self._is_given or not len(seconds):
            return ""
        form = ""
        early = seconds[seconds < _EARLIEST]
        if self._early.count and len(early) >= (1 - MAX_MISFIT_SHARE) * len(seconds):
            form = unlike_times(early, self._unit, has_fractions=self._has_early_fractions)
        elif self._unit is TimeUnit.NANOSECONDS and are_ticks(seconds):
            form = "ticks of .NET, such as 636665981510000000"
        if not form:
            return ""
        years = "before 1980" if len(early) else "of about 1990"
        return (
            f"As {self._unit} since 1970, the timestamps are times {years}, and they seem to be "
            f"{form}. Export the column as 2018-07-07, or take the numbers as they are with "
            f"--time-unit {self._unit}, or import without times: --no-timestamps random."
        )

    def note(self, accepted: int) -> None:
        """Note in the report how the times were read, if this is not obvious."""
        if self._is_found:
            self._report.notes.append(f"the timestamps were read as {_NAMES[self._unit]}")
        early = self._early
        if self._is_given or not early.count:
            return
        if early.count > accepted // 2:
            self._report.notes.append(
                f"{early.count:,} timestamps are before 1980: if they are an order, import with "
                "--no-timestamps order; if the unit is another one, with --time-unit; if they are "
                "days of a spreadsheet or other numbers of a date, export them as 2018-07-07"
            )
        else:
            self._report.notes.append(
                f"{early.count:,} timestamps are before 1980 (first: {early.first}): they may"
                " stand for missing times"
            )


_NAMES: Final = {unit: unit.value for unit in TimeUnit} | {
    TimeUnit.DATE: "the digits of dates (UTC)"
}


def _unit_of(number: float, digits: str) -> TimeUnit | None:
    """Return the only unit that gives a plausible time, or None."""
    if math.isfinite(_seconds_of_digits(digits)):
        return TimeUnit.DATE
    if number <= _MAX_SECONDS:
        return TimeUnit.SECONDS
    for unit, per_second in _PER_SECOND.items():
        if _MIN_OF_FINE_UNITS <= number / per_second <= _MAX_SECONDS:
            return unit
    return None


def _seconds_of_digits(digits: str) -> float:
    """Return the time of digits of a date, or NaN."""
    pattern = _DATE_PATTERNS.get(len(digits))
    if pattern is None or not "1970" <= digits[:4] <= "2100":
        return math.nan
    try:
        return datetime.strptime(digits, pattern).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return math.nan
