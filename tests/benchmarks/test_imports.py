"""`python -m benchmarks.imports`: the written files, the table, and a failed import."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.imports.__main__ import Source, main, measure, synthetic
from benchmarks.imports.formats import FORMATS, Format
from models.datasets.detect import read
from models.datasets.options import ReadOptions

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.name)
def test_every_format_holds_the_same_ratings(one: Format, tmp_path: Path) -> None:
    table = synthetic(500)
    one.write(table, tmp_path / one.file)
    columns = () if one.has_header else tuple(table.column_names)
    data, _ = read(tmp_path / one.file, options=ReadOptions(columns=columns))
    stored = zip(
        (data.users[user].id for user in data.user),
        (data.items[item].id for item in data.item),
        data.rating.tolist(),
        data.timestamp.tolist(),
        strict=True,
    )
    expected = zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
    assert sorted(stored) == sorted((str(u), str(i), r, t) for u, i, r, t in expected)


@pytest.mark.slow
def test_the_command_writes_a_line_per_format(tmp_path: Path) -> None:
    main(["--rows", "300", "--format", "Parquet", "--out", str(tmp_path)])
    (line,) = (tmp_path / "table.md").read_text().splitlines()[2:]
    source, name, _, rows, seconds, *_ = line.strip("| ").split(" | ")
    assert (source, name, rows) == ("synthetic", "Parquet", "300")
    assert float(seconds) > 0


@pytest.mark.slow
def test_a_failed_import_ends_the_benchmark(tmp_path: Path) -> None:
    source = Source(name="synthetic", table=synthetic(300), options=("--scale", "nonsense"))
    with pytest.raises(RuntimeError, match="synthetic as CSV: the import ended with status 2"):
        measure(source, FORMATS[0], tmp_path)
