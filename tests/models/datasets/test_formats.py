"""The files that practitioners bring: names of columns, compressions, encodings, several files."""

from __future__ import annotations

import gzip
import importlib
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from models.datasets import compressed_files
from models.datasets.detect import DataSetError, detect_format, read
from models.datasets.options import ReadOptions

if TYPE_CHECKING:
    from pathlib import Path

    from models.data.interactions import Interactions

TIME = 978_300_760
BASE = "user_id,item_id,rating,timestamp\n"


def rows(data: Interactions) -> list[tuple[str, str, float, int]]:
    columns = zip(data.user, data.item, data.rating, data.timestamp, strict=True)
    return [(data.users[u].id, data.items[i].id, float(r), int(t)) for u, i, r, t in columns]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("header", "order"),
    [
        ("reviewerID,asin,overall,unixReviewTime", "uirt"),
        ("user_id,asin,parent_asin,rating,timestamp", "uxirt"),
        ("user_id,business_id,stars,date", "uirt"),
        ("username,product_id,hours,date", "uirt"),
        ("User-ID,ISBN,Book-Rating,timestamp", "uirt"),
        ("user_id:token,item_id:token,rating:float,timestamp:float", "uirt"),
        ("customer_id,product_id,star_rating_x,score,review_time", "uixrt"),
    ],
)
def test_names_of_columns_of_well_known_data_sets(tmp_path: Path, header: str, order: str) -> None:
    values = {"u": "A1Z", "i": "0001388703", "r": "5.0", "t": f"{TIME}", "x": "other"}
    text = f"{header}\n" + ",".join(values[name] for name in order) + "\n"
    options = ReadOptions.parse(implicit=5.0 if "hours" in header else None)
    data, _ = read(write(tmp_path / "mine.csv", text), options=options)
    assert rows(data) == [("A1Z", "0001388703", 5.0, TIME)]


def test_reviews_of_steam_are_dictionaries_of_python_2(tmp_path: Path) -> None:
    line = (
        "{u'username': u'Zo\\xeb', 'hours': 10.2, u'product_id': u'328100', u'date': '2018-01-02'}"
    )
    path = write(tmp_path / "steam_reviews.json", f"{line}\n")
    data, _ = read(path, options=ReadOptions.parse(implicit=5))
    assert rows(data) == [("Zoë", "328100", 5.0, 1_514_851_200)]


def test_columns_name_those_of_a_file_without_a_header(tmp_path: Path) -> None:
    path = write(tmp_path / "books.csv", f"i1,u1,5.0,{TIME}\ni2,u1,3.0,{TIME}\n")
    options = ReadOptions.parse(columns="item,user,rating,timestamp")
    data, report = read(path, options=options)
    assert rows(data) == [("u1", "i1", 5.0, TIME), ("u1", "i2", 3.0, TIME)]
    assert report.lines == 2
    plays = write(tmp_path / "steam.csv", '151603712,"The Elder, V",purchase,1.0,0\n')
    options = ReadOptions.parse(columns="user,item,-,rating,-", implicit=1, no_timestamps="order")
    assert rows(read(plays, options=options)[0])[0][:3] == ("151603712", "The Elder, V", 5.0)


def test_double_colon_file_without_a_catalog_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "ratings.dat", f"1::0110912::9::{TIME}\n2::0110912::3::{TIME}\n")
    options = ReadOptions.parse(columns="user,item,rating,timestamp", scale="0:10")
    assert rows(read(path, options=options)[0]) == [
        ("1", "0110912", 4.5, TIME),
        ("2", "0110912", 2.0, TIME),
    ]


def test_map_names_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.csv", f"wer;was;rating;wann;item\na;b;4;{TIME};c\n")
    options = ReadOptions.parse(column_map="user=wer,item=was,timestamp=WANN")
    assert rows(read(path, options=options)[0]) == [("a", "b", 4.0, TIME)]
    with pytest.raises(DataSetError, match="no column absent"):
        read(path, options=ReadOptions.parse(column_map="user=absent"))


@pytest.mark.parametrize(
    "options",
    [
        {"columns": "user,item,user"},
        {"columns": "user,thing"},
        {"column_map": "user"},
        {"column_map": "who=user"},
        {"columns": "user", "column_map": "user=a"},
        {"scale": "1:10", "implicit": 1},
        {"implicit": float("nan")},
        {"time_unit": "weeks"},
        {"no_timestamps": "no"},
        {"encoding": "utf-99"},
    ],
)
def test_malformed_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(DataSetError):
        ReadOptions.parse(**options)


