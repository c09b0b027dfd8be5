"""Turn the texts of a rating column into stars, and find out whether the scale is another one.

One rating outside the scale is rejected with its line. If more than one in a hundred ratings does
not fit, the scale is another one and the data set is refused: the part that fits would be the low
end of another scale.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from models.datasets.errors import RejectedLineError
from models.datasets.options import MAX_STARS, MIN_STARS
from models.datasets.unreadable import LineCount, UnreadableValues
from models.datasets.values import decimal_point, is_missing

if TYPE_CHECKING:
    from models.datasets.options import ReadOptions
    from models.datasets.read_report import ReadReport

#: The largest share of ratings or times that may differ from the others and be rejected.
MAX_MISFIT_SHARE: Final = 0.01
_MAX_KNOWN: Final = 10_000
#: From this number of ratings on, it is unlikely that all are one star.
_MIN_EQUAL: Final = 20
_ALL_ONE: Final = (
    "Import with --implicit 1 if 1 means a use of the item, or with --scale 0.5:5 if all ratings "
    "are one star."
)
_TRUTH_VALUES: Final = {"true": 1.0, "false": 0.0}
#: The answer to a rating that a half star cannot say; `--scale 0.5:5` rounds.
_LIKED, _NOT_LIKED = 5.0, 1.0
#: Scales to suggest, by their highest rating.
_COMMON_HIGHEST: Final = (1, 5, 10, 100)


class RatingColumn:
    """Parse ratings; counts those that do not fit the scale."""

    def __init__(self, report: ReadReport, options: ReadOptions) -> None:
        self._report = report
        self._scale = options.scale
        self._threshold = options.implicit
        #: Text of a rating → stars.
        self._known: dict[str, float] = {}
        self._low, self._high = math.inf, -math.inf
        self._misfits = LineCount(report)
        self._unreadable = UnreadableValues(report, options)

    def stars(self, text: str) -> float:
        """Return half or whole stars from 0.5 to 5; raises RejectedLineError."""
        stars = self._known.get(text)
        if stars is None:
            stars = self._parse(text)
            if len(self._known) < _MAX_KNOWN:
                self._known[text] = stars
        return stars

    def _parse(self, text: str) -> float:
        text = text.strip()
        if is_missing(text):
            raise RejectedLineError("the rating is missing")
        value = _number(text)
        if not math.isfinite(value):
            self._unreadable.add()
            raise RejectedLineError("the rating is not a number")
        self._low, self._high = min(self._low, value), max(self._high, value)
        if self._threshold is not None:
            return _LIKED if value >= self._threshold else _NOT_LIKED
        return self._stars_of(value)

    def _stars_of(self, value: float) -> float:
        scale = self._scale
        if scale is not None:
            if value <= 0 and value < scale.low:
                raise RejectedLineError(f"the rating is below the scale {scale}, so it is none")
            if not scale.low <= value <= scale.high:
                raise self._misfit(f"the rating is not within the scale {scale}")
            return scale.stars(value)
        if not MIN_STARS <= value <= MAX_STARS:
            raise self._misfit("the rating is not within 0.5 to 5 stars")
        if not (2 * value).is_integer():
            raise self._misfit("the rating is not a whole or half star")
        return value

    def _misfit(self, reason: str) -> RejectedLineError:
        self._misfits.add()
        return RejectedLineError(reason)

    def obstacle(self, accepted: int) -> str:
        """Return why the ratings cannot be imported, as a sentence; empty if they can."""
        total = accepted + self._misfits.count
        if accepted >= _MIN_EQUAL and self._are_all_one():
            return f"All ratings are 1. {_ALL_ONE}"
        if self._misfits.count > MAX_MISFIT_SHARE * total:
            expected = (
                "half or whole stars from 0.5 to 5"
                if self._scale is None
                else f"within the scale {self._scale}"
            )
            return (
                f"The ratings range from {self._low:g} to {self._high:g}, and "
                f"{self._misfits.count:,} of {total:,} are not {expected} "
                f"(first: {self._misfits.first}). Give the scale of the data set: "
                f"{self._suggestion()}."
            )
        if self._unreadable.are_too_many(total):
            return (
                f"{self._unreadable.count:,} of {total + self._unreadable.count:,} ratings are not "
                f"numbers (first: {self._unreadable.first}). Give the column of the ratings with "
                f"--map rating=COLUMN, or correct these ratings.{self._unreadable.advice(total)}"
            )
        return ""

    def note(self) -> None:
        """Note in the report that ratings were taken for stars although they may be uses."""
        if self._are_all_one():
            self._report.notes.append(f"all ratings are 1 and were read as one star. {_ALL_ONE}")

    def _are_all_one(self) -> bool:
        is_explained = self._scale is not None or self._threshold is not None
        return self._low == self._high == 1 and not is_explained

    def _suggestion(self) -> str:
        if self._low < 0:
            low = f"{math.floor(self._low):g}"
            high = next((n for n in _COMMON_HIGHEST if n >= self._high), math.ceil(self._high))
            if high == 1:
                return f"--scale {low}:1, or --implicit 1 if lower values mean a dislike"
            return f"--scale {low}:{high}, or --scale 1:{high} if lower values are no ratings"
        if self._low >= MIN_STARS and self._high <= MAX_STARS:
            return "--scale 0.5:5 rounds to half stars"
        high = next((n for n in _COMMON_HIGHEST if n >= self._high), math.ceil(self._high))
        if high == 1:
            return "--scale 0:1, or --implicit 1 if 1 means a use of the item"
        if self._low > 0:
            return f"--scale {0 if self._low < 1 else 1}:{high}"
        return f"--scale 0:{high}, or --scale 1:{high} if 0 means that there is no rating"


def _number(text: str) -> float:
    """Return the number, with a decimal point or comma, 1 or 0 for true or false, or NaN."""
    if text.lower() in _TRUTH_VALUES:
        return _TRUTH_VALUES[text.lower()]
    text = decimal_point(text)
    try:
        # float() reads "1_0" as 10.
        return float(text) if "_" not in text else math.nan
    except ValueError:
        return math.nan
