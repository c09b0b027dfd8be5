"""Tests of format detection and of the errors for unreadable data sets."""

from __future__ import annotations

import gzip
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.datasets.detect import (
    FORMATS,
    DataSetError,
    UnknownFormatError,
    detect_format,
    read,
)
from models.datasets.options import ReadOptions

if TYPE_CHECKING:
    from pathlib import Path

HEADER = b"user_id,item_id,rating,timestamp\n"


def test_missing_path_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match="does not exist"):
        read(tmp_path / "nothing")


def test_error_for_unknown_directory_lists_formats(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("hello")
    with pytest.raises(UnknownFormatError) as caught:
        read(tmp_path)
    assert all(name in str(caught.value) for name in FORMATS)


def test_error_for_unknown_directory_suggests_matching_subdirectory(tmp_path: Path) -> None:
    inner = tmp_path / "ml-1m"
    inner.mkdir()
    (inner / "ratings.dat").touch()
    (inner / "movies.dat").touch()
    with pytest.raises(UnknownFormatError, match=r"Did you mean .*ml-1m \(movielens-1m\)\?"):
        detect_format(tmp_path)


def test_unknown_format_name_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormatError, match="no format netflix"):
        read(tmp_path, "netflix")


def test_archive_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "ml-1m.zip").write_bytes(b"PK")
    with pytest.raises(DataSetError, match="Unpack"):
        read(tmp_path / "ml-1m.zip")


@pytest.mark.parametrize(
    ("name", "advice"), [("mine.csv.bz2", "Decompress"), ("mine.XLSX", "as CSV")]
)
def test_file_that_another_program_must_convert_says_so(
    tmp_path: Path, name: str, advice: str
) -> None:
    (tmp_path / name).write_bytes(b"BZh9")
    with pytest.raises(DataSetError, match=advice):
        read(tmp_path / name)


def test_missing_file_of_named_format_is_reported(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").touch()
    with pytest.raises(DataSetError, match=r"lacks movies\.dat"):
        read(tmp_path, "movielens-1m")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (HEADER, "holds no ratings"),
        (bytes(range(256)) * 40, "not a text file"),
        (b"\0" * 1000, "not a text file"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0", "not a text file"),
        (b"x" * 3_000_000, "no column"),
        (b"\xff\xfe\x41", "not valid UTF-16"),
        (b"\x1f\x8b\x08\0rubbish", "damaged gzip"),
        (gzip.compress(HEADER + b"a,b,4,1\n" * 900, mtime=0)[:-9], "damaged gzip"),
        (HEADER + b"a,b,4,\0\n" + b"y" * 100_000, "no usable rating"),
    ],
)
def test_invalid_file_is_rejected_with_reason(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(content)
    with pytest.raises(DataSetError, match=message):
        read(path)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.booleans(), st.sampled_from(sorted(FORMATS)))
def test_arbitrary_bytes_raise_only_data_set_errors(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, with_header: bool, name: str
) -> None:
    path = tmp_path_factory.mktemp("any") / "ratings.csv"
    path.write_bytes((HEADER if with_header else b"") + content)
    try:
        data, report = read(path, name)
    except DataSetError:
        return
    assert report.accepted == len(data) > 0
    assert report.lines == (
        report.accepted + report.described + report.duplicates + report.rejected
    )


def test_detect_imports_no_optional_dependency() -> None:
    code = "import sys, models.datasets.detect; print('pyarrow' in sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("movies.csv", "movieId,title,genres\n1,Heat,War\n"),
        ("movies.dat", "1::Heat (1995)::War\n"),
        ("u.item", "1|Heat (1995)|01-Jan-1995||http://x|0|1\n"),
        ("BX-Books.csv", '"ISBN";"Book-Title";"Book-Author"\n"1";"Odes";"Sappho"\n'),
        ("ml.item", "item_id:token\tmovie_title:token_seq\n1\tHeat\n"),
        ("meta_Books.jsonl", '{"parent_asin": "B1", "title": "Odes"}\n'),
    ],
)
def test_items_alone_are_no_data_set(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(DataSetError, match=r"no ratings\. Import the directory.*POST /items"):
        read(tmp_path / name)


@pytest.mark.parametrize("separator", [" ", "^", "~"])
def test_unsupported_separators_are_answered_with_the_supported(
    tmp_path: Path, separator: str
) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(separator.join(["user_id", "item_id", "rating", "timestamp"]) + "\n", "utf-8")
    supported = r"separated by a comma, a semicolon, a tab, \| or ::\."
    with pytest.raises(DataSetError, match=supported):
        read(path)
    path.write_text(separator.join(["alice@example.com", "7", "4", "978300760"]) + "\n", "utf-8")
    columns = ReadOptions.parse(columns="user,item,rating,timestamp")
    for options in (None, columns):
        with pytest.raises(DataSetError, match=supported) as error:
            read(path, options=options)
        assert "alice" not in str(error.value)