def test_error_never_quotes_a_line_of_data(tmp_path: Path) -> None:
    for text in (
        f"alice@example.com,Secret film,4,{TIME}\n",
        "alice@example.com;Secret film;liked\n",
        '{"user": "alice@example.com", "note": "Secret film"}\n',
    ):
        path = write(tmp_path / ("mine.json" if text.startswith("{") else "mine.csv"), text)
        with pytest.raises(DataSetError) as caught:
            read(path)
        assert "alice" not in str(caught.value)
        assert "Secret" not in str(caught.value)


def test_recbole_files_are_read_with_their_catalog(tmp_path: Path) -> None:
    write(
        tmp_path / "x.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "A1Z\t0001388703\t5.0\t1387670400.0\n",
    )
    write(
        tmp_path / "x.item",
        "item_id:token\tmovie_title:token_seq\tgenre:token_seq\n0001388703\tHeat\tCrime Drama\n",
    )
    write(tmp_path / "x.user", "user_id:token\tage:token\tgender:token\nA1Z\t30\tF\n")
    for path in (tmp_path, tmp_path / "x.inter"):
        assert detect_format(path) == "recbole"
        data, _ = read(path)
        assert rows(data) == [("A1Z", "0001388703", 5.0, 1387670400)]
        assert (data.items[0].title, data.items[0].attributes) == (
            "Heat",
            {"genre": ("Crime", "Drama")},
        )
        assert data.users[0].attributes == {"age": "25-34", "gender": "F"}


def test_book_crossing_directory_is_read(tmp_path: Path) -> None:
    write(
        tmp_path / "BX-Book-Ratings.csv",
        '"User-ID";"ISBN";"Book-Rating"\n"11";"034545104X";"0"\n"12";"0155061224";"5"\n',
    )
    write(
        tmp_path / "BX-Books.csv",
        '"ISBN";"Book-Title";"Book-Author"\n"0155061224";"Rites; of Passage";"J Rae"\n',
        "latin-1",
    )
    options = ReadOptions.parse(scale="1:10", no_timestamps="random")
    data, report = read(tmp_path, options=options)
    assert rows(data)[0][:3] == ("12", "0155061224", 2.5)
    assert data.items[0].title == "Rites; of Passage"
    assert report.rejected == 1


def test_goodbooks_directory_is_read(tmp_path: Path) -> None:
    write(tmp_path / "ratings.csv", "user_id,book_id,rating\n1,258,5\n2,258,4\n")
    write(tmp_path / "books.csv", "book_id,goodreads_book_id,title,authors\n258,7,Odes,Keats\n")
    data, _ = read(tmp_path, options=ReadOptions.parse(no_timestamps="random"))
    assert (len(data), data.items[0].title) == (2, "Odes")


def test_amazon_json_lines_are_read(tmp_path: Path) -> None:
    entries = [
        {"rating": 5.0, "title": "Loved", "asin": "B0", "parent_asin": "B1", "user_id": "A"},
        {"rating": 1.0, "title": "Meh", "asin": "B0", "parent_asin": "B1", "user_id": "C"},
    ]
    lines = [json.dumps(e | {"timestamp": 1588687728923 + n}) for n, e in enumerate(entries)]
    write(tmp_path / "Books.jsonl", "\n".join(lines) + "\n")
    write(tmp_path / "meta_Books.jsonl", json.dumps({"parent_asin": "B1", "title": "Odes"}) + "\n")
    data, report = read(tmp_path / "Books.jsonl")
    assert rows(data) == [("A", "B1", 5.0, 1588687728), ("C", "B1", 1.0, 1588687728)]
    assert data.items[0].title == "Odes"
    assert "the timestamps were read as milliseconds" in report.notes


