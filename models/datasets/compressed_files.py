"""Open files, plain, gzip or zstd, and refuse content out of proportion to a compressed file."""

from __future__ import annotations

import gzip
import importlib
import io
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Final, cast

from models.datasets.errors import DataSetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: A compressed file with more content than this, and much more than its size, is refused.
MAX_UNCHECKED_CONTENT: Final = 1 << 28
MAX_EXPANSION: Final = 200
_CHUNK: Final = 1 << 20
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
#: Frames without content, with which pzstd begins a file: 16 numbers, of which this is the end.
_ZSTD_SKIPPABLE: Final = b"\x2a\x4d\x18"


@contextmanager
def open_bytes(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Open a file as (decompressed content, raw file); raises DataSetError."""
    compression = ""
    try:
        with path.open("rb") as raw:
            magic = raw.read(len(_ZSTD))
            raw.seek(0)
            if magic.startswith(_GZIP):
                compression = "gzip"
                with gzip.GzipFile(fileobj=raw) as content:
                    # GzipFile has the methods of IO[bytes], but is not declared as a subclass.
                    yield _bounded(path, cast("IO[bytes]", content)), raw
            elif magic == _ZSTD or magic[1:] == _ZSTD_SKIPPABLE:
                compression = "zstd"
                yield _bounded(path, _zstd(path, raw)), raw
            else:
                yield raw, raw
    except FileNotFoundError as error:
        raise DataSetError(f"{path} does not exist. Check the path.") from error
    except (EOFError, OSError, zlib.error) as error:
        # Errors of the decompression have no number.
        if not isinstance(error, OSError) or (compression and error.errno is None):
            raise _damaged_file_error(path, compression, error) from error
        raise DataSetError(f"{path} cannot be read: {error.strerror or error}.") from error


def _damaged_file_error(path: Path, compression: str, error: Exception) -> DataSetError:
    # The text of BadGzipFile quotes the file.
    reason = "" if isinstance(error, gzip.BadGzipFile) else f" ({error})"
    # Files that were compressed with a long window need the option.
    remedy = ", or decompress the file with `zstd -d --long=31`" if compression == "zstd" else ""
    return DataSetError(f"{path} is a damaged {compression} file{reason}. Get a new copy{remedy}.")


def _zstd(path: Path, raw: IO[bytes]) -> IO[bytes]:
    """Return the content of a zstd file; raises DataSetError without pyarrow."""
    try:
        arrow: Any = importlib.import_module("pyarrow")
    except ImportError as error:
        raise DataSetError(
            f"{path} is a zstd file, which requires pyarrow: run `pip install pyarrow`, or "
            "decompress the file with `zstd -d`."
        ) from error
    return cast("IO[bytes]", arrow.CompressedInputStream(raw, "zstd"))


def _bounded(path: Path, content: IO[bytes]) -> IO[bytes]:
    # BufferedReader has the methods of IO[bytes], but is not declared as a subclass.
    return cast("IO[bytes]", io.BufferedReader(_Bounded(path, content)))


class ContentLimit:
    """Count the content of a compressed file; refuse content out of proportion to the file."""

    def __init__(self, path: Path, remedy: str) -> None:
        """Take what the operator can do instead, as a sentence."""
        self._path = path
        self._remedy = remedy
        self._limit = max(MAX_UNCHECKED_CONTENT, MAX_EXPANSION * path.stat().st_size)
        self._content = 0

    def add(self, content: int) -> None:
        """Count this content, in bytes or characters; raises DataSetError above the limit."""
        self._content += content
        self.check(self._content)

    def check(self, content: int) -> None:
        """Raise DataSetError if a file may not have so much content."""
        if content > self._limit:
            raise DataSetError(
                f"{self._path} has over {self._limit:,} bytes of content, more than "
                f"{MAX_EXPANSION} times its size. {self._remedy}"
            )


class _Bounded(io.RawIOBase):
    """The content of a compressed file; raises DataSetError if it is out of proportion."""

    def __init__(self, path: Path, content: IO[bytes]) -> None:
        super().__init__()
        self._content = content
        self._limit = ContentLimit(path, "Decompress the file and import the result.")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._content.read(min(len(buffer), _CHUNK))
        self._limit.add(len(data))
        buffer[: len(data)] = data
        return len(data)
