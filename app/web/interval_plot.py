"""The geometry of a plot of means with intervals, which the template draws as SVG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: The width of the drawing in units of SVG. On a phone, a unit is about a pixel: text is legible.
WIDTH: Final = 360
_LEFT, _RIGHT = 8.0, 352.0
_ROW_HEIGHT: Final = 56
_TOP: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A measured value with its interval; a bound is None where the interval has no end."""

    label: str
    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A drawn interval. `cut_low` and `cut_high` mark an interval that goes on beyond the axis."""

    label: str
    text: str
    y: int
    mean: float | None
    low: float
    high: float
    cut_low: bool
    cut_high: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A vertical line with its text."""

    x: float
    text: str
    anchor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A plot of rows above an axis with marks."""

    title: str
    note: str
    rows: tuple[Row, ...]
    marks: tuple[Mark, ...]
    width: int
    height: int
    #: The y coordinate of the axis.
    axis: int


def interval_plot(
    title: str,
    note: str,
    intervals: Sequence[Interval],
    marks: Sequence[tuple[float, str]],
    *,
    text_of: Callable[[float], str],
    limits: tuple[float, float] | None = None,
) -> Plot:
    """Return the plot. `marks` are values with their texts; `limits` bound the axis."""
    ends = [
        value
        for each in intervals
        for value in (each.low, each.mean, each.high)
        if value is not None
    ] + [value for value, _ in marks]
    low, high = min(ends), max(ends)
    if limits is not None:
        low, high = max(low, limits[0]), min(high, limits[1])
    span = (high - low) or 1.0
    low, high = low - 0.04 * span, high + 0.04 * span

    def x(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return round(_LEFT + share * (_RIGHT - _LEFT), 1)

    rows = tuple(
        Row(
            label=each.label,
            text=interval_text(each, text_of),
            y=_TOP + _ROW_HEIGHT * number,
            mean=None if each.mean is None else x(each.mean),
            low=x(low if each.low is None else each.low),
            high=x(high if each.high is None else each.high),
            cut_low=each.low is None or each.low < low,
            cut_high=each.high is None or each.high > high,
        )
        for number, each in enumerate(intervals)
    )
    axis = _TOP + _ROW_HEIGHT * len(rows)
    return Plot(
        title=title,
        note=note,
        rows=rows,
        marks=tuple(Mark(x=x(value), text=text, anchor=_anchor(x(value))) for value, text in marks),
        width=WIDTH,
        height=axis + 20,
        axis=axis,
    )


def interval_text(interval: Interval, text_of: Callable[[float], str]) -> str:
    """Return the mean and the interval in words."""
    mean = "" if interval.mean is None else text_of(interval.mean)
    low = "−∞" if interval.low is None else text_of(interval.low)
    high = "∞" if interval.high is None else text_of(interval.high)
    return f"{mean} ({low} to {high})".strip()


def _anchor(x: float) -> str:
    """Return the alignment of a text at this place, so that the text stays in the drawing."""
    if x < WIDTH / 4:
        return "start"
    return "end" if x > WIDTH * 3 / 4 else "middle"
