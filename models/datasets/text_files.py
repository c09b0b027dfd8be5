"""Read numbered lines from text files, plain or gzipped, in UTF-8, UTF-16 or Latin-1."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Final, cast

from models.datasets.errors import DataSetError, RejectedLineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from models.datasets.read_report import ReadReport

    #: Called with (bytes read, total bytes) of the ratings file.
    Progress = Callable[[int, int], None]

#: Longer lines are rejected: no format has them, and they could fill the memory.
MAX_LINE: Final = 1 << 16
_LINES_PER_PROGRESS: Final = 20_000

_CHUNK: Final = 1 << 20
_HEAD: Final = 1 << 13
_GZIP: Final = b"\x1f\x8b"
_CONTROL: Final = bytes(set(range(32)) - set(b"\t\n\r\f\x1b"))
#: Text has almost no control characters; of random bytes, one in nine is a control character.
_MAX_CONTROL_SHARE: Final = 0.02
#: In UTF-16, every second byte of Western text is zero.
_MIN_ZERO_SHARE: Final = 0.3


@contextmanager
def _open_bytes(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Open a file as (decompressed content, raw file); raises DataSetError."""
    try:
        with path.open("rb") as raw:
            is_gzip = raw.read(len(_GZIP)) == _GZIP
            raw.seek(0)
            if is_gzip:
                with gzip.GzipFile(fileobj=raw) as content:
                    # GzipFile has the methods of IO[bytes], but is not declared as a subclass.
                    yield cast("IO[bytes]", content), raw
            else:
                yield raw, raw
    except FileNotFoundError as error:
        raise DataSetError(f"{path} does not exist. Check the path.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataSetError(f"{path} is a damaged gzip file ({error}). Get a new copy.") from error
    except OSError as error:
        raise DataSetError(f"{path} cannot be read: {error.strerror or error}.") from error


def _encoding_of_head(path: Path, head: bytes) -> str:
    """Guess the encoding from the first bytes; raises DataSetError for binary files."""
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    zeros = head.count(0)
    if zeros > _MIN_ZERO_SHARE * len(head):
        if head[1::2].count(0) == zeros:
            return "utf-16-le"
        if head[::2].count(0) == zeros:
            return "utf-16-be"
    control = len(head) - len(head.translate(None, _CONTROL))
    if control > max(1, _MAX_CONTROL_SHARE * len(head)):
        raise DataSetError(
            f"{path} is not a text file: it has NUL bytes or other control characters. "
            "Give a CSV, JSON lines or MovieLens file."
        )
    return "utf-8"


def _detect_encoding(path: Path) -> str:
    """Return an encoding that decodes the whole file: Latin-1 if the file is not valid UTF-8.

    The whole file is read, because the first non-ASCII character may be far from the beginning.
    """
    with _open_bytes(path) as (content, _):
        head = content.read(_HEAD)
        if not head:
            raise DataSetError(f"{path} is empty.")
        encoding = _encoding_of_head(path, head)
        decoder = codecs.getincrementaldecoder(encoding)()
        try:
            decoder.decode(head)
            while chunk := content.read(_CHUNK):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            if encoding.startswith("utf-16"):
                raise DataSetError(
                    f"{path} begins as UTF-16 but is not valid UTF-16. Save it as UTF-8."
                ) from error
            return "latin-1"
    return encoding


def _read_line(stream: io.TextIOWrapper) -> str:
    """Return the next line, or "" at the end; raises RejectedLineError for an invalid line."""
    line = stream.readline(MAX_LINE + 1)
    if len(line) > MAX_LINE and not line.endswith("\n"):
        while (rest := stream.readline(MAX_LINE)) and not rest.endswith("\n"):
            pass
        raise RejectedLineError(f"the line is longer than {MAX_LINE:,} characters")
    if "\0" in line:
        raise RejectedLineError("the line has a NUL byte")
    return line


def numbered_lines(
    path: Path, report: ReadReport, progress: Progress | None = None
) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without line break) for all lines that are not blank.

    Lines that are too long or have NUL bytes are counted in `report` and skipped; the caller counts
    all other lines. Raises DataSetError if the file cannot be read.
    """
    encoding = _detect_encoding(path)
    if encoding == "latin-1":
        report.notes.append(f"{path.name} is not UTF-8 and was read as Latin-1")
    total = path.stat().st_size
    with _open_bytes(path) as (content, raw):
        stream = io.TextIOWrapper(content, encoding=encoding)
        number = 0
        while True:
            number += 1
            if progress is not None and number % _LINES_PER_PROGRESS == 0:
                progress(min(raw.tell(), total), total)
            try:
                line = _read_line(stream)
            except RejectedLineError as error:
                report.lines += 1
                report.reject(path.name, number, error.reason)
                continue
            if not line:
                break
            line = line.rstrip("\r\n")
            if line and not line.isspace():
                yield number, line
    if progress is not None:
        progress(total, total)


def consume(
    path: Path,
    report: ReadReport,
    take: Callable[[str], None],
    progress: Progress | None = None,
) -> None:
    """Call `take` with every line, and count the lines for which it raises RejectedLineError."""
    for number, line in numbered_lines(path, report, progress):
        report.lines += 1
        try:
            take(line)
        except RejectedLineError as error:
            report.reject(path.name, number, error.reason)
