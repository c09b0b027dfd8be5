"""What the dashboard says about each request and about batches, with figures of real judgments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

from app.domain.jobs import JobKind
from app.services import jobs
from models.audit.outcomes import INCONCLUSIVE, PASSED
from tests.support.dashboard import address, browser_path, page
from tests.support.gateway_world import World, world
from tests.support.judged_batches import ITEM, judged_batch, judged_request, request_of

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["address", "browser_path", "page", "world"]
pytestmark = [pytest.mark.slow, pytest.mark.browser]


def test_each_request_shows_what_its_own_audit_says(
    world: World, address: str, page: Page, tmp_path: Path
) -> None:
    world.settings = world.settings.model_copy(update={"cancel_window": 0.0})
    unsure = next(u for u, v in judged_batch().persons.items() if v.outcome == INCONCLUSIVE)
    passed = next(u for u, v in judged_batch().persons.items() if v.outcome == PASSED)
    requests = [world.forget("u1"), world.forget("u2"), world.forget(item_id="i1")]
    names = [request_of(passed), request_of(unsure), ITEM]
    world.complete(dict(zip(requests, map(judged_request, names), strict=True)))
    with world.uow() as uow:
        job = jobs.start_training(uow, JobKind.RENEW, {})
        claimed = jobs.claim(uow, "t", world.settings)
        assert claimed is not None
        tried = {"attempt": "try-0", "method": "e2urec-fast", "outcome": judged_batch().outcome}
        membership = {"before": {"auc": 0.8125}, "after": {"auc": 0.5625}}
        audit = judged_batch().figures | {"membership": membership}
        metrics = {"tries": [tried | {"audit": audit, "training": {}}]}
        jobs.advance(uow, claimed[1], metrics=metrics)
    page.goto(address)
    rows = page.locator("#requests tbody tr")
    expect(rows).to_have_count(3)
    for row in rows.all():
        row.locator("details").evaluate("details => { details.open = true; }")
    # Newest first: the item, the person who cannot be told, the person who passed.
    expect(rows.nth(0)).to_contain_text("training rows of 32 people: the audit passed for")
    expect(rows.nth(1)).to_contain_text("The audit cannot tell from 50 rows whether this person")
    expect(rows.nth(1)).not_to_contain_text("passed")
    expect(rows.nth(2)).to_contain_text("The audit passed: the answers about this person changed")
    card = page.locator(f'#jobs article[aria-label="Job {job.id}"]')
    people = judged_batch().figures["people"]["passed"]
    summary = f"Audit of the batch: passed ({people} of 32 people passed)"
    expect(card.locator("summary")).to_have_text(summary)
    card.locator("details").evaluate("details => { details.open = true; }")
    expect(card).to_contain_text("32 people in the batch: the audit passed for")
    membership_row = card.locator("tr", has_text="Membership AUC")
    expect(membership_row).to_contain_text("0.8125")
    expect(membership_row).to_contain_text("0.5625")
    page.screenshot(path=tmp_path / "findings.png", full_page=True)
