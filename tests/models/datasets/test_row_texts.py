"""Texts in the rows of ratings: review headings are no titles, one user's texts keep the user."""

from __future__ import annotations

import importlib
import importlib.util
import json
from typing import TYPE_CHECKING

import pytest

from models.datasets.detect import read

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from models.datasets.read_report import ReadReport

Row = tuple[str, str, str]
TIME = 978_300_760


def as_csv(directory: Path, rows: list[Row]) -> Path:
    path = directory / "rows.csv"
    lines = [f"{user},{item},5,{TIME + n},{title}\n" for n, (user, item, title) in enumerate(rows)]
    path.write_text("user_id,asin,rating,timestamp,title\n" + "".join(lines))
    return path


def as_json_lines(directory: Path, rows: list[Row]) -> Path:
    path = directory / "rows.jsonl"
    entries = (
        {"user_id": user, "book_id": item, "rating": 5, "timestamp": TIME + n, "title": title}
        for n, (user, item, title) in enumerate(rows)
    )
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def as_parquet(directory: Path, rows: list[Row]) -> Path:
    arrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    users, items, titles = (list(column) for column in zip(*rows, strict=True))
    columns = {"user_id": users, "asin": items, "rating": [5] * len(rows), "title": titles}
    path = directory / "rows.parquet"
    parquet.write_table(
        arrow.table(columns | {"timestamp": list(range(TIME, TIME + len(rows)))}), path
    )
    return path


FORMATS = [
    as_csv,
    as_json_lines,
    pytest.param(
        as_parquet,
        marks=pytest.mark.skipif(
            importlib.util.find_spec("pyarrow") is None,
            reason="pyarrow is optional and not installed",
        ),
    ),
]


def titles_of(path: Path) -> tuple[dict[str, str], ReadReport]:
    data, report = read(path)
    assert all(item.from_ratings for item in data.items)
    return {item.id: item.title for item in data.items}, report


@pytest.mark.parametrize("write", FORMATS)
def test_title_column_that_differs_for_one_item_is_taken_for_no_item(
    tmp_path: Path, write: Callable[[Path, list[Row]], Path]
) -> None:
    headings = [("u7", "B1", "My son Max loved it"), ("u8", "B1", "meh")]
    agreeing = [("u7", "B2", "Heat"), ("u8", "B2", "Heat")]
    titles, report = titles_of(write(tmp_path, headings + agreeing))
    assert titles == {"B1": "B1", "B2": "B2"}
    [note] = report.notes
    assert "the column title was not taken" in note
    assert "differ for 1 items" in note
    assert "Max" not in note


@pytest.mark.parametrize("write", FORMATS)
def test_title_of_one_user_is_taken_together_with_the_user(
    tmp_path: Path, write: Callable[[Path, list[Row]], Path]
) -> None:
    rows = [("u7", "B1", "Max"), ("u7", "B1", "Max"), ("u7", "B2", "Heat"), ("u8", "B2", " Heat")]
    data, report = read(write(tmp_path, rows))
    items = [(item.id, item.title, item.described_by) for item in data.items]
    assert items == [("B1", "Max", "u7"), ("B2", "Heat", None)]
    [note] = report.notes
    assert "the title of 1 items is from rows of one user each" in note
    assert "POST /items" in note


def test_few_differing_items_do_not_cost_the_column(tmp_path: Path) -> None:
    rows = [(user, f"B{n}", f"Title {n}") for user in ("u7", "u8") for n in range(100)]
    titles, report = titles_of(as_csv(tmp_path, [*rows, ("u9", "B7", "Titel 7")]))
    assert titles == {f"B{n}": f"Title {n}" for n in range(100)} | {"B7": "B7"}
    assert any("the title of 1 items was not taken" in note for note in report.notes)
    titles, _ = titles_of(as_csv(tmp_path, [*rows[1:], ("u9", "B7", "x"), ("u9", "B8", "y")]))
    assert titles == {f"B{n}": f"B{n}" for n in range(100)}


def test_texts_of_one_user_do_not_mix_with_those_of_others(tmp_path: Path) -> None:
    """Deleting the user's text would otherwise delete the texts of the others."""
    path = tmp_path / "rows.csv"
    path.write_text(
        "user_id,item_id,rating,timestamp,title,genres\n"
        "a,1,4,978300760,Heat,Drama\n"
        "b,1,4,978300760,Heat,\n"
        "a,2,4,978300761,Emma,Comedy\n"
    )
    data, _ = read(path)
    items = [(item.title, dict(item.attributes), item.described_by) for item in data.items]
    assert items == [("Heat", {}, None), ("Emma", {"genre": ("Comedy",)}, "a")]


def test_one_user_with_two_texts_for_an_item_makes_the_column_differ(tmp_path: Path) -> None:
    titles, report = titles_of(as_csv(tmp_path, [("u7", "B1", "first"), ("u7", "B1", "second")]))
    assert titles == {"B1": "B1"}
    assert "differ for 1 items" in report.notes[0]


def test_rejected_row_confirms_no_title(tmp_path: Path) -> None:
    path = as_csv(tmp_path, [("u7", "B1", "Max")])
    path.write_text(path.read_text() + "u8,B1,,978300760,Max\n")
    assert [item.described_by for item in read(path)[0].items] == ["u7"]


def test_each_column_is_judged_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(
        "user_id,item_id,rating,timestamp,title,genres,attributes\n"
        "a,1,4,978300760,lovely,Drama,genre:Mine|language:en\n"
        "b,1,4,978300760,dull,Drama,genre:Mine|language:en\n"
    )
    data, report = read(path)
    assert data.items[0].title == "1"
    assert data.items[0].attributes == {"genre": ("Drama",), "language": ("en",)}
    assert len(report.notes) == 1


def test_books_file_wins_over_titles_in_rows(tmp_path: Path) -> None:
    (tmp_path / "goodreads_interactions.json").write_text(
        as_json_lines(
            tmp_path, [(user, book, "from rows") for user in ("u", "v") for book in ("1", "2")]
        ).read_text()
    )
    (tmp_path / "rows.jsonl").unlink()
    (tmp_path / "goodreads_books.json").write_text('{"book_id": "1", "title": "Odes"}\n')
    data, _ = read(tmp_path)
    assert [(item.title, item.from_ratings) for item in data.items] == [
        ("Odes", False),
        ("from rows", True),
    ]
