"""Read numbered lines from text files, plain, gzip or zstd, in UTF-8, UTF-16 or Windows-1252."""

from __future__ import annotations

import codecs
import io
import re
from typing import TYPE_CHECKING, Final, cast

from models.datasets.compressed_files import open_bytes
from models.datasets.errors import DataSetError, RejectedLineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from models.datasets.read_report import ReadReport

    #: Called with (bytes read, total bytes) of the ratings file.
    Progress = Callable[[int, int], None]

#: Longer lines are rejected, because they could fill the memory. Long reviews are 100,000
#: characters.
MAX_LINE: Final = 1 << 24
_LINES_PER_PROGRESS: Final = 20_000
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
#: Bytes that could not be decoded, as Python's error handler `surrogateescape` returns them.
_UNDECODABLE: Final = re.compile("[\udc80-\udcff]")

#: Encodings in which `surrogateescape` has no meaning, and the error handler in its place.
_WIDE: Final = ("utf-16", "utf-32")
_SURROGATES: Final = "lethe-surrogates"
codecs.register_error(_SURROGATES, lambda error: ("\udc80", cast("UnicodeDecodeError", error).end))
_NAMES: Final = {"latin-1": "Latin-1", "cp1252": "Windows-1252"}
_CHUNK: Final = 1 << 20
_HEAD: Final = 1 << 13
#: The bytes that are printable characters in Windows-1252 and control characters in Latin-1.
_C1: Final = bytes(range(0x80, 0xA0))
_CONTROL: Final = bytes(set(range(32)) - set(b"\t\n\r\f\x1b"))
#: Text has almost no control characters; of random bytes, one in nine is a control character.
_MAX_CONTROL_SHARE: Final = 0.02
#: In UTF-16, every second byte of Western text is zero.
_MIN_ZERO_SHARE: Final = 0.3


def _encoding_of_head(path: Path, head: bytes) -> str:
    """Guess the encoding from the first bytes; raises DataSetError for binary files."""
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    # First, because the mark of UTF-32 begins with that of UTF-16.
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
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
    """Return an encoding that decodes the whole file.

    A file that is not valid UTF-8 is taken for Windows-1252 or Latin-1, which differ in bytes that
    Latin-1 has for control characters. A few bytes that are not UTF-8 among more characters that
    are leave the file UTF-8: another encoding would change the ids of all lines. The whole file is
    read, because the first non-ASCII character may be far from the beginning.
    """
    with open_bytes(path) as (content, _):
        head = content.read(_HEAD)
        if not head:
            raise empty_file_error(path)
        encoding = _encoding_of_head(path, head)
        decoder = codecs.getincrementaldecoder(encoding)()
        sample = codecs.getincrementaldecoder("utf-8")("replace")
        is_valid, has_c1, chunk = True, False, head
        characters, undecodable = 0, 0
        while chunk:
            if not chunk.isascii():
                text = sample.decode(chunk)
                undecodable += text.count(_REPLACEMENT)
                characters += len(text) - len(text.encode("ascii", "ignore"))
            if is_valid:
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError as error:
                    _refuse_broken_utf16(path, encoding, error)
                    is_valid = False
            has_c1 = has_c1 or len(chunk.translate(None, _C1)) < len(chunk)
            chunk = content.read(_CHUNK)
        if is_valid:
            try:
                decoder.decode(b"", final=True)
            except UnicodeDecodeError as error:
                _refuse_broken_utf16(path, encoding, error)
                is_valid = False
    # A character that takes several bytes in UTF-8 does not occur by chance in other encodings.
    if is_valid or characters - undecodable > undecodable:
        return encoding
    return "cp1252" if has_c1 else "latin-1"


def empty_file_error(path: Path) -> DataSetError:
    """Return the error for a file without a line."""
    return DataSetError(f"{path} is empty. Get a new copy, or remove the file.")


def _refuse_broken_utf16(path: Path, encoding: str, error: UnicodeDecodeError) -> None:
    if encoding.startswith("utf-16"):
        raise DataSetError(
            f"{path} begins as UTF-16 but is not valid UTF-16. Save it as UTF-8."
        ) from error


def _read_line(stream: io.TextIOWrapper) -> str:
    """Return the next line, or "" at the end; raises RejectedLineError for an invalid line."""
    line = stream.readline(MAX_LINE + 1)
    if len(line) > MAX_LINE and not line.endswith("\n"):
        while (rest := stream.readline(MAX_LINE)) and not rest.endswith("\n"):
            pass
        raise RejectedLineError(f"the line is longer than {MAX_LINE:,} characters")
    if "\0" in line:
        raise RejectedLineError("the line has a NUL byte")
    if not line.isascii() and _UNDECODABLE.search(line):
        raise RejectedLineError("the line is not valid in the encoding of the file")
    return line


def numbered_lines(
    path: Path,
    report: ReadReport,
    progress: Progress | None = None,
    encoding: str | None = None,
) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without line break) for all lines that are not blank.

    Lines that are too long or have NUL bytes are counted in `report` and skipped; the caller counts
    all other lines. Raises DataSetError if the file cannot be read.
    """
    is_given = encoding is not None
    encoding = encoding or _detect_encoding(path)
    if encoding in _NAMES and not is_given:
        report.notes.append(f"{path.name} is not UTF-8 and was read as {_NAMES[encoding]}")
    report.file = path.name
    total = path.stat().st_size
    with open_bytes(path) as (content, raw):
        # A replacement character would make one id of several, so that these lines are rejected.
        errors = _SURROGATES if encoding.startswith(_WIDE) else "surrogateescape"
        stream = io.TextIOWrapper(content, encoding=encoding, errors=errors)
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
            except UnicodeError as error:
                raise DataSetError(
                    f"{path} is not valid in the encoding {encoding}. Name another with --encoding."
                ) from error
            if not line:
                break
            line = line.rstrip("\r\n")
            report.line = number
            if line and not line.isspace():
                yield number, line
    if progress is not None:
        progress(total, total)


def consume(
    path: Path,
    report: ReadReport,
    take: Callable[[str], None],
    progress: Progress | None = None,
    encoding: str | None = None,
) -> None:
    """Call `take` with every line, and count the lines for which it raises RejectedLineError."""
    for number, line in numbered_lines(path, report, progress, encoding):
        report.lines += 1
        try:
            take(line)
        except RejectedLineError as error:
            report.reject(path.name, number, error.reason)
