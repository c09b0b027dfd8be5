"""Measure `lethe import`: `python -m benchmarks.imports --movielens DIR --books DIR --out DIR`.

Each table is written in each format and imported by the real command into a new SQLite database.
The command's peak memory includes its import process. The stored ratings of all formats of a table
are compared, so that a figure never belongs to an import that lost or changed a rating.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.csv as pa_csv  # type: ignore[import-untyped]

from benchmarks.imports.formats import FORMATS

if TYPE_CHECKING:
    from benchmarks.imports.formats import Format

_USERS: Final = 20_000
#: Runs a command, and writes what the command and its processes used. A process of its own, because
#: Linux counts the memory of the process that starts another as the other's.
_MEASURE: Final = """
import json, os, subprocess, sys, time
started = time.monotonic()
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
with open(sys.argv[1], "w") as file:
    json.dump(
        {
            "seconds": time.monotonic() - started,
            "processor_seconds": usage.ru_utime + usage.ru_stime,
            "peak_kib": usage.ru_maxrss,
        },
        file,
    )
sys.exit(os.waitstatus_to_exitcode(status))
"""
_ITEMS: Final = 10_007  # A prime, so that a user's items differ.


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A table of ratings and the options of its import."""

    name: str
    table: pa.Table
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One import: seconds of wall clock and of processors, and the largest memory of a process."""

    source: str
    format: str
    rows: int
    file_mb: float
    seconds: float
    processor_seconds: float
    peak_mb: float
    database_mb: float


def synthetic(rows: int, seed: int = 0) -> pa.Table:
    """Return ratings of `_USERS` users, sorted by user, without two of one user and item."""
    generator = np.random.default_rng(seed)
    number = np.arange(rows)
    per_user = -(-rows // _USERS)
    user, turn = number // per_user, number % per_user
    return pa.table(
        {
            "user": pa.array(user + 1),
            "item": pa.array((user * 7919 + turn * 31) % _ITEMS + 1),
            "rating": pa.array(generator.integers(1, 11, rows) / 2),
            "timestamp": pa.array(generator.integers(1_000_000_000, 1_700_000_000, rows)),
        }
    )


def read_ratings(path: Path) -> pa.Table:
    """Return the ratings of a data set whose first columns are user, item, rating and time."""
    table = pa_csv.read_csv(path / "ratings.csv")
    return table.rename_columns(["user", "item", "rating", "timestamp"][: table.num_columns])


def _contents(database: Path) -> tuple[int, str]:
    """Return the number of stored ratings and a summary that depends on each of them."""
    query = (
        "SELECT count(*), sum(rating), sum(timestamp), "
        "sum(rating * user_id + 3 * rating * item_id + timestamp % 1009 * user_id) "
        "FROM interactions"
    )
    connection = sqlite3.connect(database)
    try:
        count, *sums = connection.execute(query).fetchone()
    finally:
        connection.close()
    return count, repr(sums)


def measure(source: Source, one: Format, folder: Path) -> tuple[Measurement, str]:
    """Import the table in one format. Raises RuntimeError if the command fails."""
    file = folder / one.file
    one.write(source.table, file)
    home = folder / "home"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LETHE_")}
    arguments = [str(file), *source.options, *one.options(source.table), "--json"]
    command = [sys.executable, "-m", "app.cli", "import", *arguments]
    usage_file = folder / "usage.json"
    completed = subprocess.run(  # noqa: S603 -- our own command
        [sys.executable, "-S", "-c", _MEASURE, str(usage_file), *command],
        env=environment | {"LETHE_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if completed.returncode:
        raise RuntimeError(
            f"{source.name} as {one.name}: the import ended with status {completed.returncode}"
        )
    usage = json.loads(usage_file.read_text())
    rows, summary = _contents(home / "lethe.db")
    return Measurement(
        source=source.name,
        format=one.name,
        rows=rows,
        file_mb=round(file.stat().st_size / 1e6, 1),
        seconds=round(usage["seconds"], 1),
        processor_seconds=round(usage["processor_seconds"], 1),
        peak_mb=round(usage["peak_kib"] * 1024 / 1e6),
        database_mb=round((home / "lethe.db").stat().st_size / 1e6),
    ), summary


def report(measurements: list[Measurement]) -> str:
    """Return the measurements as a table in Markdown."""
    lines = [
        "| data | format | file, MB | ratings | seconds | processor seconds | peak memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {m.source} | {m.format} | {m.file_mb} | {m.rows:,} | {m.seconds} | "
        f"{m.processor_seconds} | {m.peak_mb} |"
        for m in measurements
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Measure all tables in all formats, and write `results.json` and `table.md`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imports", description=__doc__)
    parser.add_argument("--movielens", type=Path, help="directory of a MovieLens data set")
    parser.add_argument("--books", type=Path, help="directory with ratings of 1 to 10, no times")
    parser.add_argument("--rows", type=int, default=2_000_000, help="synthetic ratings; 0: none")
    names = [one.name for one in FORMATS]
    parser.add_argument("--format", choices=names, action="append", help="default: all formats")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    sources = []
    if options.movielens:
        sources.append(Source(name=options.movielens.name, table=read_ratings(options.movielens)))
    if options.books:
        books = ("--scale", "1:10", "--no-timestamps", "random")
        table = read_ratings(options.books)
        sources.append(Source(name=options.books.name, table=table, options=books))
    if options.rows:
        sources.append(Source(name="synthetic", table=synthetic(options.rows)))
    measurements, contents = [], dict[str, str]()
    for source in sources:
        for one in FORMATS:
            if one.name not in (options.format or names):
                continue
            with tempfile.TemporaryDirectory() as folder:
                measurement, summary = measure(source, one, Path(folder))
            if contents.setdefault(source.name, summary) != summary:
                raise RuntimeError(f"{source.name} as {one.name}: other ratings are stored")
            measurements.append(measurement)
            sys.stdout.write(f"{json.dumps(asdict(measurement))}\n")
            sys.stdout.flush()
    options.out.mkdir(parents=True, exist_ok=True)
    results = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "imports": [asdict(measurement) for measurement in measurements],
    }
    (options.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.out / "table.md").write_text(report(measurements))


if __name__ == "__main__":
    main()
