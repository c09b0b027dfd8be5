"""Write one table of ratings in each format that `lethe import` reads."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.csv as pa_csv  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: Rows that are converted at a time.
_CHUNK: Final = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format: the file's name, the function that writes it, and the options of its import."""

    name: str
    file: str
    write: Callable[[pa.Table, Path], None]
    has_header: bool = True

    def options(self, table: pa.Table) -> list[str]:
        """Return the options that `lethe import` needs for this format."""
        return [] if self.has_header else ["--columns", ",".join(table.column_names)]


def _rows(table: pa.Table) -> Iterator[dict[str, object]]:
    for batch in table.to_batches(max_chunksize=_CHUNK):
        yield from batch.to_pylist()


def _csv(table: pa.Table, path: Path) -> None:
    pa_csv.write_csv(table, path, pa_csv.WriteOptions(quoting_style="needed"))


def _separated(
    separator: str, header: Callable[[pa.Table], str]
) -> Callable[[pa.Table, Path], None]:
    def write(table: pa.Table, path: Path) -> None:
        with path.open("w", encoding="utf-8") as file:
            file.write(header(table))
            file.writelines(separator.join(map(str, row.values())) + "\n" for row in _rows(table))

    return write


def _typed_header(table: pa.Table) -> str:
    """Return the header of RecBole: the names of its fields with their types."""
    names = {
        "user": "user_id:token",
        "item": "item_id:token",
        "rating": "rating:float",
        "timestamp": "timestamp:float",
    }
    return "\t".join(names[name] for name in table.column_names) + "\n"


def _json_lines(table: pa.Table, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in _rows(table))


def _compressed(
    write: Callable[[pa.Table, Path], None], codec: str
) -> Callable[[pa.Table, Path], None]:
    def write_compressed(table: pa.Table, path: Path) -> None:
        plain = path.with_suffix("")
        write(table, plain)
        with plain.open("rb") as source, pa.CompressedOutputStream(str(path), codec) as target:
            shutil.copyfileobj(source, target)
        plain.unlink()

    return write_compressed


FORMATS: Final = (
    Format(name="CSV", file="ratings.csv", write=_csv),
    Format(name="CSV, gzip", file="ratings.csv.gz", write=_compressed(_csv, "gzip")),
    Format(name="CSV, zstd", file="ratings.csv.zst", write=_compressed(_csv, "zstd")),
    Format(
        name="`::`, no header",
        file="ratings.dat",
        write=_separated("::", lambda _table: ""),
        has_header=False,
    ),
    Format(name="RecBole `.inter`", file="ratings.inter", write=_separated("\t", _typed_header)),
    Format(name="JSON lines", file="ratings.jsonl", write=_json_lines),
    Format(
        name="JSON lines, gzip", file="ratings.jsonl.gz", write=_compressed(_json_lines, "gzip")
    ),
    Format(name="Parquet", file="ratings.parquet", write=pq.write_table),
)
