"""Render a certificate as a page for people: `GET /forget/{id}/certificate.html`, `lethe report`.

The page depends on the envelope and on the version of Lethe only, so that `lethe verify` can render
it again and compare. Every statement comes from the certificate's fields; a field that is missing
is called not recorded. All values are escaped: titles and errors may hold any text.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError
from markupsafe import Markup

from app.domain.certificates import CertificateKind
from app.domain.errors import InvalidCertificateError
from app.domain.findings import certified_sentence
from app.domain.requests import Assurance, Scope
from app.services.certificates import content_of
from app.version import VERSION
from app.web.certificate_figures import figure_rows, plots
from app.web.page_values import count, known, moment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jinja2 import Template

#: The element that holds the envelope; `lethe verify` reads it.
ENVELOPE_ID: Final = "lethe-certificate"
_WEB: Final = Path(__file__).parent
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_]{1,40}")

_SCOPES: Final = {
    Scope.USER.value: "all data of one person",
    Scope.USER_ITEMS.value: "single interactions of one person",
    Scope.ITEM.value: "one item, with the interactions of all people with the item",
}
_KINDS: Final = {
    CertificateKind.DELETION.value: "This certificate is about the deletion.",
    CertificateKind.EXACT.value: "This certificate states that the deletion became exact.",
    CertificateKind.SCRUB_CLOSED.value: "This certificate repeats the certificate before, after an"
    " erasure that was open has been carried out.",
}
_ASSURANCES: Final = {
    Assurance.APPROXIMATE.value: (
        "Approximate",
        (
            "It is not proved that the weights never saw the erased rows. Fast unlearning is judged"
            " by an audit, which is evidence within its intervals and not a mathematical proof."
        ),
    ),
    Assurance.EXACT.value: (
        "Exact",
        (
            "The weights never saw the erased rows. Two trainings on almost the same data are"
            " similar, so exact does not mean that the answers of the model are different."
        ),
    ),
}


def certificate_page(envelope: Mapping[str, Any]) -> str:
    """Return the page; raises InvalidCertificateError for content that no certificate has."""
    try:
        return _template().render(**_values(envelope))
    except (KeyError, TypeError, ValueError, AttributeError, UndefinedError) as error:
        raise InvalidCertificateError(reason="a field is missing or malformed") from error


def page_name(envelope: Mapping[str, Any]) -> str:
    """Return the file name under which the page is saved."""
    content = content_of(envelope)
    request_id = str(content.get("request_id"))
    number = content.get("number", 1)
    stem = request_id if _REQUEST_ID.fullmatch(request_id) else "request"
    return f"certificate-{stem}-{number if isinstance(number, int) else 1}.html"


def content_security_policy() -> str:
    """Return the policy of the page: its own style, and nothing else."""
    return f"{_embedded_policy()}; frame-ancestors 'none'"


def _embedded_policy() -> str:
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


@cache
def _style() -> str:
    return (_WEB / "certificate.css").read_text(encoding="utf-8")


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(_WEB),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"moment": moment, "known": known, "count": count}
    return environment.get_template("certificate.html")


def _values(envelope: Mapping[str, Any]) -> dict[str, Any]:
    content = content_of(envelope)
    assurance, meaning = _ASSURANCES.get(
        content.get("assurance") or "",
        ("Not recorded", "The certificate does not state whether the deletion is exact."),
    )
    return {
        "certificate": content,
        "request_id": content.get("request_id"),
        "number": content.get("number", 1),
        "subject": _subject(envelope),
        "scope": _SCOPES.get(content.get("scope") or "", "not recorded"),
        "kind": _KINDS.get(content.get("kind") or CertificateKind.DELETION.value, ""),
        "sentence": certified_sentence(content),
        "assurance": assurance,
        "assurance_meaning": meaning,
        "prospect": _prospect(content),
        "rows_deleted": sorted((content.get("rows_deleted") or {}).items()),
        "shredded": sorted((content.get("shredded") or {}).items()),
        "plots": plots(content),
        "figures": figure_rows(content),
        "file_name": page_name(envelope),
        "key_id": content.get("key_id"),
        "envelope": _embedded(envelope),
        "envelope_id": ENVELOPE_ID,
        "content_json": json.dumps(content, indent=2, ensure_ascii=False),
        "style": Markup(_style()),  # noqa: S704 -- a file of this package
        "policy": _embedded_policy(),
        "version": VERSION,
    }


def _embedded(envelope: Mapping[str, Any]) -> Markup:
    """Return the envelope as JSON on one line, in which no text can end the element."""
    text = json.dumps(envelope, ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 -- has no character with a meaning in HTML


def _subject(envelope: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return names and SHA-256 of the statement's subject; certificates before DSSE have none."""
    if "payloadType" not in envelope:
        return []
    statement = json.loads(base64.b64decode(envelope["payload"]))
    return [
        {"name": each["name"], "sha256": each["digest"]["sha256"]} for each in statement["subject"]
    ]


def _prospect(content: Mapping[str, Any]) -> str:
    """Return since when the deletion is exact, or when an exact training is promised."""
    if content.get("exact_at"):
        return f"Exact since {moment(content['exact_at'])}."
    if content.get("assurance") != Assurance.APPROXIMATE:
        return ""
    terms = content.get("exact") or {}
    if terms.get("due_at"):
        return f"A training without the erased rows is promised by {moment(terms['due_at'])}."
    return "The certificate promises no time for a training without the erased rows."
