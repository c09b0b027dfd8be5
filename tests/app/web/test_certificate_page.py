"""The page of a certificate: only what the certificate states, escaped, without resources."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.cli.certificate_files import embedded_in
from app.domain.errors import InvalidCertificateError
from app.services.signatures import Signer
from app.web.certificate_page import certificate_page, content_security_policy, page_name
from tests.support.certificates import HOSTILE, full_content
from tests.support.first_version_certificates import sign_first_version

SIGNER = Signer(Ed25519PrivateKey.generate())
CSS = (Path(__file__).parents[3] / "app" / "web" / "certificate.css").read_text()
FIXTURE = Path(__file__).parents[2] / "fixtures" / "earlier_installation" / "certificate.json"
NOT_IN_WEIGHTS = {
    "sentence": "No stored row of this person trained the weights. It is not recorded whether rows"
    " that an earlier job deleted did."
}


class Read(HTMLParser):
    """Elements with their attributes, and the text that a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in {"script", "style"}:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            self._open.remove(tag)

    def handle_data(self, data: str) -> None:
        if not self._open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def signed(content: dict[str, Any]) -> dict[str, Any]:
    return SIGNER.sign(content, name="rel_new", sha256="d" * 64)


def shown(**changes: Any) -> str:
    """Return the visible text, without the part that repeats all fields."""
    return Read(certificate_page(signed(full_content(**changes)))).text.split("How to verify")[0]


def test_page_says_first_what_was_removed_since_when_and_what_is_not_covered() -> None:
    text = shown()
    parts = [
        "does not check the signature",
        "The audit cannot tell from 145 rows.",
        "All data of one person",
        "150 in interactions",
        "2026-11-30 08:19:19 UTC",
        "Approximate.",
        "promised by 2026-12-15 08:19:24 UTC",
        "Outcome of the audit inconclusive",
        "What is not covered",
        "backups of the database",
        "Still to be erased",
        "Figures",
        "48% (−138% to 234%)",
        "0.0004 (+0.0002 to ∞)",
        "Evidence",
        "d" * 64,
    ]
    positions = [text.index(part) for part in parts]
    assert positions == sorted(positions)


def test_interval_with_no_change_and_full_change_is_said_to_show_nothing() -> None:
    assert "The interval contains both" in shown()
    finding = full_content()["finding"] | {"share": 0.9, "interval": [0.6, 1.2]}
    assert "The interval contains both" not in shown(finding=finding)


@pytest.mark.parametrize(
    ("changes", "present", "absent"),
    [
        ({}, ["Approximate."], ["Exact.", "Exact since", "promises no time"]),
        (
            {"assurance": "exact", "exact_at": "2026-12-01T00:00:00+00:00", "outcome": "exact"},
            ["Exact.", "Exact since 2026-12-01 00:00:00 UTC"],
            ["Approximate.", "promised"],
        ),
        ({"exact": {"mode": "off", "due_at": None}}, ["promises no time"], ["promised by"]),
        ({"exact": None}, ["The certificate promises no time"], ["promised by"]),
        ({"assurance": None}, ["does not state whether the deletion is exact"], ["Exact."]),
        ({"assurance": "surely"}, ["does not state whether"], ["surely", "Exact."]),
        ({"rows_deleted": None}, ["number of deleted rows is not recorded"], ["150"]),
        ({"rows_deleted": {}}, ["No row was deleted"], ["number of deleted rows"]),
        ({"shredded": {}}, [], ["unlinked"]),
        ({"not_covered": [], "open": []}, ["lists no such place"], ["Still to be erased"]),
        ({"replicas": None}, ["Not recorded."], ["did not confirm"]),
        ({"fenced_replicas": ["rep_2"]}, ["did not confirm in time", "rep_2"], []),
        ({"finding": None, "batch": None}, ["no figures of an audit"], ["48%"]),
        ({"returned": {"since": "2026-12-02T00:00:00+00:00"}}, ["consented again"], []),
        (
            {"kind": "exact", "cites": {"number": 1, "sha256": "e" * 64}},
            ["became exact", "Cites certificate 1", "eeee"],
            [],
        ),
        # The certificate of the deletion was lost with a database.
        ({"kind": "exact", "cites": None}, ["became exact"], ["cites", "Cites"]),
        # Earlier versions judged batches only.
        (
            {"outcome": "passed", "finding": None},
            ["which does not show whether this person was forgotten"],
            ["Audit of this request", "found the forgetting"],
        ),
        # Approximate, because earlier rows of the person may be in the weights.
        (
            {"outcome": "not_applicable", "finding": NOT_IN_WEIGHTS},
            ["not proved that the weights never saw"],
            ["The model was changed", "an audit compared", "no row trained"],
        ),
        (
            {"outcome": "exact", "finding": None},
            ["not proved that the weights never saw"],
            ["The model was changed", "an audit compared", "trained without the erased rows, so"],
        ),
    ],
)
def test_page_states_no_more_than_the_fields(
    changes: dict[str, Any], present: list[str], absent: list[str]
) -> None:
    text = shown(**changes)
    for part in present:
        assert part in text
    for part in absent:
        assert part not in text


