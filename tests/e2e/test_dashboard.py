"""The dashboard in a browser, against a server with an untrained release."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
import pytest
from playwright.sync_api import Page, expect
from pydantic import SecretStr

from app.domain.certificates import Certificate, CertificateKind
from app.services.secrets import load_signer
from app.services.signatures import verify_certificate
from tests.support.dashboard import (
    Server,
    address,
    browser_path,
    page,
    public_pem,
    save_certificate,
)
from tests.support.first_version_certificates import sign_first_version
from tests.support.gateway_world import World, world

if TYPE_CHECKING:
    from pathlib import Path


__all__ = ["address", "browser_path", "page", "world"]
pytestmark = [pytest.mark.slow, pytest.mark.browser]


def test_recommend_forget_cancel_and_download(
    world: World, address: str, page: Page, tmp_path: Path
) -> None:
    page.goto(address)
    expect(page.locator("#service")).to_have_text("ready")
    expect(page.locator("#requests")).to_contain_text("No deletion requests yet.")

    page.locator("#recommend-form input[name=user]").fill("u1")
    page.locator("#recommend-form button").click()
    expect(page.locator("#recommendations li")).to_have_count(10)

    forget = page.locator("#forget-form")
    forget.locator("input[name=user]").fill("u1")
    forget.locator("button").click()
    expect(page.locator("#confirm-title")).to_have_text("Forget user u1?")
    page.locator("#confirm button[value=no]").click()
    expect(page.locator("#confirm")).to_be_hidden()
    with world.uow(write=False) as uow:
        assert uow.requests.page(1, None) == []
    forget.locator("button").click()
    page.locator("#confirm-yes").click()
    expect(page.locator("#forget-result")).to_contain_text("scheduled")
    expect(page.locator("#requests tbody tr")).to_have_count(1)

    page.locator("#recommend-form button").click()
    expect(page.locator("#recommendations")).to_contain_text("open deletion request")

    page.get_by_role("button", name="Hold").click()
    expect(page.locator("#requests")).to_contain_text("on hold")
    page.get_by_role("button", name="Release").click()
    expect(page.locator("#requests")).to_contain_text("scheduled")
    page.get_by_role("button", name="Cancel").click()
    page.locator("#confirm-yes").click()
    expect(page.locator("#requests")).to_contain_text("cancelled")

    world.settings = world.settings.model_copy(update={"cancel_window": 0.0})
    request = world.forget("u2")
    world.complete()
    saved = save_certificate(page, tmp_path)
    verified = verify_certificate(json.loads(saved.read_text()), public_pem(world))
    assert verified["request_id"] == request


def test_saved_certificate_is_byte_for_byte_what_curl_saves(
    world: World, address: str, page: Page, tmp_path: Path
) -> None:
    """JavaScript would write 3.0 as 3; a program that does so does not break the new format."""
    world.settings = world.settings.model_copy(update={"cancel_window": 0.0})
    request = world.forget("u2")
    world.complete()
    page.goto(address)
    saved = save_certificate(page, tmp_path)
    path = f"/forget/{request}/certificate"
    assert saved.read_bytes() == httpx.get(address + path, trust_env=False).content
    rewritten = page.evaluate(
        "async (path) => JSON.stringify(JSON.parse(await (await fetch(path)).text()), null, 2)",
        path,
    )
    assert verify_certificate(json.loads(rewritten), public_pem(world))["request_id"] == request


def test_saved_certificate_of_an_earlier_version_verifies(
    world: World, address: str, page: Page, tmp_path: Path
) -> None:
    world.settings = world.settings.model_copy(update={"cancel_window": 0.0})
    request = world.forget("u2")
    world.complete()
    signer = load_signer(world.settings)
    payload = {"request_id": request, "figures": {"auc": 3.0}, "completed_at": None}
    with world.uow() as uow:
        # The newest certificate is the one that the button saves.
        earlier = sign_first_version(signer, payload)
        uow.certificates.add(
            [
                Certificate(
                    request_id=request,
                    number=2,
                    kind=CertificateKind.DELETION,
                    envelope=earlier,
                    created_at=uow.state.now(),
                )
            ]
        )
    page.goto(address)
    saved = save_certificate(page, tmp_path)
    assert verify_certificate(json.loads(saved.read_text()), signer.public_pem()) == payload


def test_certificate_is_saved_with_an_api_key(world: World, page: Page, tmp_path: Path) -> None:
    world.settings = world.settings.model_copy(update={"cancel_window": 0.0})
    request = world.forget("u2")
    world.complete()
    with Server(world.app(api_keys=(SecretStr("the-key"),))) as address:
        page.goto(address)
        page.locator("#key-button").click()
        page.locator("#key-input").fill("the-key")
        page.locator("#key-dialog button[value=yes]").click()
        saved = save_certificate(page, tmp_path)
    verified = verify_certificate(json.loads(saved.read_text()), public_pem(world))
    assert verified["request_id"] == request


def test_titles_are_shown_as_text(world: World, address: str, page: Page) -> None:
    markup = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>"
    with world.uow() as uow:
        uow.people.upsert_items([(f"i{n}", markup, {"genre": ["Drama"]}) for n in range(30)])
        uow.state.bump("items")
    page.goto(address)
    page.locator("#recommend-form input[name=user]").fill("u1")
    page.locator("#recommend-form button").click()
    expect(page.locator("#recommendations li").first).to_contain_text("<b>bold</b>")
    assert page.locator("#recommendations img, #recommendations b").count() == 0
    assert page.title() == "Lethe"


def test_api_key_is_requested_and_stored_in_the_tab_only(world: World, page: Page) -> None:
    with Server(world.app(api_keys=(SecretStr("the-key"),))) as address:
        page.goto(address)
        expect(page.locator("#notice")).to_contain_text("An API key is needed")
        page.locator("#key-button").click()
        page.locator("#key-input").fill("the-key")
        page.locator("#key-dialog button[value=yes]").click()
        expect(page.locator("#notice")).to_be_hidden()
        expect(page.locator("#jobs")).to_contain_text("No job has run yet.")
        page.reload()
        expect(page.locator("#jobs")).to_contain_text("No job has run yet.")
        assert page.evaluate("localStorage.length") == 0
        assert page.context.cookies() == []


def test_missing_worker_is_reported(world: World, page: Page) -> None:
    with Server(world.app()) as address:
        page.goto(address)
        expect(page.locator("#warnings")).to_contain_text("No worker runs")
        with world.uow() as uow:
            uow.workers.beat("w", "machine-7", 1, world.settings.job_lease)
        expect(page.locator("#warnings")).to_be_empty()


def test_unreachable_server_is_reported_until_it_answers(world: World, page: Page) -> None:
    with Server(world.app()) as address:
        page.goto(address)
        expect(page.locator("#releases")).to_contain_text("No release yet.")
        page.context.set_offline(offline=True)
        expect(page.locator("#notice")).to_contain_text("cannot be reached")
        page.context.set_offline(offline=False)
        expect(page.locator("#notice")).to_be_hidden()
