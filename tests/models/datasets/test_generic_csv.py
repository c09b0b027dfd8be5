"""Tests of the readers of CSV, Parquet and Goodreads files."""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
from typing import TYPE_CHECKING

import pytest

from models.datasets.detect import DataSetError, detect_format, read
from models.datasets.options import ReadOptions

if TYPE_CHECKING:
    from pathlib import Path

    from models.data.interactions import Interactions

BASE = "user_id,item_id,rating,timestamp\n"
NEEDS_PYARROW = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="pyarrow is optional and not installed"
)


def rows(data: Interactions) -> list[tuple[str, str, float, int]]:
    columns = zip(data.user, data.item, data.rating, data.timestamp, strict=True)
    return [
        (data.users[u].id, data.items[i].id, float(rating), int(timestamp))
        for u, i, rating, timestamp in columns
    ]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    "header",
    ["user,item,rating,timestamp", "userId,movieId,Rating,time", "UID,book_id,stars,created_at"],
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_columns_and_delimiters_are_detected(tmp_path: Path, header: str, delimiter: str) -> None:
    text = f"{header}\nu1,i2,3.5,7\n".replace(",", delimiter)
    path = write(tmp_path / "mine.csv", text)
    assert detect_format(path) == "csv"
    assert rows(read(path)[0]) == [("u1", "i2", 3.5, 7)]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_unicode_encodings_are_detected(tmp_path: Path, encoding: str) -> None:
    rows = "".join(f"{user},1,4,978300760,Amélie & 天\n" for user in ("Zoë", "b"))
    text = f"user,item,rating,timestamp,title\n{rows}bad\n"
    data, report = read(write(tmp_path / "mine.csv", text, encoding))
    assert (data.users[0].id, data.items[0].title) == ("Zoë", "Amélie & 天")
    assert [g.examples[0].line for g in report.rejections.values()] == [4]
    assert report.notes == []


def test_late_non_ascii_character_selects_latin_1(tmp_path: Path) -> None:
    lines = "".join(f"u{n},1,4,978300760\n" for n in range(200_000))
    text = BASE + lines + "Zoë,1,4,978300760\n"
    data, report = read(write(tmp_path / "mine.csv", text, "latin-1"))
    assert data.users[-1].id == "Zoë"
    assert report.notes == ["mine.csv is not UTF-8 and was read as Latin-1"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1260759144", 1260759144),
        ("1260759144.9", 1260759144),
        ("1.260759144E9", 1260759144),
        ("2009-12-14T02:52:24Z", 1260759144),
        ("2009-12-14T03:52:24+01:00", 1260759144),
        ("2009-12-14 02:52:24", 1260759144),
        ("2009-12-14", 1260748800),
    ],
)
def test_timestamp_formats_are_parsed(tmp_path: Path, text: str, seconds: int) -> None:
    data, _ = read(write(tmp_path / "mine.csv", f"{BASE}a,b,4,{text}\n"))
    assert data.timestamp.tolist() == [seconds]


def test_attributes_of_items_and_users_are_read(tmp_path: Path) -> None:
    text = (
        "user,item,rating,timestamp,title,genres,attributes,gender,age,occupation\n"
        "a,10,4,1,,,,,,\n"
        "a,9,4,1,Nine,Comedy|Drama|Comedy,author:Le Guin|language:en|author:B,f,31,Writer\n"
        "b,10,4,1,Ten,(no genres listed),,x,,other\n"
        "c,10,4,1,Ten,,,x,,other\n"
        "c,9,4,1, Nine,Drama|Comedy,language:en|author:Le Guin|author:B,x,,other\n"
    )
    data, _ = read(write(tmp_path / "mine.csv", text))
    assert [(item.id, item.title, dict(item.attributes)) for item in data.items] == [
        (
            "9",
            "Nine",
            {"author": ("Le Guin", "B"), "language": ("en",), "genre": ("Comedy", "Drama")},
        ),
        ("10", "Ten", {}),
    ]
    assert [dict(user.attributes) for user in data.users] == [
        {"gender": "F", "age": "25-34", "occupation": "writer"},
        {},
        {},
    ]


