"""What the dashboard shows of exactness: assurance, deadlines, both certificates, renewals."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Page, expect

from app.domain.certificates import CertificateKind
from app.domain.jobs import JobKind
from app.domain.requests import Assurance
from app.services import jobs
from app.services.certificates import content_of, envelope_digest, issue
from app.services.secrets import load_signer
from app.services.signatures import verify_certificate
from tests.support.dashboard import address, browser_path, page, public_pem
from tests.support.gateway_world import World, world

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["address", "browser_path", "page", "world"]
pytestmark = [pytest.mark.slow, pytest.mark.browser]


def make_exact(world: World, request_id: str) -> dict[str, Any]:
    """Make the completed deletion exact as a renewal does, and return the second certificate."""
    signer = load_signer(world.settings)
    with world.uow() as uow:
        request = uow.requests.get(request_id)
        (first,) = uow.certificates.of_request(request_id)
        cites = {"number": 1, "sha256": envelope_digest(first.envelope)}
        content = content_of(first.envelope) | {"method": "retrain", "cites": cites}
        envelope = issue(uow, signer, request, CertificateKind.EXACT, content)
        changes = {"assurance": Assurance.EXACT, "exact_at": uow.state.now()}
        assert uow.requests.change_status(request, [request.status], **changes)
    return envelope


def test_both_certificates_of_an_exact_deletion_are_compared_and_saved(
    world: World, address: str, page: Page, tmp_path: Path
) -> None:
    world.settings = world.settings.model_copy(update={"cancel_window": 0.0})
    request = world.forget("u2")
    world.complete()
    page.goto(address)
    row = page.locator("#requests tbody tr")
    expect(row).to_contain_text("approximate")
    expect(row).to_contain_text("due ")
    expect(page.get_by_role("button", name="Compare")).to_have_count(0)
    second = make_exact(world, request)
    expect(row).to_contain_text("since ")
    assert saved_by(page, "Certificate deletion", tmp_path) == second
    page.get_by_role("button", name="Compare").click()
    cells = page.locator("#compare-table tbody tr", has_text="Cites").locator("td")
    expect(cells.nth(1)).to_have_text("–")
    expect(cells.nth(2)).to_contain_text("1: ")
    first = saved_by(page, "Save certificate 1", tmp_path)
    cited = verify_certificate(second, public_pem(world))["cites"]
    assert cited == {"number": 1, "sha256": envelope_digest(first)}
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#compare")).to_be_hidden()


def saved_by(page: Page, button: str, directory: Path) -> Any:
    """Press the button and return the JSON of the saved file."""
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    saved = directory / "saved.json"
    download.value.save_as(saved)
    return json.loads(saved.read_text())


def test_renewal_is_shown_with_its_reason(world: World, address: str, page: Page) -> None:
    settings = {"reason": "drift", "seed": 0, "preemptions": 1}
    with world.uow() as uow:
        job = jobs.start_training(uow, JobKind.RENEW, settings)
    page.goto(address)
    expect(page.locator("#jobs article").first).to_contain_text("the loss has drifted")
    with world.uow() as uow:
        jobs.cancel(uow, job.id)
    expect(page.locator("#jobs article").first).to_contain_text("cancelled")


def test_late_deletion_is_marked(world: World, address: str, page: Page) -> None:
    world.settings = world.settings.model_copy(update={"cancel_window": 0.0, "exact_days": 1e-9})
    world.forget("u2")
    page.goto(address)
    expect(page.locator("#requests .late")).to_contain_text("late, due")
