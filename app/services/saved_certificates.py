"""Read saved certificates, verify them, and compare them with database and ledger.

A database that was restored without its ledger does not know the deletions after the backup. Saved
certificates still prove these deletions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from app.domain.certificates import CertificateKind
from app.domain.errors import InvalidCertificateError
from app.domain.requests import Assurance, RequestStatus, Scope
from app.domain.restore_check import KnownDeletion, Severity
from app.services.certificates import envelope_digest
from app.services.signatures import instant, verify

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from app.domain.requests import ForgetRequest
    from app.services.signatures import TrustedKey

_HASH: Final = re.compile(r"[0-9a-f]{64}")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_]{1,40}")


class FileResult(StrEnum):
    """What a saved certificate shows."""

    MATCHES = "matches"
    DUPLICATE = "duplicate"
    #: The database has the request in an older state, or lacks the exact training.
    OLDER = "older"
    MISSING = "missing"
    #: The database lacks the deletion, and the person has consented since.
    CONSENTED = "consented"
    #: The deletion is being repeated.
    REPEATING = "repeating"
    #: The installation knows this request with other facts.
    CONFLICT = "conflict"
    UNTRUSTED = "untrusted"
    INVALID = "invalid"
    NO_CERTIFICATE = "no-certificate"
    UNREADABLE = "unreadable"


_R = FileResult
#: `missing` and `older` are `repeat` where the ledger has the deletion too.
SEVERITY_OF: Final = {
    FileResult.MATCHES: Severity.OK,
    FileResult.DUPLICATE: Severity.OK,
    FileResult.CONSENTED: Severity.OK,
    FileResult.REPEATING: Severity.REPEAT,
    FileResult.OLDER: Severity.ACT,
    FileResult.MISSING: Severity.ACT,
    FileResult.UNTRUSTED: Severity.ACT,
    FileResult.NO_CERTIFICATE: Severity.OK,
    FileResult.UNREADABLE: Severity.ACT,
    FileResult.INVALID: Severity.DAMAGED,
    FileResult.CONFLICT: Severity.DAMAGED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCertificate:
    """A certificate in a file, or what is wrong with the file."""

    file: str
    result: FileResult
    text: str = ""
    kind: str | None = None
    number: int | None = None
    #: None unless the signature is valid.
    deletion: KnownDeletion | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "result": self.result.value,
            "text": self.text,
            "kind": self.kind,
            "number": self.number,
            "request_id": None if self.deletion is None else self.deletion.request_id,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FileProblem:
    """Why a file cannot be read as JSON."""

    result: FileResult
    text: str


def read_certificates(
    files: Iterable[tuple[str, Any | FileProblem]], keys: Sequence[TrustedKey]
) -> Iterator[SavedCertificate]:
    """Verify the certificates in the files, each given with its JSON value or with its problem.

    A file holds one certificate, or a list as `GET /forget/{id}/certificates` returns it. The
    result of a valid certificate is `matches` until `compare` has compared it.
    """
    digests: set[str] = set()
    for name, value in files:
        if isinstance(value, FileProblem):
            yield SavedCertificate(file=name, result=value.result, text=value.text)
            continue
        documents = list(_documents(value))
        if not documents:
            text = "neither a certificate nor a list of certificates"
            yield SavedCertificate(file=name, result=FileResult.NO_CERTIFICATE, text=text)
        for position, document in enumerate(documents, start=1):
            file = name if len(documents) == 1 else f"{name}#{position}"
            saved = _verified(file, document, keys)
            if saved.deletion is not None:
                digest = saved.deletion.facts["certificate"]
                if digest in digests:
                    saved = replace(saved, result=FileResult.DUPLICATE, text="read before")
                digests.add(digest)
            yield saved


def compare(
    saved: SavedCertificate,
    stored: Mapping[str, ForgetRequest],
    in_ledger: Collection[str],
    consented_at: Mapping[str, datetime],
) -> SavedCertificate:
    """Return the certificate with the result of the comparison.

    `stored` has the requests of the database, `in_ledger` the ids of the deletions that the ledger
    has, and `consented_at` the newest consent of each keyed hash.
    """
    deletion = saved.deletion
    if deletion is None or saved.result is FileResult.DUPLICATE:
        return saved
    result, text = _comparison(deletion, stored.get(deletion.request_id), consented_at)
    if deletion.request_id in in_ledger and result in {FileResult.MISSING, FileResult.OLDER}:
        text += "; the ledger has the deletion"
    return replace(saved, result=result, text=text)


def deletions_of(certificates: Iterable[SavedCertificate]) -> dict[str, KnownDeletion]:
    """Return request id → deletion, with the facts of all valid certificates of the request."""
    deletions: dict[str, KnownDeletion] = {}
    for saved in sorted(certificates, key=lambda one: one.number or 0):
        if saved.deletion is not None:
            # Later certificates cite the first one.
            first = deletions.setdefault(saved.deletion.request_id, saved.deletion)
            if saved.deletion.is_exact:
                deletions[first.request_id] = replace(first, is_exact=True)
    return deletions


def _comparison(
    deletion: KnownDeletion,
    request: ForgetRequest | None,
    consented_at: Mapping[str, datetime],
) -> tuple[FileResult, str]:
    if request is None:
        at = deletion.completed_at or deletion.requested_at
        if all(consented_at.get(h, at) > at for h in deletion.subject_hashes):
            return FileResult.CONSENTED, "the person has consented since"
        return FileResult.MISSING, "the database does not have this deletion"
    status = request.status
    is_completed = status is RequestStatus.COMPLETED
    other_key = "the database has other keyed hashes for this request: from another hash key?"
    older = f"the request is {status} in the database, not completed"
    cases = (
        (not {*deletion.subject_hashes} <= {*request.subject_hashes}, _R.CONFLICT, other_key),
        (status is RequestStatus.CANCELLED, _R.CONFLICT, "it is cancelled in the database"),
        (request.restored and not is_completed, _R.REPEATING, "the deletion is being repeated"),
        (not is_completed, _R.OLDER, older),
        (_lacks_exact(deletion, request), _R.OLDER, "the database lacks the exact training"),
        (True, _R.MATCHES, ""),
    )
    return next((result, text) for applies, result, text in cases if applies)


def _lacks_exact(deletion: KnownDeletion, request: ForgetRequest) -> bool:
    """Return whether the database lacks an exact training; a repeated deletion gets a new one."""
    if not deletion.is_exact or request.assurance is Assurance.EXACT or request.restored:
        return False
    completed_at, certified_at = request.completed_at, deletion.completed_at
    return completed_at is None or certified_at is None or completed_at <= certified_at


def _documents(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the certificates in a JSON value."""
    entries = value.get("items") if isinstance(value, dict) and "items" in value else value
    for entry in entries if isinstance(entries, list) else [entries]:
        inner = entry.get("certificate", entry) if isinstance(entry, dict) else None
        if isinstance(inner, dict) and inner.keys() & {"payloadType", "signatures", "signature"}:
            yield inner