def test_item_order_does_not_depend_on_rating_order(tmp_path: Path) -> None:
    lines = ["a,10,4,1\n", "b,9,4,2\n", "c,x,4,3\n", "d,9,1,4\n"]
    forwards, _ = read(write(tmp_path / "one.csv", BASE + "".join(lines)))
    backwards, _ = read(write(tmp_path / "two.csv", BASE + "".join(reversed(lines))))
    assert [item.id for item in forwards.items] == ["9", "10", "x"]
    assert forwards.items == backwards.items
    assert sorted(rows(forwards)) == sorted(rows(backwards))


def test_quoted_field_may_contain_line_breaks(tmp_path: Path) -> None:
    text = (
        'title,user,item,rating,timestamp\n"A\nlong, ""odd"" one",a,1,4,1\nB,a,2,,2\nC,b,2,3,3\n'
        '"A long, ""odd"" one",c,1,4,1\n'
    )
    data, report = read(write(tmp_path / "mine.csv", text))
    assert data.items[0].title == 'A long, "odd" one'
    assert rows(data) == [("a", "1", 4.0, 1), ("b", "2", 3.0, 3), ("c", "1", 4.0, 1)]
    assert [example.line for g in report.rejections.values() for example in g.examples] == [4]


def test_review_of_many_lines_keeps_its_rating(tmp_path: Path) -> None:
    review = "\n".join(["It is good.", 'They said ""no"".', "u9,9,1,978300760,x"] * 60)
    text = f'user,item,rating,timestamp,text\nu1,1,4,978300760,"{review}"\nu2,1,5,978300760,ok\n'
    data, report = read(write(tmp_path / "mine.csv", text))
    assert [row[0] for row in rows(data)] == ["u1", "u2"]
    assert report.rejections == {}


def test_quotes_escaped_by_a_backslash_are_read(tmp_path: Path) -> None:
    line = r'"u{n}";"0155061224";"5";"978300760";"Rites \"of\" Passage"'
    text = "user;isbn;rating;time;title\n" + "".join(line.format(n=n) + "\n" for n in range(2))
    data, report = read(write(tmp_path / "mine.csv", text))
    assert data.items[0].title == 'Rites "of" Passage'
    assert report.rejections == {}


def test_stray_quote_rejects_only_its_own_line(tmp_path: Path) -> None:
    good = "".join(f"a,{n},4,1\n" for n in range(30))
    text = BASE + 'a,"x,4,1\n' + good + 'a,"y,4,1\n' + 'b,"z,4,1\n' + "b,2,4,1\n" + 'c,"z\n'
    data, report = read(write(tmp_path / "mine.csv", text))
    assert len(data) == 31
    assert {r: [example.line for example in g.examples] for r, g in report.rejections.items()} == {
        "the quotes are not balanced": [2, 33, 34, 36]
    }


def test_rejected_line_adds_no_user_and_no_item(tmp_path: Path) -> None:
    data, _ = read(write(tmp_path / "mine.csv", f"{BASE}ghost,spectre,,1\na,b,4,1\n"))
    assert ([u.id for u in data.users], [i.id for i in data.items]) == (["a"], ["b"])


def test_progress_ends_at_file_size(tmp_path: Path) -> None:
    text = BASE + "".join(f"u{n},1,4,1\n" for n in range(50_000))
    calls: list[tuple[int, int]] = []
    read(write(tmp_path / "mine.csv", text), progress=lambda done, of: calls.append((done, of)))
    assert len(calls) >= 3
    assert calls == sorted(calls)
    assert calls[-1] == (len(text), len(text))


