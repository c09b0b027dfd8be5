"""Any table written in any format reads back to the same ratings; random bytes only give errors."""

from __future__ import annotations

import csv
import gzip
import importlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain.id_rules import MalformedTextError, normal_id
from models.datasets.detect import DataSetError, read
from models.datasets.errors import RejectedLineError
from models.datasets.values import is_missing, is_rounded_id, is_whole_float, parse_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Row = tuple[str, str, float, int]
NAMES = ("user_id", "item_id", "rating", "timestamp")


def is_plain(text: str) -> bool:
    """Whether an id reads back unchanged: it is normal, and neither a marker nor a float."""
    try:
        normal = normal_id(text)
    except MalformedTextError:
        return False
    return normal == text and not (is_missing(text) or is_whole_float(text) or is_rounded_id(text))


IDS = st.text(max_size=12).filter(is_plain)
ROWS = st.lists(
    st.tuples(
        IDS, IDS, st.sampled_from([n / 2 for n in range(1, 11)]), st.integers(10**9, 2 * 10**9)
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda row: row[:2],
)


def as_csv(path: Path, rows: list[Row], delimiter: str = ",", encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as stream:
        writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
        writer.writerows([NAMES, *rows])
    return path


def as_gzip(path: Path, rows: list[Row]) -> Path:
    packed = path.with_suffix(".csv.gz")
    packed.write_bytes(gzip.compress(as_csv(path, rows).read_bytes()))
    return packed


def as_zstd(path: Path, rows: list[Row]) -> Path:
    packed = path.with_suffix(".csv.zst")
    arrow = importlib.import_module("pyarrow")
    with arrow.CompressedOutputStream(str(packed), "zstd") as stream:
        stream.write(as_csv(path, rows).read_bytes())
    return packed


def as_json(path: Path, rows: list[Row]) -> Path:
    lines = [json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in rows]
    path = path.with_suffix(".jsonl")
    path.write_text("".join(lines))
    return path


def as_parquet(path: Path, rows: list[Row]) -> Path:
    arrow = importlib.import_module("pyarrow")
    columns = dict(zip(NAMES, map(list, zip(*rows, strict=True)), strict=True))
    path = path.with_suffix(".parquet")
    importlib.import_module("pyarrow.parquet").write_table(arrow.table(columns), path)
    return path


WRITERS: dict[str, Callable[[Path, list[Row]], Path]] = {
    "csv": as_csv,
    "semicolons": lambda path, rows: as_csv(path, rows, ";"),
    "tabs": lambda path, rows: as_csv(path, rows, "\t"),
    "utf-16": lambda path, rows: as_csv(path, rows, encoding="utf-16"),
    "gzip": as_gzip,
    "zstd": as_zstd,
    "json": as_json,
    "parquet": as_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=ROWS)
def test_table_reads_back_in_every_format(
    tmp_path_factory: pytest.TempPathFactory, name: str, rows: list[Row]
) -> None:
    path = WRITERS[name](tmp_path_factory.mktemp("any") / "mine.csv", rows)
    data, report = read(path)
    columns = zip(data.user, data.item, data.rating, data.timestamp, strict=True)
    found = [(data.users[u].id, data.items[i].id, float(r), int(t)) for u, i, r, t in columns]
    assert sorted(found) == sorted(rows)
    assert report.rejected == 0


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.text(max_size=12), st.characters()))
def test_reader_and_service_have_one_rule_for_ids(text: str) -> None:
    def outcome(function: Callable[[], str]) -> str | None:
        try:
            return function()
        except (MalformedTextError, RejectedLineError):
            return None

    if is_missing(text.strip()) or is_whole_float(text):
        return  # The documented exceptions of imports.
    assert outcome(lambda: parse_id(text, "user")) == outcome(lambda: normal_id(text))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["csv", "csv.zst", "jsonl", "parquet", "inter"]))
def test_random_bytes_give_only_data_set_errors(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    heads: dict[str, Any] = {
        "csv": b"user_id,item_id,rating,timestamp\n",
        "csv.zst": b"\x28\xb5\x2f\xfd",
        "parquet": b"PAR1",
    }
    path = tmp_path_factory.mktemp("any") / f"mine.{suffix}"
    path.write_bytes(heads.get(suffix, b"") + content)
    try:
        read(path)
    except DataSetError as error:
        assert str(error)  # noqa: PT017 -- every error has a message
