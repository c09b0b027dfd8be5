"""The geometry of plots with intervals."""

from __future__ import annotations

import pytest

from app.web.interval_plot import WIDTH, Interval, interval_plot
from app.web.page_values import percent


def interval(mean: float | None, low: float | None, high: float | None) -> Interval:
    return Interval(label="answers", mean=mean, low=low, high=high)


def test_places_are_in_the_order_of_the_values_and_in_the_drawing() -> None:
    plot = interval_plot(
        "t", "n", [interval(0.5, 0.2, 0.8)], [(0.0, "0%"), (1.0, "100%")], text_of=percent
    )
    (row,) = plot.rows
    places = [plot.marks[0].x, row.low, row.mean, row.high, plot.marks[1].x]
    assert places == sorted(places)
    assert all(place is not None and 0 < place < WIDTH for place in places)
    # Equal distances of values are equal distances of places.
    assert row.mean is not None
    assert row.mean - row.low == pytest.approx(row.high - row.mean, abs=0.2)
    assert (row.text, row.cut_low, row.cut_high) == ("50% (20% to 80%)", False, False)


def test_interval_beyond_the_limits_is_marked_as_cut() -> None:
    limits = (-1.0, 2.0)
    intervals = [interval(0.5, -5.0, 9.0), interval(None, None, None), interval(0.1, 0.0, 1.0)]
    plot = interval_plot("t", "n", intervals, [(0.0, "0%")], text_of=percent, limits=limits)
    assert [(row.cut_low, row.cut_high) for row in plot.rows] == [
        (True, True),
        (True, True),
        (False, False),
    ]
    assert plot.rows[0].text == "50% (−500% to 900%)"
    assert plot.rows[1].text == "(−∞ to ∞)"
    assert plot.rows[1].mean is None
    assert plot.rows[0].low > 0
    assert plot.rows[0].high < WIDTH


def test_equal_values_are_drawn() -> None:
    plot = interval_plot("t", "n", [interval(0.0, 0.0, 0.0)], [(0.0, "0")], text_of=percent)
    assert 0 < plot.rows[0].low < WIDTH


def test_texts_of_marks_stay_in_the_drawing() -> None:
    marks = [(0.0, "left"), (0.5, "middle"), (1.0, "right")]
    plot = interval_plot("t", "n", [], marks, text_of=percent)
    assert [mark.anchor for mark in plot.marks] == ["start", "middle", "end"]
