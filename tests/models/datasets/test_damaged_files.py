"""Files that are empty, damaged, in several parts or of another form are read or refused whole."""

from __future__ import annotations

import gzip
import importlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from models.datasets.detect import DataSetError, read

if TYPE_CHECKING:
    from pathlib import Path

TIME = 978_300_760
HEADER = "user_id,item_id,rating,timestamp\n"
RECBOLE = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def entry(**fields: object) -> str:
    """Return a line of JSON with these fields in place of plain ones."""
    plain = {"user_id": "u", "item_id": "i", "rating": 4, "timestamp": TIME}
    return json.dumps(plain | fields) + "\n"


def users(path: Path) -> list[str]:
    return [user.id for user in read(path)[0].users]


@pytest.mark.parametrize("text", ["", "\n \n", "\ufeff"])
def test_file_without_a_line_is_empty(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text, "utf-8")
    with pytest.raises(DataSetError, match=r"mine\.csv is empty\. Get a new copy"):
        read(path)


@pytest.mark.parametrize("name", ["mine.csv", "mine.csv.gz"])
def test_file_of_a_header_only_has_no_ratings(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(HEADER.encode()) if "gz" in name else HEADER.encode())
    with pytest.raises(DataSetError, match="holds no ratings"):
        read(path)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_damaged_compressed_file_is_refused_without_a_quotation(
    tmp_path: Path, compression: str
) -> None:
    text = (HEADER + "".join(f"u{n},i,4,{TIME + n}\n" for n in range(5_000))).encode()
    arrow = importlib.import_module("pyarrow")
    content = arrow.compress(text, compression, asbytes=True)
    path = tmp_path / f"mine.csv.{compression[:2]}"
    path = path.with_suffix(".gz" if compression == "gzip" else ".zst")
    for damaged in (content[: len(content) // 2], content[:-3], content + b"Alice"):
        path.write_bytes(damaged)
        with pytest.raises(DataSetError, match=f"damaged {compression} file.*new copy") as caught:
            read(path)
        assert "Al" not in str(caught.value)


@pytest.mark.parametrize(
    "number", ["1.5e15", "1.5E+15", "12e5", "-3e4", "1e400", "1e99999999999999"]
)
def test_json_ids_with_an_exponent_are_refused(tmp_path: Path, number: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(entry(user_id="NUMBER").replace('"NUMBER"', number), "utf-8")
    with pytest.raises(DataSetError, match=r"ids are rounded numbers.*mine\.jsonl:1"):
        read(path)


def test_zstd_file_may_begin_with_a_frame_without_content(tmp_path: Path) -> None:
    arrow = importlib.import_module("pyarrow")
    content = arrow.compress(f"{HEADER}u,i,4,{TIME}\n".encode(), "zstd", asbytes=True)
    path = tmp_path / "mine.csv.zst"
    path.write_bytes(b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + content)
    assert users(path) == ["u"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_line_that_names_the_delimiter_is_no_header(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "mine.csv"
    text = f"{HEADER}u,i,4,{TIME}\n".replace(",", delimiter)
    path.write_text(f"sep={delimiter}\n{text}", "utf-8")
    assert users(path) == ["u"]
    path.write_text(f"sep={delimiter}\n", "utf-8")
    with pytest.raises(DataSetError, match="is empty"):
        read(path)


def test_json_times_with_an_exponent_follow_the_rule_of_csv(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(entry(timestamp=0).replace("0}", "9.78300760e8}"), "utf-8")
    assert list(read(path)[0].timestamp) == [TIME]
    path.write_text(entry(timestamp=0).replace("0}", "9.783e8}"), "utf-8")
    with pytest.raises(DataSetError, match=r"timestamps are rounded.*--time-unit seconds"):
        read(path)


def test_json_numbers_may_be_texts_or_have_fractions(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    lines = [
        entry(rating="4.5", timestamp=str(TIME)),
        entry(user_id=42.0, rating=4.50, timestamp=TIME + 0.5),
        entry(user_id="43", rating=4).replace("4,", "45e-1,"),
    ]
    path.write_text("".join(lines), "utf-8")
    data, _ = read(path)
    assert [user.id for user in data.users] == ["u", "42", "43"]
    assert list(data.rating) == [4.5] * 3
    assert list(data.timestamp) == [TIME] * 3


@pytest.mark.parametrize("meaning", ["user", "item"])
def test_json_list_is_no_id(tmp_path: Path, meaning: str) -> None:
    path = tmp_path / "mine.jsonl"
    fields: dict[str, Any] = {f"{meaning}_id": ["a", "b"]}
    path.write_text(entry() + entry(**fields), "utf-8")
    data, report = read(path)
    assert len(data) == 1
    assert list(report.rejections) == [f"the {meaning} id is a list"]


def test_json_array_is_refused_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    for indent in (None, 1):
        path.write_text(json.dumps([json.loads(entry())], indent=indent), "utf-8")
        with pytest.raises(DataSetError, match=r"is a JSON array\. .*jq"):
            read(path)


def test_catalog_of_python_dictionaries_is_read(tmp_path: Path) -> None:
    path = tmp_path / "reviews_Books.json"
    path.write_text(entry(asin="B1").replace('"item_id": "i", ', ""), "utf-8")
    line = "{'asin': 'B1', 'title': \"Alice's Book\", 'related': {'also_viewed': ['B2']}}\n"
    (tmp_path / "meta_Books.json").write_text(line + "{'asin': open}\n{'\n", "utf-8")
    data, report = read(path)
    assert data.items[0].title == "Alice's Book"
    assert [group.count for _, group in report.rejected_by_reason()] == [2]


@pytest.mark.parametrize("content", [b"", b"\n", b"<html>\n<p>not found</p>\n", b"[]\n"])
def test_one_damaged_file_of_several_refuses_all(tmp_path: Path, content: bytes) -> None:
    good = entry(book_id="b").replace('"item_id": "i", ', "")
    (tmp_path / "goodreads_interactions_a.json").write_text(good, "utf-8")
    (tmp_path / "goodreads_interactions_b.json").write_bytes(content)
    with pytest.raises(DataSetError, match=r"goodreads_interactions_b\.json"):
        read(tmp_path)


def test_file_of_books_without_ratings_is_no_damaged_file(tmp_path: Path) -> None:
    for name, rating in (("a", 4), ("b", 0)):
        line = entry(book_id="b", rating=rating).replace('"item_id": "i", ', "")
        (tmp_path / f"goodreads_interactions_{name}.json").write_text(line, "utf-8")
    data, report = read(tmp_path)
    assert len(data) == 1
    assert list(report.rejections) == ["the book has no rating (0 stars)"]


def test_all_parts_of_a_recbole_data_set_are_read(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        (tmp_path / f"x.{part}.inter").write_text(f"{RECBOLE}{part}\t1\t4\t{TIME}\n", "utf-8")
    assert sorted(users(tmp_path)) == ["test", "train", "valid"]
    assert read(tmp_path)[1].notes == ["read: x.test.inter, x.train.inter, x.valid.inter"]
    assert users(tmp_path / "x.train.inter") == ["train"]


def test_recbole_genres_of_ml_100k_are_classes(tmp_path: Path) -> None:
    (tmp_path / "ml.inter").write_text(f"{RECBOLE}u\t1\t4\t{TIME}\n", "utf-8")
    catalog = "item_id:token\tmovie_title:token_seq\tclass:token_seq\n1\tHeat\tAction Crime\n"
    (tmp_path / "ml.item").write_text(catalog, "utf-8")
    (item,) = read(tmp_path)[0].items
    assert (item.title, item.attributes) == ("Heat", {"genre": ("Action", "Crime")})


def test_recbole_data_sets_of_one_directory_are_not_mixed(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / f"{name}.inter").write_text(f"{RECBOLE}{name}\t1\t4\t{TIME}\n", "utf-8")
        catalog = f"item_id:token\tmovie_title:token_seq\n1\tFilm of {name}\n"
        (tmp_path / f"{name}.item").write_text(catalog, "utf-8")
    with pytest.raises(DataSetError, match=r"several data sets: x, y\. Give the path of one file"):
        read(tmp_path)
    data, _ = read(tmp_path / "y.inter")
    assert (data.users[0].id, data.items[0].title) == ("y", "Film of y")


@pytest.mark.parametrize("line", ["{'a': 1, []: 2}", "{'a': {[]}}", "{'user_id': 'u', 2: 3}"])
def test_dictionary_of_python_that_is_no_json_object_is_rejected(tmp_path: Path, line: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(f"{entry()}{line}\n", "utf-8")
    data, report = read(path)
    assert (len(data), report.rejected) == (1, 1)


def test_hidden_files_beside_a_recbole_data_set_are_left_out(tmp_path: Path) -> None:
    """Archives from macOS have a binary file with the prefix `._` beside each file."""
    (tmp_path / "ml.inter").write_text(f"{RECBOLE}a\tx\t4\t{TIME}\n", "utf-8")
    (tmp_path / "._ml.inter").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")
    assert users(tmp_path) == ["a"]


def test_every_suffix_of_zstd_is_found_in_directories(tmp_path: Path) -> None:
    arrow = importlib.import_module("pyarrow")
    items = "item_id:token\tmovie_title:token_seq\nx\tHeat\n"
    ratings = f"{RECBOLE}a\tx\t4\t{TIME}\n"
    for name, text in (("ml.inter.zstd", ratings), ("ml.item.zstd", items)):
        with arrow.CompressedOutputStream(str(tmp_path / name), "zstd") as file:
            file.write(text.encode())
    assert [item.title for item in read(tmp_path)[0].items] == ["Heat"]
