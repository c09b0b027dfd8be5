"""Parquet files whose columns are easily misread are refused."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pytest

from models.datasets import compressed_files
from models.datasets import parquet as parquet_format
from models.datasets.detect import DataSetError, read

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from models.data.interactions import Interactions

TIME = 978_300_760


def write(path: Path, size: int = 2, **columns: Iterable[object]) -> Path:
    """Write a table with these columns in place of plain ones."""
    arrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    table: dict[str, Any] = {"user_id": [f"u{n}" for n in range(size)], "item_id": ["i"] * size}
    table |= {"rating": [4] * size, "timestamp": [TIME] * size} | columns
    parquet.write_table(arrow.table(table), path, compression="zstd")
    return path


def ids(data: Interactions) -> list[tuple[str, str]]:
    return [
        (data.users[user].id, data.items[item].id)
        for user, item in zip(data.user, data.item, strict=True)
    ]


def test_nan_does_not_hide_rounded_ids(tmp_path: Path) -> None:
    arrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    ids = arrow.array([float(2**53), float("nan")], "float64", from_pandas=False)
    table = {"user_id": ids, "item_id": ["a", "b"], "rating": [4, 5], "timestamp": [TIME] * 2}
    parquet.write_table(arrow.table(table), tmp_path / "mine.parquet")
    with pytest.raises(DataSetError, match="rounds numbers"):
        read(tmp_path / "mine.parquet")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    arrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    columns = [arrow.array(c) for c in (["u"], ["i"], [4], [TIME], [5])]
    names = ["user_id", "item_id", "rating", "timestamp", "rating"]
    table = arrow.Table.from_arrays(columns, names=names)
    parquet.write_table(table, tmp_path / "mine.parquet")
    with pytest.raises(DataSetError, match="several columns with the name rating"):
        read(tmp_path / "mine.parquet")


def test_two_columns_of_one_name_in_a_csv_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(f"user_id,item_id,rating,timestamp,rating\na,b,4,{TIME},1\n", "utf-8")
    with pytest.raises(DataSetError, match="several columns with the name rating"):
        read(path)


@pytest.mark.parametrize("kind", ["stated", "dictionary", "list", "rows"])
def test_content_out_of_proportion_is_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The footer states the size of a dictionary, but not how long the rows with its texts are."""
    arrow = importlib.import_module("pyarrow")
    path, size = tmp_path / "mine.parquet", 1_000
    text = "x" * 200
    if kind == "stated":
        write(path, size, title=[f"{n}{text * 2}" for n in range(size)])
    elif kind == "dictionary":
        write(path, size, title=arrow.array([text * 2] * size).dictionary_encode())
    elif kind == "list":
        write(path, size, genres=[[text] * 5] * size)
    else:
        size = 1 << 17
        write(path, size, user_id=["u"] * size)
    read(path)
    monkeypatch.setattr(compressed_files, "MAX_UNCHECKED_CONTENT", 1 << 18)
    monkeypatch.setattr(compressed_files, "MAX_EXPANSION", 5)
    with pytest.raises(DataSetError, match=r"times its size\. Save the table as CSV"):
        read(path)


def test_columns_that_are_not_read_may_have_any_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressed_files, "MAX_UNCHECKED_CONTENT", 1 << 20)
    path = write(tmp_path / "mine.parquet", 1_000, review=["x" * 4_000] * 1_000)
    assert len(read(path)[0]) == 1_000


@pytest.mark.parametrize("meaning", ["user", "item"])
def test_ids_that_are_no_single_values_are_refused(tmp_path: Path, meaning: str) -> None:
    for values in ([{"id": "a"}, {"id": "b"}], [["a"], ["b", "c"]], [True, False]):
        columns: dict[str, Any] = {f"{meaning}_id": values}
        path = write(tmp_path / "mine.parquet", **columns)
        with pytest.raises(DataSetError, match=f"column of {meaning} ids is of type.*--map"):
            read(path)


def test_structures_are_no_titles_and_no_genres(tmp_path: Path) -> None:
    path = write(
        tmp_path / "mine.parquet", title=[{"en": "Odes"}] * 2, genres=[[{"name": "Poetry"}]] * 2
    )
    (item,) = read(path)[0].items
    assert (item.title, item.attributes) == ("i", {})