def test_error_for_missing_columns_lists_them(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.csv", "user;item;when\na;b;1\n")
    with pytest.raises(DataSetError, match=r"no column for: rating, timestamp\..*found: user, it"):
        read(path)


@pytest.mark.parametrize("encoding", [None, "utf-8"])
def test_bytes_that_are_not_utf8_cost_their_line_and_change_no_other_id(
    tmp_path: Path, encoding: str | None
) -> None:
    text = BASE + "Zoë,1,4,978300760\nJürgen,1,4,978300760\n"
    (tmp_path / "mine.csv").write_bytes(text.encode() + "Björn,1,4,978300760\n".encode("cp1252"))
    data, report = read(tmp_path / "mine.csv", options=ReadOptions.parse(encoding=encoding))
    assert [user.id for user in data.users] == ["Zoë", "Jürgen"]
    (rejections,) = report.rejections.values()
    assert str(rejections.examples[0]).startswith("mine.csv:4: the line is not valid in the enc")


@pytest.mark.parametrize("marker", ["n/a", "NaT", "(null)", "<null>"])
def test_marker_of_a_missing_value_is_no_value(tmp_path: Path, marker: str) -> None:
    rows = [f"{marker},i,4,1", f"u,{marker},4,1", f"u,i,{marker},1", f"u,i,4,{marker}", "u,i,4,1"]
    data, report = read(write(tmp_path / "mine.csv", BASE + "\n".join(rows) + "\n"))
    assert (len(data), len(data.users), len(data.items)) == (1, 1, 1)
    assert sorted(report.rejections) == [
        f"the {name} is missing" for name in ("item id", "rating", "timestamp", "user id")
    ]


def test_single_quotes_belong_to_the_id_and_are_noted(tmp_path: Path) -> None:
    data, report = read(write(tmp_path / "mine.csv", f"{BASE}'u','i',4,978300760\n'v',i's,4,9\n"))
    assert [user.id for user in data.users] == ["'u'", "'v'"]
    assert sum("single quotes" in note for note in report.notes) == 1


def test_files_with_a_decimal_comma_have_the_ids_and_times_of_others(tmp_path: Path) -> None:
    comma = BASE.replace(",", ";") + "1,0;2,0;4,5;978300760,0\n-3,0;1,000;4,0;978300761,0\n"
    data, report = read(write(tmp_path / "mine.csv", comma))
    assert [user.id for user in data.users] == ["1", "-3"]
    # Thousands or a fraction: the id stays what the file has.
    assert [item.id for item in data.items] == ["2", "1,000"]
    assert data.timestamp.tolist() == [978300760, 978300761]
    assert report.notes == ["ids such as 42.0 were read as whole numbers, 42"]
    rounded = BASE.replace(",", ";") + "9007199254740994,0;2,0;4,5;978300760,0\n"
    with pytest.raises(DataSetError, match="ids are rounded numbers"):
        read(write(tmp_path / "mine.csv", rounded))


@pytest.mark.parametrize("encoding", [None, "cp1252"])
def test_bytes_without_a_character_do_not_make_one_id_of_two(
    tmp_path: Path, encoding: str | None
) -> None:
    """Windows-1252 has five undefined bytes, here 0x81 and 0x8D."""
    lines = b"Andr\x81,1,4,978300760\nAndr\x8d,1,5,978300760\nJos\xe9 \x93,1,4,978300760\n"
    (tmp_path / "mine.csv").write_bytes(BASE.encode() + lines)
    data, report = read(tmp_path / "mine.csv", options=ReadOptions.parse(encoding=encoding))
    assert [user.id for user in data.users] == ["José “"]
    (rejections,) = report.rejections.values()
    assert [str(line) for line in rejections.examples] == [
        f"mine.csv:{n}: the line is not valid in the encoding of the file" for n in (2, 3)
    ]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-32-le"])
def test_lone_surrogates_do_not_make_one_id_of_two(tmp_path: Path, encoding: str) -> None:
    text = f"{BASE}u\ud800,1,4,978300760\nu\ud801,1,5,978300760\nZoë,1,4,978300760\n"
    (tmp_path / "mine.csv").write_bytes(text.encode(encoding, "surrogatepass"))
    data, report = read(tmp_path / "mine.csv", options=ReadOptions.parse(encoding=encoding))
    assert [user.id for user in data.users] == ["Zoë"]
    assert report.rejected == 2


@pytest.mark.parametrize("encoding", ["base64", "rot13", "idna", "undefined", "nosuch"])
def test_encoding_that_is_none_of_text_files_is_refused(encoding: str) -> None:
    with pytest.raises(DataSetError, match="There is no encoding"):
        ReadOptions.parse(encoding=encoding)


def test_file_that_is_not_in_the_given_encoding_is_refused(tmp_path: Path) -> None:
    options = ReadOptions.parse(encoding="utf-16")
    with pytest.raises(DataSetError, match="not valid in the encoding utf-16"):
        read(write(tmp_path / "mine.csv", BASE), options=options)


@pytest.mark.parametrize(
    "line",
    [
        '{"user":"Zoe Miller","item":"b","rating":4,"timestamp":1530000000}',
        "Zoe Miller,book,good,yesterday",
        "zoe.miller@example.com,book,score,yesterday",
        "Zoe Miller,user,item,4",
    ],
)
def test_error_for_a_file_without_a_header_quotes_no_data(tmp_path: Path, line: str) -> None:
    with pytest.raises(DataSetError, match="its names are not known") as caught:
        read(write(tmp_path / "mine.csv", f"{line}\n"))
    assert "iller" not in str(caught.value)


def test_parquet_without_pyarrow_is_rejected_with_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataSetError, match="pip install pyarrow"):
        read(tmp_path / "mine.parquet")