def test_all_goodreads_files_and_long_reviews_are_read(tmp_path: Path) -> None:
    for genre, user, review in (("children", "a", "x" * 70_000), ("poetry", "b", "")):
        entry = {"user_id": user, "book_id": "b1", "rating": 4, "review_text": review}
        entry |= {"date_updated": "", "date_added": "Wed Mar 22 11:37:04 -0700 2017"}
        write(tmp_path / f"goodreads_interactions_{genre}.json", json.dumps(entry) + "\n")
    write(
        tmp_path / "goodreads_books_poetry.json",
        '{"book_id": "b1", "title": "Odes"}\n{"book_id": "b9", "title": "Unread"}\n',
    )
    data, report = read(tmp_path)
    assert [row[0] for row in rows(data)] == ["a", "b"]
    assert any("children.json, goodreads_interactions_poetry.json" in n for n in report.notes)
    assert "1 items of catalog files have no rating and were not taken" in report.notes


def compress(path: Path, content: bytes) -> None:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content))
        return
    arrow = importlib.import_module("pyarrow")
    with arrow.CompressedOutputStream(str(path), "zstd") as stream:
        stream.write(content)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_files_are_read_and_bombs_refused(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"mine.csv{suffix}"
    compress(path, (BASE + "".join(f"u{n},Zoë,4,{TIME}\n" for n in range(3000))).encode())
    data, _ = read(path)
    assert (len(data), data.items[0].id) == (3000, "Zoë")
    monkeypatch.setattr(compressed_files, "MAX_UNCHECKED_CONTENT", 1 << 20)
    compress(path, BASE.encode() + b"\n" * (1 << 22))
    with pytest.raises(DataSetError, match="times its size"):
        read(path)


@pytest.mark.parametrize(
    ("encoding", "note"),
    [("cp1252", "Windows-1252"), ("latin-1", "Latin-1")],
)
def test_western_encodings_are_told_apart(tmp_path: Path, encoding: str, note: str) -> None:
    title = "“Wait…” café" if encoding == "cp1252" else "café"
    text = "user_id,item_id,rating,timestamp,title\n"
    text += "".join(f"u{n},7,4,{TIME},{title}\n" for n in range(2))
    data, report = read(write(tmp_path / "w.csv", text, encoding))
    assert data.items[0].title == title
    assert report.notes == [f"w.csv is not UTF-8 and was read as {note}"]


def test_given_encoding_is_used(tmp_path: Path) -> None:
    path = write(tmp_path / "w.csv", f"{BASE}Юля,7,4,{TIME}\n", "cp1251")
    assert read(path, options=ReadOptions(encoding="cp1251"))[0].users[0].id == "Юля"


@pytest.mark.parametrize("marker", ["", "\\N", "NULL", "nan", "None", "NA", "<NA>"])
def test_markers_of_missing_values_are_no_values(tmp_path: Path, marker: str) -> None:
    lines = [
        f"{marker},1,4,{TIME}",
        f"a,{marker},4,{TIME}",
        f"a,1,{marker},{TIME}",
        f"a,1,4,{marker}",
    ]
    path = write(tmp_path / "mine.csv", BASE + "\n".join([*lines, f"a,1,4,{TIME}"]) + "\n")
    data, report = read(path)
    assert len(data) == 1
    assert set(report.rejections) == {
        "the user id is missing",
        "the item id is missing",
        "the rating is missing",
        "the timestamp is missing",
    }


@pytest.mark.parametrize("user_id", ["9007199254740994.0", "-9007199254740994.0", "9,00719925E+15"])
def test_ids_that_floats_or_spreadsheets_may_have_rounded_are_refused(
    tmp_path: Path, user_id: str
) -> None:
    text = f"user;item;rating;timestamp\n{user_id};7;4;{TIME}\n1;7;4;{TIME}\n"
    with pytest.raises(DataSetError, match=r"ids are rounded numbers.*mine\.csv:2"):
        read(write(tmp_path / "mine.csv", text))


def test_negative_whole_floats_are_integers(tmp_path: Path) -> None:
    data, _ = read(write(tmp_path / "mine.csv", f"{BASE}-5.0,7,4,{TIME}\n-5,8,4,{TIME}\n"))
    assert [user.id for user in data.users] == ["-5"]


def test_whole_floats_are_integers_and_rounded_ids_are_refused(tmp_path: Path) -> None:
    data, report = read(write(tmp_path / "mine.csv", f"{BASE}1.0,7,4,{TIME}\n1,8,4,{TIME}\n"))
    assert [row[:2] for row in rows(data)] == [("1", "7"), ("1", "8")]
    assert report.notes == ["ids such as 42.0 were read as whole numbers, 42"]
    path = write(tmp_path / "mine.csv", f"{BASE}1.0,7,4,{TIME}\n9.00719925474099E+15,7,4,{TIME}\n")
    with pytest.raises(DataSetError, match=r"ids are rounded numbers.*mine\.csv:3"):
        read(path)
    hexadecimal = write(tmp_path / "mine.csv", f"{BASE}507e19,7,4,{TIME}\n")
    assert read(hexadecimal)[0].users[0].id == "507e19"


@pytest.mark.parametrize(
    "kind",
    [
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16"),
        *("float32", "float64", "string", "large_string", "decimal", "dictionary", "binary"),
    ],
)
def test_parquet_ids_of_every_type(tmp_path: Path, kind: str) -> None:
    arrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    if kind == "decimal":
        ids = arrow.array([Decimal(7), Decimal(8), None], arrow.decimal128(20, 2))
    elif kind == "dictionary":
        ids = arrow.array(["7", "8", None]).dictionary_encode()
    elif kind == "binary":
        ids = arrow.array([b"7", b"8", None])
    elif "string" in kind:
        ids = arrow.array(["7", "8", None], kind)
    elif kind == "float16":
        numpy = importlib.import_module("numpy")
        ids = arrow.array([numpy.float16(7), numpy.float16(8), None], arrow.float16())
    else:
        ids = arrow.array([7, 8, None], kind)
    table = {"user_id": ids, "item_id": ["a", "b", "c"], "rating": [4.0, 5.0, 3.0]}
    table = arrow.table(table | {"timestamp": [TIME, TIME, TIME]})
    parquet.write_table(table, tmp_path / "mine.parquet")
    data, report = read(tmp_path / "mine.parquet")
    assert rows(data) == [("7", "a", 4.0, TIME), ("8", "b", 5.0, TIME)]
    assert list(report.rejections) == ["the user id is missing"]


@pytest.mark.parametrize(("kind", "limit"), [("float32", 2**24), ("float64", 2**53)])
def test_parquet_float_ids_that_are_rounded_are_refused(
    tmp_path: Path, kind: str, limit: int
) -> None:
    arrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    for value in (limit - 1, limit):
        table = arrow.table(
            {
                "user_id": arrow.array([float(value), 1.0], kind),
                "item_id": ["a", "b"],
                "rating": [4, 5],
                "timestamp": [TIME, TIME],
            }
        )
        parquet.write_table(table, tmp_path / "mine.parquet")
        if value < limit:
            assert rows(read(tmp_path / "mine.parquet")[0])[0][0] == str(value)
    with pytest.raises(
        DataSetError, match=r"rounds numbers.*nothing was stored|nothing was stored"
    ):
        read(tmp_path / "mine.parquet")


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_parquet_timestamps_of_every_unit(tmp_path: Path, unit: str) -> None:
    arrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    factor = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    for column in (
        arrow.array([TIME * factor], arrow.timestamp(unit)),
        arrow.array([TIME * factor], arrow.timestamp(unit, "Europe/Berlin")),
        arrow.array([TIME * factor], arrow.int64()),
    ):
        table = {"user_id": ["u"], "item_id": ["i"], "rating": [4], "timestamp": column}
        parquet.write_table(arrow.table(table), tmp_path / "mine.parquet")
        assert rows(read(tmp_path / "mine.parquet")[0]) == [("u", "i", 4.0, TIME)]


@pytest.mark.parametrize("title", ["x\u202ey", "a\u0007b"])
def test_row_with_a_refused_text_names_itself(tmp_path: Path, title: str) -> None:
    text = "user_id,item_id,rating,timestamp,title\n"
    text += f"a,1,4,{TIME},fine\nb,2,4,{TIME},{title}\nc,1,4,{TIME},fine\n"
    data, report = read(write(tmp_path / "mine.csv", text))
    assert [item.title for item in data.items] == ["fine"]
    assert [str(g.examples[0])[:11] for g in report.rejections.values()] == ["mine.csv:3:"]


@pytest.mark.parametrize("title", ["Café\u00a0Noir", "می\u200cخ", "👩\u200d💻 at work"])
def test_titles_with_joiners_and_no_break_spaces_are_kept(tmp_path: Path, title: str) -> None:
    text = "user_id,item_id,rating,timestamp,title\n"
    text += "".join(f"{user},1,4,{TIME},{title}\n" for user in "ab")
    assert read(write(tmp_path / "mine.csv", text))[0].items[0].title == title
