"""Times of ratings: the unit is found or asked for, and 1970 never appears silently."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from models.datasets.detect import DataSetError, read
from models.datasets.options import ReadOptions

if TYPE_CHECKING:
    from pathlib import Path

    from models.datasets.read_report import ReadReport


def times(directory: Path, texts: list[str], **options: str) -> tuple[list[int], ReadReport]:
    path = directory / "mine.csv"
    lines = [f'u{n},i{n % 3},4,"{text}"\n' for n, text in enumerate(texts)]
    path.write_text("user_id,item_id,rating,timestamp\n" + "".join(lines))
    data, report = read(path, options=ReadOptions.parse(**options))  # type: ignore[arg-type]
    return data.timestamp.tolist(), report


@pytest.mark.parametrize(
    ("texts", "seconds", "note"),
    [
        (["20180707", "20191231"], [1530921600, 1577750400], "the digits of dates (UTC)"),
        (["1588687728923", "1588687729001"], [1588687728, 1588687729], "milliseconds"),
        (["1588687728923.0"], [1588687728], "milliseconds"),
        (["1588687728923456"], [1588687728], "microseconds"),
        (["1588687728923456789"], [1588687728], "nanoseconds"),
    ],
)
def test_unit_of_a_column_is_found_and_noted(
    tmp_path: Path, texts: list[str], seconds: list[int], note: str
) -> None:
    found, report = times(tmp_path, texts)
    assert found == seconds
    assert report.notes == [f"the timestamps were read as {note}"]
    assert report.lines == len(texts)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2018-07-07 22:09:11 UTC", 1531001351),
        ("2018-07-07 22:09:11.5 UTC", 1531001351),
        ("2018-07-07T22:09:11Z", 1531001351),
        ("Sat Jul 07 22:09:11 +0000 2018", 1531001351),
        ("Sat, 07 Jul 2018 22:09:11 GMT", 1531001351),
        ("07 7, 2018", 1530921600),
        ("July 7, 2018", 1530921600),
        ("2018/07/07", 1530921600),
        ("2018-7-7 22:09:11", 1531001351),
        ("2018.7.7", 1530921600),
        ("1531001351.0", 1531001351),
        ("1531001351,0", 1531001351),
        ("1531001351,75", 1531001351),
        ("1,531001351E+09", 1531001351),
        ("1.531001351E9", 1531001351),
        ("1.531001351e+09", 1531001351),
    ],
)
def test_form_of_a_time_is_read(tmp_path: Path, text: str, seconds: int) -> None:
    assert times(tmp_path, [text]) == ([seconds], times(tmp_path, [text])[1])
    assert times(tmp_path, [text])[1].notes == []


@pytest.mark.parametrize(
    ("digits", "seconds"), [("20180707220911", 1531001351), ("201807072209", 1531001340)]
)
def test_dates_and_times_of_digits_are_asked_about(
    tmp_path: Path, digits: str, seconds: int
) -> None:
    with pytest.raises(DataSetError, match=r"dates of 12 or 14 digits.*--time-unit date"):
        times(tmp_path, [digits])
    assert times(tmp_path, [digits], time_unit="date")[0] == [seconds]


@pytest.mark.parametrize("text", ["25/12/2018", "12.10.2018 10:00", "yesterday"])
def test_unreadable_times_name_a_readable_form(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataSetError, match=r"dates such as 2018-07-07.*mine\.csv:2.*Export"):
        times(tmp_path, [text])


def test_a_few_times_of_1970_are_noted(tmp_path: Path) -> None:
    found, report = times(tmp_path, ["0", "1531001351", "1531001352"])
    assert found == [0, 1531001351, 1531001352]
    assert "1 timestamps are before 1980 (first: mine.csv:2)" in report.notes[0]


def test_negative_time_is_rejected_as_negative(tmp_path: Path) -> None:
    found, report = times(tmp_path, ["1588687728923", "-62135596800000"])
    assert found == [1588687728]
    assert [str(g.examples[0]) for g in report.rejections.values()] == [
        "mine.csv:3: the timestamp is negative, so before 1970"
    ]


@pytest.mark.parametrize("texts", [["1.53E+09", "1.54E+09"], ["1,53E+09"], ["1.5310014E12"]])
def test_rounded_times_are_refused(tmp_path: Path, texts: list[str]) -> None:
    with pytest.raises(DataSetError, match=r"rounded.*mine\.csv:2.*--time-unit seconds"):
        times(tmp_path, texts)


def test_mixed_units_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match=r"several units: 2 in seconds, 1 in milliseconds"):
        times(tmp_path, ["1531001351", "1531001352", "1531001351000"])


def test_one_other_unit_in_many_is_rejected_with_its_line(tmp_path: Path) -> None:
    found, report = times(tmp_path, ["1531001351"] * 200 + ["1531001351000"])
    assert set(found) == {1531001351}
    assert [str(g.examples[0]) for g in report.rejections.values()] == [
        "mine.csv:202: the timestamp seems to be in milliseconds, others are in seconds"
    ]


def test_long_files_of_milliseconds_are_noticed_early_and_read(tmp_path: Path) -> None:
    found, _ = times(tmp_path, ["1531001351000"] * 5000)
    assert found == [1531001351] * 5000


def test_small_numbers_are_noted(tmp_path: Path) -> None:
    found, report = times(tmp_path, ["1", "2", "3"])
    assert found == [1, 2, 3]
    assert "before 1980" in report.notes[0]
    assert times(tmp_path, ["1", "2", "3"], time_unit="seconds")[1].notes == []


@pytest.mark.parametrize(
    ("texts", "form", "unit"),
    [
        (["43288.92", "43289.10", "43291.5"], "days of a spreadsheet", "seconds"),
        (["43288.92", "43289.10"], "days of a spreadsheet", "seconds"),
        (["43288", "43350", "43100"], "days of a spreadsheet", "seconds"),
        (["2016", "2017", "2018"], "years, such as 2018", "seconds"),
        (["2018"] * 30, "years, such as 2018", "seconds"),
        (["2018.0", "2015.0"], "years, such as 2018", "seconds"),
        (["07072018", "31122017"], "dates, such as 07072018", "seconds"),
        (["7072018", "12312017"], "dates, such as 07072018", "seconds"),
        (["180707", "080101"], "dates, such as 180707", "seconds"),
        (["070718", "311217"], "dates, such as 180707", "seconds"),
        (["180701", "180702", "180702"], "dates, such as 180707", "seconds"),
        (["201807", "201712"], "months, such as 201807", "seconds"),
        (["2458306.92", "2458307.1"], "Julian days", "seconds"),
        (["636665981510000000", "636665981520000000"], "ticks of .NET", "nanoseconds"),
        (["131754509510000000", "131754509520000000"], "ticks, such as", "nanoseconds"),
        (["180707220911", "180708220911"], "numbers of a date", "milliseconds"),
    ],
)
def test_dates_in_the_form_of_other_numbers_are_asked_about(
    tmp_path: Path, texts: list[str], form: str, unit: str
) -> None:
    with pytest.raises(DataSetError, match=f"nothing was stored.*{form}.*--time-unit {unit}"):
        times(tmp_path, texts)
    assert len(times(tmp_path, texts, time_unit=unit)[0]) == len(texts)
    assert len(times(tmp_path, texts, no_timestamps="order")[0]) == len(texts)


@pytest.mark.parametrize(
    "numbers",
    [
        [7],
        [1, 2, 3],
        [1000 + n for n in range(3000)],
        [30_000 + n for n in range(50)],
        [180_701 + n for n in range(20) if n != 7],
        [n % 40 for n in range(200)],
        list(range(100_000)),
    ],
)
def test_an_order_is_read_and_noted(tmp_path: Path, numbers: list[int]) -> None:
    found, report = times(tmp_path, [str(number) for number in numbers])
    assert sorted(found) == sorted(numbers)
    assert "before 1980" in report.notes[0]


def write_untimed(directory: Path, rows: str) -> Path:
    path = directory / "untimed.csv"
    path.write_text("user_id,book_id,rating\n" + rows)
    return path


def test_ratings_without_times_are_asked_about(tmp_path: Path) -> None:
    path = write_untimed(tmp_path, "1,258,5\n2,4081,4\n")
    with pytest.raises(DataSetError, match=r"timestamp.*--no-timestamps random.*order"):
        read(path)


def test_every_obstacle_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "BX-Book-Ratings.csv"
    path.write_text(
        '"User-ID";"ISBN";"Book-Rating"\n"11";"034545104X";"0"\n"12";"0155061224";"5"\n'
    )
    with pytest.raises(DataSetError, match=r"from 0 to 5.*--scale.*--no-timestamps"):
        read(path)


def test_order_of_rows_becomes_the_times(tmp_path: Path) -> None:
    path = write_untimed(tmp_path, "1,258,5\n2,4081,4\n1,3,2\n")
    data, report = read(path, options=ReadOptions.parse(no_timestamps="order"))
    assert data.timestamp.tolist() == [946684800, 946684801, 946684802]
    assert report.no_timestamps == "order"
    assert "sorted" not in report.notes[0]


def test_order_of_a_file_sorted_by_user_is_noted(tmp_path: Path) -> None:
    path = write_untimed(tmp_path, "1,258,5\n1,3,2\n2,4081,4\n")
    _, report = read(path, options=ReadOptions.parse(no_timestamps="order"))
    assert "sorted by user" in report.notes[0]


def test_random_times_have_a_fixed_seed(tmp_path: Path) -> None:
    path = write_untimed(tmp_path, "".join(f"{n // 9},{n},4\n" for n in range(200)))
    options = ReadOptions.parse(no_timestamps="random")
    first, report = read(path, options=options)
    second, _ = read(path, options=options)
    assert first.timestamp.tolist() == second.timestamp.tolist()
    assert sorted(first.timestamp.tolist()) == list(range(946684800, 946685000))
    assert first.timestamp.tolist() != sorted(first.timestamp.tolist())
    assert report.no_timestamps == "random"


def test_times_that_are_left_out_are_noted(tmp_path: Path) -> None:
    _, report = times(tmp_path, ["1531001351", ""], no_timestamps="random")
    (note,) = report.notes
    assert note.endswith("the file has times, and --no-timestamps random left them out")