@NEEDS_PYARROW
def test_parquet(tmp_path: Path) -> None:
    arrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    table = arrow.table(
        {
            "genres": [["Comedy", "Drama"], None, None, ["Comedy", "Drama"]],
            "user_id": [1.0, None, 2.0, 2.0],
            "rating": [3.5, 4.0, 5.0, 5.0],
            "item_id": ["a", "b", "b", "a"],
            "timestamp": arrow.array([1_000_000, 2_000_000, 3_000_000, 0], arrow.timestamp("us")),
        }
    )
    parquet.write_table(table, tmp_path / "mine.parquet")
    data, report = read(tmp_path / "mine.parquet")
    assert report.format == "parquet"
    assert rows(data) == [("1", "a", 3.5, 1), ("2", "b", 5.0, 3), ("2", "a", 5.0, 0)]
    assert data.items[0].attributes == {"genre": ("Comedy", "Drama")}
    assert [str(g.examples[0]) for g in report.rejections.values()] == [
        "mine.parquet:2: the user id is missing"
    ]


@NEEDS_PYARROW
def test_damaged_parquet_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "mine.parquet").write_bytes(b"PAR1" + b"x" * 100)
    with pytest.raises(DataSetError, match="Parquet"):
        read(tmp_path / "mine.parquet")


def interaction_line(user: str, book: str, rating: object, date: str) -> str:
    entry = {"user_id": user, "book_id": book, "rating": rating, "date_updated": date}
    return json.dumps(entry) + "\n"


@pytest.mark.parametrize("packed", [False, True])
def test_goodreads_ratings_and_titles_are_read(tmp_path: Path, packed: bool) -> None:
    text = (
        interaction_line("u", "20", 5, "Tue Oct 17 09:40:11 -0700 2017")
        + interaction_line("u", "3", 4, "Tue Oct 17 09:40:11 +0100 2017")
        + interaction_line("u", "4", 0, "Tue Oct 17 09:40:11 +0100 2017")
        + interaction_line("v", "3", 2, "2017-10-17T08:40:11Z")
        + "{broken\n[1]\n"
        + interaction_line("u", "5", 3, "Tue Foo 17 09:40:11 +0100 2017")
    )
    name = "goodreads_interactions_poetry.json" + (".gz" if packed else "")
    content = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    (tmp_path / "goodreads_books_poetry.json").write_text(
        '{"book_id": "3", "title": "Odes"}\n{"book_id": "99", "title": "Never read"}\n'
    )
    data, report = read(tmp_path)
    assert report.format == "goodreads"
    assert rows(data) == [
        ("u", "20", 5.0, 1508258411),
        ("u", "3", 4.0, 1508229611),
        ("v", "3", 2.0, 1508229611),
    ]
    assert [item.title for item in data.items] == ["Odes", "20"]
    assert {r: g.examples[0].line for r, g in report.rejections.items()} == {
        "the book has no rating (0 stars)": 3,
        "the line is not valid JSON": 5,
        "the line is not a JSON object": 6,
        "the timestamp is neither Unix seconds nor ISO 8601": 7,
    }
    assert report.lines == report.accepted + report.described + report.rejected