def test_lists_of_genres_may_be_missing_or_have_gaps(tmp_path: Path) -> None:
    genres = [["Drama", None, "War"], ["Drama", "War"], None, []]
    path = write(tmp_path / "mine.parquet", 4, item_id=["a", "a", "b", "b"], genres=genres)
    assert [item.attributes for item in read(path)[0].items] == [{"genre": ("Drama", "War")}, {}]


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed"])
def test_genres_may_be_lists_of_every_type(tmp_path: Path, kind: str) -> None:
    arrow = importlib.import_module("pyarrow")
    kinds = {"list": arrow.list_(arrow.int64()), "large_list": arrow.large_list(arrow.int64())}
    kinds["fixed"] = arrow.list_(arrow.int64(), 2)
    genres = arrow.array([[7, 8], [7, 8], None], kinds[kind])
    path = write(tmp_path / "mine.parquet", 3, item_id=["a", "a", "b"], genres=genres)
    assert [item.attributes for item in read(path)[0].items] == [{"genre": ("7", "8")}, {}]


@pytest.mark.parametrize("kind", ["binary", "fixed", "binary_view", "large_binary"])
def test_binary_ids_are_text_or_refused(tmp_path: Path, kind: str) -> None:
    arrow = importlib.import_module("pyarrow")
    kinds = {"fixed": arrow.binary(2), "binary_view": arrow.binary_view()}
    kinds |= {"binary": arrow.binary(), "large_binary": arrow.large_binary()}
    users = arrow.array([b"u1", b"u2"], kinds[kind])
    path = write(tmp_path / "mine.parquet", user_id=users)
    assert ids(read(path)[0]) == [("u1", "i"), ("u2", "i")]
    write(path, user_id=arrow.array([b"u1", b"\xff\xfe"], kinds[kind]))
    with pytest.raises(DataSetError, match=r"not UTF-8\. Export these columns as text"):
        read(path)


def test_page_with_another_checksum_is_refused(tmp_path: Path) -> None:
    parquet = importlib.import_module("pyarrow.parquet")
    path = write(tmp_path / "mine.parquet", item_id=["Heat", "Odes"])
    parquet.write_table(
        parquet.read_table(path),
        path,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    assert ids(read(path)[0]) == [("u0", "Heat"), ("u1", "Odes")]
    path.write_bytes(path.read_bytes().replace(b"Odes", b"Ides"))
    with pytest.raises(DataSetError, match=r"not a readable Parquet file.*new copy"):
        read(path)


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_smallest_number_is_no_time(tmp_path: Path, unit: str) -> None:
    """Programs write the number for a missing time. In other units it overflows to 0."""
    arrow = importlib.import_module("pyarrow")
    per_second = {"ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    times = arrow.array([-(2**63), TIME * per_second], arrow.timestamp(unit, "+02:00"))
    data, _ = read(write(tmp_path / "mine.parquet", timestamp=times))
    assert list(data.timestamp) == [TIME]


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
@pytest.mark.parametrize("kind", ["string", "large_string", "binary"])
def test_texts_that_pyarrow_does_not_keep_in_dictionaries_are_read(
    tmp_path: Path, encoding: str, kind: str
) -> None:
    """Spark and Trino write these encodings with version 2 of the format."""
    arrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    items = arrow.array(["Heat", "Odes"]).cast(getattr(arrow, kind)())
    path = write(tmp_path / "mine.parquet", item_id=items, genres=[["War"], ["Drama"]])
    encodings = {"item_id": encoding, "genres.list.element": encoding}
    table = parquet.read_table(path)
    parquet.write_table(table, path, use_dictionary=False, column_encoding=encodings)
    assert ids(read(path)[0]) == [("u0", "Heat"), ("u1", "Odes")]


def test_few_rows_are_read_at_once_where_texts_repeat_prefixes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that repeats the text before it takes a byte, so a batch could fill the memory."""
    parquet = importlib.import_module("pyarrow.parquet")
    path = write(tmp_path / "mine.parquet", 100, title=["x" * 400] * 100)
    columns = {"title": "DELTA_BYTE_ARRAY"}
    table = parquet.read_table(path)
    parquet.write_table(table, path, use_dictionary=False, column_encoding=columns)
    monkeypatch.setattr(parquet_format, "MAX_UNCHECKED_CONTENT", 1 << 11)
    rows: list[int] = []
    read(path, progress=lambda done, _: rows.append(done))
    assert rows[0] < 5
    assert rows[-1] == 100