def _verified(file: str, document: dict[str, Any], keys: Sequence[TrustedKey]) -> SavedCertificate:
    if not _names_trusted_key(document, keys):
        text = "its signing key is not trusted here: give a saved lethe-keys document with --key"
        return SavedCertificate(file=file, result=FileResult.UNTRUSTED, text=text)
    try:
        content = verify(document, keys).content
    except InvalidCertificateError as error:
        text = str(error.context["reason"])
        return SavedCertificate(file=file, result=FileResult.INVALID, text=text)
    try:
        deletion = _deletion(content, envelope_digest(document))
    except (KeyError, TypeError, ValueError) as error:
        text = f"a field of its content is missing or malformed ({type(error).__name__})"
        return SavedCertificate(file=file, result=FileResult.INVALID, text=text)
    return SavedCertificate(
        file=file,
        result=FileResult.MATCHES,
        kind=str(content.get("kind", CertificateKind.DELETION)),
        number=int(content.get("number", 1)),
        deletion=deletion,
    )


def _names_trusted_key(document: dict[str, Any], keys: Sequence[TrustedKey]) -> bool:
    """Return whether a signature names a trusted key; certificates before DSSE name none."""
    signatures = document.get("signatures")
    if not isinstance(signatures, list) or not signatures:
        return True  # The verification names what is wrong.
    named = {str(entry.get("keyid")) for entry in signatures if isinstance(entry, dict)}
    return not named.isdisjoint(key.key_id for key in keys)


def _deletion(content: dict[str, Any], digest: str) -> KnownDeletion:
    """Return the deletion; raises KeyError, TypeError or ValueError for malformed content."""
    hashes = tuple(content["subject_hashes"])
    completed_at = instant(content["completed_at"])
    requested_at = content.get("requested_at")
    request_id = content["request_id"]
    if not hashes or not all(map(_HASH.fullmatch, hashes)) or not _REQUEST_ID.fullmatch(request_id):
        raise ValueError
    return KnownDeletion(
        request_id=request_id,
        scope=Scope(content["scope"]),
        subject_hashes=hashes,
        requested_at=completed_at if requested_at is None else instant(requested_at),
        completed_at=completed_at,
        is_exact=content.get("kind") == CertificateKind.EXACT,
        facts={"release": content.get("release"), "certificate": digest},
    )
