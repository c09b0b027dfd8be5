"""Readers of lists take every form of CSV, NDJSON and JSON, in parts of any size."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.subject_lists import MAX_LINE_BYTES, MAX_ROWS, READERS
from app.domain.errors import InvalidInputError, ListTooLongError
from app.domain.forget_lists import InvalidRow

if TYPE_CHECKING:
    from app.api.subject_lists import Row

CSV, NDJSON, JSON = "text/csv", "application/x-ndjson", "application/json"


def read(content_type: str, content: bytes, size: int = 7) -> list[Row]:
    reader = READERS[content_type]()
    for start in range(0, len(content), size):
        reader.feed(content[start : start + size])
    return reader.close()


def is_invalid(row: Row, detail: str) -> bool:
    return isinstance(row, InvalidRow) and detail in row.detail


@pytest.mark.parametrize(
    "content",
    [
        b"user_id\na\nb\n",
        b"user_id\na\nb",
        b"user_id\r\na\r\nb\r\n",
        b"\xef\xbb\xbfuser_id\na\nb\n",
        b'\xef\xbb\xbf"user_id"\r\n"a"\r\n"b"\r\n',
        b"USER_ID\na\n\n\r\n  \nb\n\n",
        b"\n user_id \na\nb\n",
    ],
)
@pytest.mark.parametrize("size", [1, 4, 1000])
def test_forms_of_csv(content: bytes, size: int) -> None:
    assert read(CSV, content, size) == ["a", "b"]


def test_quotes_of_csv() -> None:
    assert read(CSV, b'user_id\n"a,b"\n"say ""x"""\nplain\n') == ["a,b", 'say "x"', "plain"]


def test_bad_line_of_csv_affects_no_other_line() -> None:
    long_line = b"x" * (MAX_LINE_BYTES + 1)
    content = b'user_id\n"open\nb\nc,d\n"q"r\n\xff\n' + long_line + b"\nlast\n"
    open_quote, second, two, quoted, encoding, too_long, last = read(CSV, content, 5000)
    assert (second, last) == ("b", "last")
    for row in (open_quote, two, quoted):
        assert is_invalid(row, "one field")
    assert is_invalid(encoding, "UTF-8")
    assert is_invalid(too_long, "bytes")


@pytest.mark.parametrize(
    "content",
    [b"", b"\n\n", b"a\nb\n", b"user_id,name\na,b\n", b"\xff\xfeu\x00", b"id\n1\n", b'"user_id\na'],
)
def test_csv_without_its_header_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidInputError, match="user_id"):
        read(CSV, content)


def test_csv_with_a_header_only_has_no_rows() -> None:
    assert read(CSV, b"user_id\r\n") == []


def test_lines_of_ndjson() -> None:
    lines = [
        b'\xef\xbb\xbf{"user_id": "a"}\r',
        b"",
        b'{"user_id": 42}',
        b'{"user_id": true}',
        b'{"user_id": 1.5}',
        b'{"user_id": "b", "name": "n"}',
        b'"c"',
        b'{"user_id": ',
        b"[" * 3000,
        b'{"user_id": "d", "user_id": "e"}',
        b"\xff",
        b'{"user_id": "\\u00e9"}',
    ]
    first, number, boolean, fraction, more, text, broken, deep, repeated, encoding, last = read(
        NDJSON, b"\n".join(lines)
    )
    assert (first, number, last) == ("a", "42", "é")
    for row in (boolean, fraction):
        assert is_invalid(row, "string or an integer")
    for row in (more, text, broken, deep, repeated):
        assert is_invalid(row, "field user_id only")
    assert is_invalid(encoding, "UTF-8")


def test_ids_of_json() -> None:
    first, number, nothing, last = read(JSON, b'{"user_ids": ["a", 42, null, "\\ud800"]}')
    assert (first, number, last) == ("a", "42", "\ud800")
    assert is_invalid(nothing, "string or an integer")


def test_long_integer_is_the_text_of_an_id_and_affects_no_other_row() -> None:
    digits = "1" * 5000  # `int` refuses more than 4300 digits.
    assert read(JSON, f'{{"user_ids": ["a", {digits}]}}'.encode()) == ["a", digits]
    assert read(NDJSON, f'{{"user_id": {digits}}}'.encode()) == [digits]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"user_ids": "a"}',
        b'{"user_ids": ["a"], "reference": "T"}',
        b'{"user_ids": ["\xff"]}',
        b"[" * 200_000,
        b'{"user_ids": ["a"], "user_ids": ["b"]}',
    ],
)
def test_malformed_json_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidInputError):
        read(JSON, content, 100_000)


def test_row_above_the_limit_ends_the_reading() -> None:
    contents = {
        CSV: b"user_id\n" + b"a\n" * MAX_ROWS,
        NDJSON: b'{"user_id":"a"}\n' * MAX_ROWS,
        JSON: json.dumps({"user_ids": ["a"] * MAX_ROWS}).encode(),
    }
    for content_type, content in contents.items():
        assert len(read(content_type, content, 65_536)) == MAX_ROWS
        longer = content.replace(b'["a"', b'["a", "a"')
        longer += b"" if content_type == JSON else b'"a"\n'
        with pytest.raises(ListTooLongError, match="100000"):
            read(content_type, longer, 65_536)


@given(
    ids=st.lists(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1), max_size=5),
    size=st.integers(1, 9),
)
def test_every_format_gives_the_same_ids(ids: list[str], size: int) -> None:
    quoted = "".join('"{}"\n'.format(i.replace('"', '""')) for i in ids)
    lines = "".join(json.dumps({"user_id": i}, ensure_ascii=False) + "\n" for i in ids)
    assert read(CSV, f"user_id\n{quoted}".encode(), size) == ids
    assert read(NDJSON, lines.encode(), size) == ids
    assert read(JSON, json.dumps({"user_ids": ids}).encode(), size) == ids
