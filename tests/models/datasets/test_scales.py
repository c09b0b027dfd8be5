"""The scale of ratings: a file of another scale is refused as a whole, or read with `--scale`."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING

import pytest

from models.datasets.detect import DataSetError, read
from models.datasets.options import ReadOptions, Scale

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


def as_csv(directory: Path, ratings: Sequence[object]) -> Path:
    path = directory / "mine.csv"
    lines = [f"u{n},i{n % 3},{r},{978300760 + n}\n" for n, r in enumerate(ratings)]
    path.write_text("user_id,item_id,rating,timestamp\n" + "".join(lines))
    return path


def as_movielens(directory: Path, ratings: Sequence[object]) -> Path:
    (directory / "movies.dat").write_text("".join(f"i{n}::Film {n}::Drama\n" for n in range(3)))
    lines = [f"u{n}::i{n % 3}::{r}::{978300760 + n}\n" for n, r in enumerate(ratings)]
    (directory / "ratings.dat").write_text("".join(lines))
    return directory


@pytest.mark.parametrize("write", [as_csv, as_movielens])
@pytest.mark.parametrize(
    ("ratings", "found"),
    [
        ([9, 10, 3, 0, 7], "from 0 to 10"),
        ([-1, 8, 10, 4], "from -1 to 10"),
        ([1, 2, 3, 4, 5, 5, 4, 3, 2, 7], "from 1 to 7"),
        ([80, 5, 3, 100], "from 3 to 100"),
        ([0, 1, 1, 0], "from 0 to 1"),
        ([3.7, 4, 2.5, 4.9], "from 2.5 to 4.9"),
        (["3,7", "4", "4,9"], "from 3.7 to 4.9"),
    ],
)
def test_another_scale_is_refused_with_the_range_and_the_option(
    tmp_path: Path,
    write: Callable[[Path, Sequence[object]], Path],
    ratings: list[object],
    found: str,
) -> None:
    if write is as_csv and "," in str(ratings[0]):
        ratings = [f'"{rating}"' for rating in ratings]
    with pytest.raises(DataSetError) as caught:
        read(write(tmp_path, ratings))
    message = str(caught.value)
    assert found in message
    assert "nothing was stored" in message
    assert "--scale" in message


def test_one_bad_rating_in_many_is_rejected_with_its_line(tmp_path: Path) -> None:
    data, report = read(as_csv(tmp_path, [4] * 150 + [55] + [3] * 50))
    assert len(data) == 200
    assert [str(g.examples[0]) for g in report.rejections.values()] == [
        "mine.csv:152: the rating is not within 0.5 to 5 stars"
    ]


@pytest.mark.parametrize("write", [as_csv, as_movielens])
@pytest.mark.parametrize(
    ("scale", "ratings", "stars"),
    [
        ("1:10", [1, 5, 8, 10], [0.5, 2.5, 4.0, 5.0]),
        ("0:10", [0, 5, 10], [0.5, 3.0, 5.0]),
        ("10", [0, 10], [0.5, 5.0]),
        ("0:100", [0, 100, 50], [0.5, 5.0, 3.0]),
        ("-10:10", [-10, 10, 0.02], [0.5, 5.0, 3.0]),
        ("1:5", [1, 3.7, 5], [1.0, 3.5, 5.0]),
        ("0:1", [0, 1], [0.5, 5.0]),
    ],
)
def test_scale_maps_ratings_to_half_stars(
    tmp_path: Path,
    write: Callable[[Path, Sequence[object]], Path],
    scale: str,
    ratings: list[float],
    stars: list[float],
) -> None:
    data, _ = read(write(tmp_path, ratings), options=ReadOptions(scale=Scale.parse(scale)))
    assert data.rating.tolist() == stars


def test_zero_below_the_given_scale_is_no_rating(tmp_path: Path) -> None:
    options = ReadOptions(scale=Scale.parse("1:10"))
    data, report = read(as_csv(tmp_path, [0, 5, 8]), options=options)
    assert data.rating.tolist() == [2.5, 4.0]
    assert [str(g.examples[0]) for g in report.rejections.values()] == [
        "mine.csv:2: the rating is below the scale 1:10, so it is none"
    ]


def test_given_scale_that_is_too_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match=r"from 4 to 10.*within the scale 1:5"):
        read(as_csv(tmp_path, [4, 8, 10]), options=ReadOptions(scale=Scale.parse("1:5")))


@pytest.mark.parametrize("text", ["", "x", "5:1", "1:1", "1:nan", "0:inf", "1:2:3"])
def test_malformed_scale_is_refused(text: str) -> None:
    with pytest.raises(DataSetError, match="LOW:HIGH"):
        ReadOptions.parse(scale=text)


def test_implicit_threshold_divides_counts_into_liked_and_not_liked(tmp_path: Path) -> None:
    path = tmp_path / "plays.csv"
    path.write_text(
        "user,game,hours,date\na,x,12.5,2017-01-02\na,y,0.1,2017-01-03\nb,x,2,2017-02-01\n"
    )
    data, _ = read(path, options=ReadOptions.parse(implicit=2))
    assert data.rating.tolist() == [5.0, 1.0, 5.0]


def test_implicit_file_without_a_rating_column_has_five_stars(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text("visitor_id,item_id,timestamp\na,x,1433221332117\nb,x,1433221332918\n")
    data, report = read(path, options=ReadOptions.parse(implicit=1))
    assert data.rating.tolist() == [5.0, 5.0]
    assert data.timestamp.tolist() == [1433221332, 1433221332]
    assert "the timestamps were read as milliseconds" in report.notes


@pytest.mark.parametrize("name", ["plays", "weight", "hours", "click"])
def test_counts_are_not_taken_for_stars(tmp_path: Path, name: str) -> None:
    path = tmp_path / "plays.csv"
    path.write_text(f"user,artist_id,{name},date\na,x,1,2017-01-02\nb,x,3,2017-01-02\n")
    with pytest.raises(DataSetError, match=rf"The column {name} .* --implicit THRESHOLD"):
        read(path)
    assert list(read(path, options=ReadOptions.parse(implicit=2))[0].rating) == [1, 5]
    options = ReadOptions.parse(column_map=f"rating={name}")
    assert list(read(path, options=options)[0].rating) == [1, 3]


def test_ratings_that_are_all_one_are_a_question(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    lines = ["uid,iid,val,time\n", *(f"{n},6,1,978300760\n" for n in range(20))]
    path.write_text("".join(lines))
    with pytest.raises(DataSetError, match=r"All ratings are 1\. Import with --implicit 1"):
        read(path)
    implicit, stars = ReadOptions.parse(implicit=1), ReadOptions.parse(scale="0.5:5")
    assert set(read(path, options=implicit)[0].rating) == {5}
    assert set(read(path, options=stars)[0].rating) == {1}
    path.write_text("".join(lines[:3]))
    data, report = read(path)
    assert set(data.rating) == {1}
    assert "all ratings are 1" in report.notes[0]


def test_truth_values_are_one_and_zero(tmp_path: Path) -> None:
    rows = [{"user_id": f"u{n}", "item_id": 7, "rating": n == 1, "time": 9} for n in range(2)]
    lines, table = tmp_path / "mine.jsonl", tmp_path / "mine.csv"
    lines.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    table.write_text("user,item,rating,time\nu0,7,False,9\nu1,7,true,9\n")
    parquet = tmp_path / "mine.parquet"
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    table_of = importlib.import_module("pyarrow").table
    importlib.import_module("pyarrow.parquet").write_table(table_of(columns), parquet)
    for path in (lines, table, parquet):
        with pytest.raises(DataSetError, match=r"from 0 to 1.*--scale 0:1"):
            read(path)
        assert list(read(path, options=ReadOptions.parse(implicit=1))[0].rating) == [1, 5]


@pytest.mark.parametrize(
    ("ratings", "suggestion"),
    [([-1, 1, 1], "--scale -1:1, or --implicit 1"), ([0.5, 3, 9.5], "--scale 0:10.")],
)
def test_suggested_scale_is_valid_and_holds_all_ratings(
    tmp_path: Path, ratings: list[float], suggestion: str
) -> None:
    with pytest.raises(DataSetError) as caught:
        read(as_csv(tmp_path, ratings))
    assert f"Give the scale of the data set: {suggestion}" in str(caught.value)
