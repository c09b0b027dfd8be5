"""Read certificates and public keys from files. Nothing is fetched."""

from __future__ import annotations

import json
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.cli.failures import BadInputError
from app.domain.errors import InvalidCertificateError
from app.services.saved_certificates import FileProblem, FileResult
from app.services.signatures import TrustedKey, load_public_key
from app.services.signing_keys import trusted_keys
from app.web.certificate_page import ENVELOPE_ID

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Certificates list every shredded file, and are still far below this size.
MOST_BYTES: Final = 32 * 2**20


def read_file(path: Path) -> bytes:
    """Return the file's bytes; raises BadInputError for an empty or an oversized file."""
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise BadInputError(
            f"{path} has more than {MOST_BYTES // 2**20} MiB, so it is neither a certificate nor"
            " a key."
        )
    if not data.strip():
        raise BadInputError(f"{path} is empty. Download the file again.")
    return data


def read_json(path: Path, data: bytes) -> Any:
    """Return the JSON value in the file's bytes; raises BadInputError."""
    try:
        return json.loads(data, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path} is not JSON: {error}") from error


def read_certificate(path: Path) -> tuple[Any, str | None]:
    """Return the certificate in the file, and the text of the page that embeds the certificate.

    The text is None for a JSON file. Raises BadInputError.
    """
    data = read_file(path)
    if not is_page(data):
        return read_json(path, data), None
    try:
        text = data.decode()
        return json.loads(embedded_in(text), object_pairs_hook=_without_repetition), text
    except (ValueError, RecursionError) as error:
        raise BadInputError(
            f"{path} is a page without a certificate of Lethe: {error}. Save the page again."
        ) from error


def is_page(data: bytes) -> bool:
    """Return whether the bytes begin like an HTML page; JSON never begins so."""
    return data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def embedded_in(page: str) -> str:
    """Return the text of the page's element with the envelope; raises ValueError."""
    parser = _EnvelopeParser()
    try:
        parser.feed(page)
    except AssertionError as error:  # Python's parser raises it for an unknown `<![name[`.
        raise ValueError(error) from error
    if len(parser.texts) != 1:
        raise ValueError(f"the page embeds {len(parser.texts)} certificates")
    return "".join(parser.texts[0])


class _EnvelopeParser(HTMLParser):
    """Collects the texts of the script elements that hold a certificate."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[list[str]] = []
        self._is_inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_inside = tag == "script" and dict(attrs).get("id") == ENVELOPE_ID
        if self._is_inside:
            self.texts.append([])

    def handle_endtag(self, tag: str) -> None:
        del tag
        self._is_inside = False

    def handle_data(self, data: str) -> None:
        if self._is_inside:
            self.texts[-1].append(data)


def keys_in(path: Path) -> list[TrustedKey]:
    """Return the keys in a PEM file or in a saved `lethe-keys` document."""
    data = read_file(path)
    try:
        if data.lstrip().startswith(b"{"):
            return trusted_keys(read_json(path, data))
        return [TrustedKey(public_key=load_public_key(data))]
    except InvalidCertificateError as error:
        # InvalidCertificateError would say that a certificate is not valid.
        raise BadInputError(
            f"{path} holds no usable key: {error.context['reason']}. Give a public key (PEM), or a "
            "saved answer of /.well-known/lethe-keys."
        ) from error


def files_below(directory: Path) -> Iterator[tuple[str, Any | FileProblem]]:
    """Yield (relative path, JSON value or problem) of every file, in order of the path.

    Raises BadInputError if the directory cannot be read or holds no file.
    """
    if not directory.is_dir():
        raise BadInputError(
            f"{directory} is not a directory. Give the directory of the certificates."
        )
    problems: list[OSError] = []
    is_empty = True
    for parent, directories, names in os.walk(directory, onerror=problems.append):
        directories.sort()
        for name in sorted(names):
            is_empty = False
            path = Path(parent, name)
            yield str(path.relative_to(directory)), _value_of(path)
    for error in problems:
        path = Path(error.filename)
        if path == directory:
            raise BadInputError(f"{directory} cannot be read: {error.strerror}.") from error
        yield str(path.relative_to(directory)), _unreadable(error.strerror or "no access")
    if is_empty and not problems:
        raise BadInputError(f"{directory} holds no file. Give the directory with the certificates.")


def _value_of(path: Path) -> Any | FileProblem:
    """Return the JSON value in the file, or why there is none."""
    if not path.is_file():  # A named pipe would never end.
        return _unreadable("not a regular file")
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            return _unreadable(f"more than {MOST_BYTES // 2**20} MiB, so no certificate")
        data = path.read_bytes()
    except OSError as error:
        return _unreadable(error.strerror or type(error).__name__)
    try:
        text = embedded_in(data.decode()) if is_page(data) else data
        return json.loads(text, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError):
        text = "not JSON" if data.strip() else "empty"
        looks_like_certificate = b'"payload' in data or not data.strip()
        if looks_like_certificate:  # A broken download.
            return _unreadable(f"{text}: download the certificate again")
        return FileProblem(result=FileResult.NO_CERTIFICATE, text=text)


def _unreadable(text: str) -> FileProblem:
    return FileProblem(result=FileResult.UNREADABLE, text=text)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object; raise ValueError if a name occurs twice.

    Programs disagree about which value of a repeated name counts.
    """
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("an object has the same name twice")
    return dict(pairs)
