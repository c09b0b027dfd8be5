"""Options of an import: what the operator says about a data set, and how the texts are parsed."""

from __future__ import annotations

import codecs
import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Self, TypeVar

from models.datasets.errors import DataSetError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Choice = TypeVar("Choice", bound=StrEnum)

MIN_STARS: Final = 0.5
MAX_STARS: Final = 5.0
#: The meanings that `--columns` and `--map` can name.
MEANINGS: Final = (
    *("user", "item", "rating", "timestamp", "title", "genres", "attributes"),
    *("gender", "age", "occupation"),
)
#: A column without a meaning in `--columns`.
_SKIPPED: Final = frozenset({"", "-", "_"})


class TimeUnit(StrEnum):
    """The meaning of the numbers in a timestamp column. `AUTO` finds it."""

    AUTO = "auto"
    SECONDS = "seconds"
    MILLISECONDS = "milliseconds"
    MICROSECONDS = "microseconds"
    NANOSECONDS = "nanoseconds"
    #: Digits of a date: 20180707, or with a time 20180707220911. The zone is UTC.
    DATE = "date"


class NoTimestamps(StrEnum):
    """The times of ratings without timestamps."""

    #: A random order with a fixed seed.
    RANDOM = "random"
    #: The order of the rows: the first row is the oldest rating.
    ORDER = "order"


@dataclass(frozen=True, slots=True)
class Scale:
    """The lowest and the highest possible rating of a data set."""

    low: float
    high: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse "1:10"; "10" means "0:10". Raises DataSetError."""
        low, separator, high = text.partition(":")
        try:
            scale = cls(float(low), float(high)) if separator else cls(0.0, float(low))
        except ValueError:
            scale = cls(math.nan, math.nan)
        if not (math.isfinite(scale.low) and math.isfinite(scale.high) and scale.low < scale.high):
            raise DataSetError(
                "The scale must be LOW:HIGH, the lowest and the highest rating, such as 1:10."
            )
        return scale

    def stars(self, rating: float) -> float:
        """Return the rating in half stars from 0.5 to 5.

        A scale within 0.5 to 5 keeps its ratings, to the nearest half star. Any other scale is
        mapped linearly: the lowest rating to 0.5 and the highest to 5 stars.
        """
        stars = rating
        if not MIN_STARS <= self.low < self.high <= MAX_STARS:
            share = (rating - self.low) / (self.high - self.low)
            stars = MIN_STARS + share * (MAX_STARS - MIN_STARS)
        return math.floor(2 * stars + 0.5) / 2

    def __str__(self) -> str:
        return f"{self.low:g}:{self.high:g}"


def _user_of_row(user_id: str, item_id: str) -> str | None:
    del item_id
    return user_id


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """What the operator says about a data set; by default nothing, and the reader finds it."""

    #: The scale of the ratings; None: half or whole stars from 0.5 to 5.
    scale: Scale | None = None
    #: Values of at least this threshold become 5 stars, lower values 1 star.
    implicit: float | None = None
    time_unit: TimeUnit = TimeUnit.AUTO
    #: Whether the reader found `time_unit` in the data set.
    is_found: bool = False
    no_timestamps: NoTimestamps | None = None
    seed: int = 0
    #: The meanings of the columns of a file without a header, in order.
    columns: tuple[str, ...] = ()
    #: Meaning → name of its column.
    column_names: Mapping[str, str] = field(default_factory=dict)
    encoding: str | None = None
    #: Whether lines with unreadable ratings, times or ids are left out, up to half of the lines.
    skip_unreadable: bool = False
    #: (user id, item id) → the person whose texts the row has; None: the texts are not taken.
    author: Callable[[str, str], str | None] = _user_of_row

    @classmethod
    def parse(  # noqa: PLR0913 -- each is an option of the command
        cls,
        *,
        scale: str | None = None,
        implicit: float | None = None,
        time_unit: str = "auto",
        no_timestamps: str | None = None,
        columns: str | None = None,
        column_map: str | None = None,
        encoding: str | None = None,
        skip_unreadable: bool = False,
    ) -> Self:
        """Parse the texts of the command line; raises DataSetError."""
        if scale is not None and implicit is not None:
            raise DataSetError("Use --scale or --implicit, not both.")
        if implicit is not None and not math.isfinite(implicit):
            raise DataSetError("The threshold of --implicit must be a number.")
        if columns and column_map:
            raise DataSetError("Use --columns for a file without a header, or --map, not both.")
        return cls(
            scale=None if scale is None else Scale.parse(scale),
            implicit=implicit,
            time_unit=_choice(TimeUnit, "--time-unit", time_unit),
            no_timestamps=None
            if no_timestamps is None
            else _choice(NoTimestamps, "--no-timestamps", no_timestamps),
            columns=_parse_columns(columns),
            column_names=_parse_map(column_map),
            encoding=_check_encoding(encoding),
            skip_unreadable=skip_unreadable,
        )


def _choice(kind: type[Choice], option: str, text: str) -> Choice:
    try:
        return kind(text)
    except ValueError as error:
        raise DataSetError(f"{option} must be one of: {', '.join(kind)}.") from error


def _parse_columns(text: str | None) -> tuple[str, ...]:
    """Parse "user,item,rating,-,timestamp"; "-" skips a column."""
    names = () if not text else tuple(name.strip().lower() for name in text.split(","))
    meanings = [name for name in names if name not in _SKIPPED]
    _check_meanings("--columns", meanings)
    return tuple("" if name in _SKIPPED else name for name in names)


def _parse_map(text: str | None) -> dict[str, str]:
    """Parse "user=customer_id,rating=score"."""
    if not text:
        return {}
    pairs = [pair.partition("=") for pair in text.split(",")]
    if any(not name.strip() or not separator for _, separator, name in pairs):
        raise DataSetError("--map must be MEANING=COLUMN,…, such as user=customer_id.")
    meanings = [meaning.strip().lower() for meaning, _, _ in pairs]
    _check_meanings("--map", meanings)
    return {m: name.strip() for m, (_, _, name) in zip(meanings, pairs, strict=True)}


def _check_meanings(option: str, meanings: list[str]) -> None:
    unknown = [meaning for meaning in meanings if meaning not in MEANINGS]
    if unknown or len(set(meanings)) < len(meanings):
        raise DataSetError(
            f"{option} must name each meaning at most once, of: {', '.join(MEANINGS)}."
        )


def _check_encoding(name: str | None) -> str | None:
    if name is None:
        return None
    try:
        # Python also has encodings of bytes, such as base64, and of domain names.
        b"ab".decode(name, "replace")
        return codecs.lookup(name).name
    except (LookupError, ValueError) as error:
        raise DataSetError(f"There is no encoding {name}. Use a name such as cp1251.") from error