def test_content_without_fields_is_called_not_recorded() -> None:
    text = Read(certificate_page(signed({"request_id": "req_1"}))).text.split("How to verify")[0]
    assert "not recorded" in text
    for claim in ("Approximate.", "Exact.", "unlinked", "All data of one person"):
        assert claim not in text


def test_certificates_of_the_first_version_have_a_page() -> None:
    text = Read(certificate_page(json.loads(FIXTURE.read_text()))).text
    assert "does not state whether the deletion is exact" in text
    assert "DSSE" not in text
    assert "DSSE" in Read(certificate_page(signed(full_content()))).text


def test_texts_of_the_certificate_are_escaped() -> None:
    page = certificate_page(signed(full_content(HOSTILE, request_id=HOSTILE, key_id=HOSTILE)))
    read = Read(page)
    tags = [tag for tag, _ in read.elements]
    assert tags.count("script") == 1
    assert "img" not in tags
    assert not any(name.startswith("on") for _, attributes in read.elements for name in attributes)
    assert read.text.count("{{ 7 * 7 }}") >= 12
    assert "49" not in re.sub(r"[0-9a-f]{64}", "", read.text)
    elsewhere = signed(full_content(request_id="../../etc/passwd"))
    assert page_name(elsewhere) == "certificate-request-1.html"


@pytest.mark.parametrize("text", ["plain", HOSTILE, "<!--", "]]>", "\u2028 é"])
def test_embedded_envelope_is_the_envelope(text: str) -> None:
    for envelope in (
        signed(full_content(text)),
        sign_first_version(SIGNER, {"figures": {"auc": 3.0}, "note": text}),
    ):
        page = certificate_page(envelope)
        assert json.loads(embedded_in(page)) == envelope
        assert certificate_page(json.loads(embedded_in(page))) == page


def test_page_needs_no_resource_and_no_script() -> None:
    page = certificate_page(signed(full_content()))
    read = Read(page)
    assert page.startswith("<!doctype html>")
    for tag, attributes in read.elements:
        assert not {"src", "style", "action"} & set(attributes)
        assert attributes.get("href", "#").startswith("#"), tag
    assert [a["type"] for tag, a in read.elements if tag == "script"] == ["application/json"]
    assert "url(" not in CSS
    assert "@import" not in CSS
    assert [a["lang"] for tag, a in read.elements if tag == "html"] == ["en"]
    assert "<title>Deletion certificate 1 of req_" in page


def test_policy_allows_the_style_of_the_page_and_nothing_else() -> None:
    page = certificate_page(signed(full_content()))
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    only_own_style = f"default-src 'none'; style-src 'sha256-{digest}'"
    embedded = f"{only_own_style}; base-uri 'none'; form-action 'none'"
    metas = [a for tag, a in Read(page).elements if tag == "meta" and "http-equiv" in a]
    assert [meta["content"] for meta in metas] == [embedded]
    assert content_security_policy() == f"{embedded}; frame-ancestors 'none'"


@pytest.mark.parametrize(
    "changes",
    [
        {"rows_deleted": 5},
        {"finding": {"sentence": "x", "interval": [1]}},
        {"finding": {"sentence": "x", "interval": ["a", "b"], "share": None}},
        {"jobs": [5]},
        {"shredded": ["x"]},
        {"exact": 5},
        {"open": 7},
    ],
)
def test_malformed_content_is_an_invalid_certificate(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidCertificateError):
        certificate_page(signed(full_content(**changes)))


def _contrast(first: str, second: str) -> float:
    """Return the contrast of two colors by WCAG 2.2."""

    def luminance(color: str) -> float:
        channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colors_have_the_contrast_of_wcag_aa() -> None:
    palettes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{([^}]*)\}", CSS)
    ]
    assert len(palettes) == 3  # Light, dark and print.
    for palette in palettes:
        for text in ("text", "muted", "accent"):
            for ground in ("page", "box"):
                assert _contrast(palette[text], palette[ground]) >= 4.5
        assert _contrast(palette["warn"], palette["page"]) >= 3.0
