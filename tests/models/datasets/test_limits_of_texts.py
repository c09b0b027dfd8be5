"""Titles and attributes have the limits of the REST API.

A line about an item or a user is rejected with its number; a rating is taken without the texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.domain import id_rules
from app.domain.errors import InvalidInputError
from app.services.validation import check_texts
from models.datasets import values
from models.datasets.detect import read

if TYPE_CHECKING:
    from pathlib import Path

TIME = 978_300_760
#: Parts of the reasons, and the texts of the columns title, genres, attributes and occupation.
TOO_MUCH = [
    ("title is longer than 500", ("t" * 501, "", "", "")),
    ("attribute is longer than 200", ("", "g" * 201, "", "")),
    ("more than 32 values", ("", "|".join(f"g{n}" for n in range(33)), "", "")),
    ("more than 32 attributes", ("", "", "|".join(f"n{n}:v" for n in range(33)), "")),
    ("more than 32 attributes", ("", "g", "|".join(f"n{n}:v" for n in range(32)), "")),
    ("name is longer than 64", ("", "", "n" * 65 + ":v", "")),
    ("attribute is longer than 200", ("", "", "", "o" * 201)),
    ("bidirectional control", ("", "", "", "doc\u202etor")),
]
FITS = (
    "t" * 500,
    "|".join(f"{n:02}" + "g" * 198 for n in range(32)),
    "|".join(f"{n:02}" + "n" * 62 + ":" + "v" * 200 for n in range(31)),
    "o" * 200,
)


def write_rows(path: Path, texts: tuple[str, ...]) -> Path:
    head = "user_id,item_id,rating,timestamp,title,genres,attributes,occupation\n"
    fields = ",".join(texts)
    path.write_text(f"{head}u,i,4,{TIME},,,,\nv,j,4,{TIME},{fields}\nw,j,4,{TIME},{fields}\n")
    return path


@pytest.mark.parametrize(("reason", "texts"), [entry for entry in TOO_MUCH if not entry[1][3]])
def test_rating_with_texts_beyond_a_limit_is_taken_without_the_texts(
    tmp_path: Path, reason: str, texts: tuple[str, ...]
) -> None:
    data, report = read(write_rows(tmp_path / "mine.csv", texts))
    assert (len(data), report.rejected) == (3, 0)
    assert [(item.id, item.title, item.attributes) for item in data.items] == [
        ("i", "i", {}),
        ("j", "j", {}),
    ]
    [note] = report.notes
    assert "in 2 rows were not taken" in note
    assert reason in note
    assert "first: mine.csv:3" in note


@pytest.mark.parametrize(("reason", "texts"), [entry for entry in TOO_MUCH if entry[1][3]])
def test_rating_line_with_a_user_beyond_a_limit_is_rejected(
    tmp_path: Path, reason: str, texts: tuple[str, ...]
) -> None:
    data, report = read(write_rows(tmp_path / "mine.csv", texts))
    assert [user.id for user in data.users] == ["u"]
    ((found, group),) = report.rejected_by_reason()
    assert reason in found
    assert [str(line) for line in group.examples] == [f"mine.csv:{n}: {found}" for n in (3, 4)]


def test_texts_at_the_limits_are_taken(tmp_path: Path) -> None:
    data, report = read(write_rows(tmp_path / "mine.csv", FITS))
    assert report.rejected == 0
    assert [item.title for item in data.items] == ["i", "t" * 500]
    assert len(data.items[1].attributes) == 32
    assert data.users[1].attributes == {"occupation": "o" * 200}


@pytest.mark.parametrize(("reason", "texts"), [entry for entry in TOO_MUCH if not entry[1][3]])
def test_catalog_line_beyond_a_limit_is_rejected(
    tmp_path: Path, reason: str, texts: tuple[str, ...]
) -> None:
    (tmp_path / "ratings.csv").write_text(f"user_id,book_id,rating,timestamp\nu,i,4,{TIME}\n")
    fields = ",".join(texts[:3])
    books = f"book_id,title,genres,attributes\ni,Heat,,\nj,{fields}\n"
    (tmp_path / "books.csv").write_text(books)
    data, report = read(tmp_path)
    assert [item.title for item in data.items] == ["Heat"]
    assert [str(group.examples[0]) for group in report.rejections.values()] == [
        f"books.csv:3: {next(iter(report.rejections))}"
    ]
    assert reason in next(iter(report.rejections))


def test_movie_beyond_a_limit_keeps_its_ratings_without_a_description(tmp_path: Path) -> None:
    movies = f"movieId,title,genres\n1,{'t' * 501},Drama\n2,Heat,Drama\n"
    (tmp_path / "movies.csv").write_text(movies)
    ratings = f"userId,movieId,rating,timestamp\nu,1,4,{TIME}\nu,2,4,{TIME}\n"
    (tmp_path / "ratings.csv").write_text(ratings)
    data, report = read(tmp_path)
    assert (len(data), report.rejected) == (2, 1)
    assert [(item.title, item.attributes) for item in data.items] == [
        ("1", {}),
        ("Heat", {"genre": ("Drama",)}),
    ]


def test_user_line_beyond_a_limit_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "ml.inter").write_text(
        f"user_id:token\titem_id:token\trating:float\ttimestamp:float\nu\ti\t4\t{TIME}\n"
    )
    users = f"user_id:token\toccupation:token\nu\tpainter\nv\t{'o' * 201}\n"
    (tmp_path / "ml.user").write_text(users)
    data, report = read(tmp_path)
    assert [user.id for user in data.users] == ["u"]
    assert report.rejected == 1


def test_attribute_with_the_name_title_is_no_title(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text(f"user_id,book_id,rating,timestamp\nu,i,4,{TIME}\n")
    books = "book_id,title,attributes\ni,Heat,title:Il Duello|title:Fuego\n"
    (tmp_path / "books.csv").write_text(books)
    data, _ = read(tmp_path)
    assert data.items[0].title == "Heat"
    assert data.items[0].attributes == {"title": ("Il Duello", "Fuego")}


def test_doors_have_the_same_limits() -> None:
    assert (
        (values.MAX_TITLE, values.MAX_NAME, values.MAX_VALUE)
        == (id_rules.MAX_TITLE_LENGTH, id_rules.MAX_NAME_LENGTH, id_rules.MAX_VALUE_LENGTH)
        == (500, 64, 200)
    )
    assert values.MAX_ATTRIBUTES == id_rules.MAX_ATTRIBUTES == 32
    assert values.MAX_VALUES == id_rules.MAX_VALUES == 32


@pytest.mark.parametrize(
    ("title", "attributes"),
    [
        ("t" * 501, {}),
        ("", {"n" * 65: "v"}),
        ("", {"n": "v" * 201}),
        ("", {"n": ["v"] * 33}),
        ("", {f"n{n}": "v" for n in range(33)}),
    ],
)
def test_service_refuses_texts_beyond_a_limit(
    title: str, attributes: dict[str, str | list[str]]
) -> None:
    with pytest.raises(InvalidInputError, match="at most"):
        check_texts(title, attributes)
