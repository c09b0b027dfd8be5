"""The demo's comparison of both certificates, and its texts where no renewal starts at once."""

from __future__ import annotations

from typing import Any

import pytest

from app.cli.demo.second_certificate import (
    CheckedCertificate,
    certificate_comparison,
    reason_not_to_wait,
    state_at_completion,
)
from app.cli.failures import CommandError
from app.cli.installation import open_installation
from app.cli.screen import Screen
from app.services.certificates import envelope_digest
from app.services.signatures import VerifiedCertificate
from app.settings import Settings

APPROXIMATE = {"assurance": "approximate", "exact_due_at": "2026-12-29T10:00:00+00:00"}
FIRST = {
    "request_id": "req_1",
    "number": 1,
    "kind": "deletion",
    "method": "e2urec-fast",
    "outcome": "passed",
    "release": "rel_1",
    "requested_at": "2026-11-29T10:00:00+00:00",
    "issued_at": "2026-11-29T10:00:04.5+00:00",
}
SECOND = {
    **FIRST,
    "number": 2,
    "kind": "exact",
    "method": "retrain",
    "outcome": "exact",
    "release": "rel_2",
    "issued_at": "2026-11-29T10:00:45+00:00",
}


def certificate(content: dict[str, Any]) -> CheckedCertificate:
    verified = VerifiedCertificate(version=2, key_id="key", content=content)
    return CheckedCertificate({"payload": content}, verified)


def test_comparison_shows_times_and_the_cited_certificate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = certificate(FIRST)
    digest = envelope_digest(first.envelope)
    second = certificate({**SECOND, "cites": {"number": 1, "sha256": digest}})
    Screen.make(as_json=False).say(certificate_comparison(first, second))
    shown = capsys.readouterr().out
    assert "4.5 s" in shown
    assert "45.0 s" in shown
    assert f"1: {digest[:16]}…" in shown


@pytest.mark.parametrize("cited", [{"number": 1, "sha256": "0" * 64}, {"number": 2}])
def test_certificate_that_cites_another_one_is_refused(
    cited: dict[str, Any],
) -> None:
    first = certificate(FIRST)
    cites = {"sha256": envelope_digest(first.envelope), **cited}
    second = certificate({**SECOND, "cites": cites})
    with pytest.raises(CommandError, match="does not cite"):
        certificate_comparison(first, second)


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        ("off", "LETHE_EXACT is off"),
        ("deadline", "by 2026-12-29 10:00:00 UTC"),
        ("soon", None),
        (None, None),
    ],
)
def test_demo_waits_only_if_the_renewal_starts_at_once(
    monkeypatch: pytest.MonkeyPatch, mode: str | None, text: str | None
) -> None:
    if mode:
        monkeypatch.setenv("LETHE_EXACT", mode)
    with open_installation(Settings()) as installation:
        reason = reason_not_to_wait(installation, APPROXIMATE)
        exact = reason_not_to_wait(installation, {**APPROXIMATE, "assurance": "exact"})
    assert exact is not None
    assert "was exact when it completed" in exact
    assert (reason is None) if text is None else (reason is not None and text in reason)


def test_renewal_that_was_fast_is_shown_as_well() -> None:
    """On a slow machine, the deletion is exact before the demo looks for its renewal."""
    content = {**FIRST, "assurance": "approximate", "exact": {"due_at": None, "mode": "soon"}}
    with open_installation(Settings()) as installation:
        assert reason_not_to_wait(installation, state_at_completion(certificate(content))) is None
