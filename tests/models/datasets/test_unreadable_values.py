"""A few unreadable values are rejected line by line; with more, nothing is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from models.datasets.detect import DataSetError, read
from models.datasets.options import ReadOptions

if TYPE_CHECKING:
    from pathlib import Path

TIME = 978_300_760
LONG = "x" * 201
#: Column, an unreadable value, and the part of the message that says what was found and what helps.
KINDS = [
    ("rating", "good", r"ratings are not numbers \(first: mine\.csv:2\).*--map rating=COLUMN"),
    ("timestamp", "25/12/2018", r"timestamps cannot be read.*first: mine\.csv:2.*--no-timestamps"),
    ("timestamp", "99999999999999999999", r"timestamps cannot be read.*--no-timestamps"),
    ("timestamp", f"-{TIME}", r"timestamps cannot be read.*--no-timestamps"),
    ("user_id", LONG, r"ids are too long.*first: mine\.csv:2.*--map user=COLUMN"),
    ("item_id", "a\u202eb", r"ids are too long or have characters.*--map user=COLUMN"),
]


def write(directory: Path, column: str, value: str, bad: int, good: int) -> Path:
    path = directory / "mine.csv"
    lines = ["user_id,item_id,rating,timestamp\n"]
    for n in range(bad + good):
        row = {"user_id": f"u{n}", "item_id": "i", "rating": "4", "timestamp": f"{TIME + n}"}
        row |= {column: value} if n < bad else {}
        lines.append(",".join(row.values()) + "\n")
    path.write_text("".join(lines), "utf-8")
    return path


@pytest.mark.parametrize(("column", "value", "message"), KINDS)
def test_more_than_a_few_refuse_the_file(
    tmp_path: Path, column: str, value: str, message: str
) -> None:
    with pytest.raises(DataSetError, match=f"nothing was stored.*{message}") as caught:
        read(write(tmp_path, column, value, 11, 1_000))
    assert value not in str(caught.value)


@pytest.mark.parametrize(("column", "value", "message"), KINDS)
@pytest.mark.parametrize(("bad", "good"), [(10, 10), (1, 1), (11, 1_100)])
def test_few_are_rejected_line_by_line(
    tmp_path: Path, column: str, value: str, message: str, bad: int, good: int
) -> None:
    del message
    data, report = read(write(tmp_path, column, value, bad, good))
    assert (len(data), report.rejected) == (good, bad)
    examples = [line.line for group in report.rejections.values() for line in group.examples]
    assert examples == list(range(2, 2 + min(bad, 10)))


@pytest.mark.parametrize(("column", "value", "message"), KINDS)
def test_most_values_must_be_readable(
    tmp_path: Path, column: str, value: str, message: str
) -> None:
    with pytest.raises(DataSetError, match=message):
        read(write(tmp_path, column, value, 3, 2))


@pytest.mark.parametrize("column", ["rating", "timestamp", "user_id", "item_id"])
@pytest.mark.parametrize("marker", ["", "NULL", "nan"])
def test_missing_values_are_not_unreadable(tmp_path: Path, column: str, marker: str) -> None:
    data, report = read(write(tmp_path, column, marker, 60, 40))
    assert (len(data), report.rejected) == (40, 60)


@pytest.mark.parametrize("marker", ["0000-00-00", "0000-00-00 00:00:00"])
def test_dates_of_zeros_are_missing_times(tmp_path: Path, marker: str) -> None:
    data, report = read(write(tmp_path, "timestamp", marker, 60, 40))
    assert len(data) == 40
    assert [*report.rejections] == ["the timestamp is missing"]


def test_given_unit_does_not_take_the_part_that_fits(tmp_path: Path) -> None:
    path = write(tmp_path, "timestamp", f"{TIME}000", 50, 50)
    with pytest.raises(DataSetError, match="timestamps cannot be read"):
        read(path, options=ReadOptions.parse(time_unit="seconds"))


@pytest.mark.parametrize(("column", "value", "message"), KINDS)
def test_option_of_the_message_leaves_the_lines_out(
    tmp_path: Path, column: str, value: str, message: str
) -> None:
    del message
    path = write(tmp_path, column, value, 40, 100)
    with pytest.raises(DataSetError, match="--skip-unreadable"):
        read(path)
    data, report = read(path, options=ReadOptions(skip_unreadable=True))
    assert (len(data), report.rejected) == (100, 40)
    # A column that is mostly unreadable is another column.
    with pytest.raises(DataSetError) as caught:
        read(write(tmp_path, column, value, 51, 50), options=ReadOptions(skip_unreadable=True))
    assert "--skip-unreadable" not in str(caught.value)
