"""The page of a certificate in a browser: policy, narrow screens, dark colors, print, no script."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from app.services.secrets import load_signer
from tests.support.certificates import HOSTILE, full_content
from tests.support.command_line import document
from tests.support.dashboard import Server, browser_path, page, public_pem
from tests.support.gateway_world import world

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.support.gateway_world import World

__all__ = ["browser_path", "page", "world"]

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.fixture
def address(world: World) -> Iterator[str]:
    """Serve the page of a certificate with hostile texts in every field."""
    world.settings = world.settings.model_copy(update={"cancel_window": 0.0})
    request_id = world.forget("u2")
    world.complete()
    signer = load_signer(world.settings)
    content = full_content(HOSTILE, request_id=request_id, number=2, key_id=signer.key_id)
    envelope = signer.sign(content, name=HOSTILE, sha256="d" * 64)
    with world.uow() as uow:
        (first,) = uow.certificates.of_request(request_id)
        uow.certificates.add([replace(first, number=2, envelope=envelope)])
    with Server(world.app()) as url:
        yield f"{url}/forget/{request_id}/certificate.html"


def test_page_is_shown_under_its_policy(page: Page, address: str) -> None:
    """The fixture `page` fails on errors of scripts and on violations of the policy."""
    page.on("dialog", lambda _: pytest.fail("a script of the certificate ran"))
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(address)
    assert [url for url in requested if "favicon" not in url] == [address]
    assert page.title().startswith("Deletion certificate 2 of req_")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(255, 255, 255)"
    assert page.locator("svg").count() == 3
    assert page.locator("img").count() == 0
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"


@pytest.mark.parametrize("width", [320, 1200])
def test_page_needs_no_horizontal_scrolling(page: Page, address: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 700})
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = page.locator("svg text").evaluate_all(
        "texts => texts.map(text => text.getBoundingClientRect().right)"
    )
    assert max(boxes) <= width
    # Labels of 12 units stay legible.
    sizes = page.locator("svg").evaluate_all(
        "drawings => drawings.map(svg => svg.getBoundingClientRect().width / 360)"
    )
    assert min(sizes) >= 0.75


def test_page_can_be_printed(page: Page, address: str, tmp_path: Path) -> None:
    page.goto(address)
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    printed = tmp_path / "page.pdf"
    page.pdf(path=printed, prefer_css_page_size=True)
    assert printed.read_bytes().startswith(b"%PDF")


def test_saved_page_is_verified(
    page: Page, address: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes that the browser received are the page that `lethe verify` expects."""
    response = page.goto(address)
    assert response is not None
    saved, key = tmp_path / "saved.html", tmp_path / "public.pem"
    saved.write_bytes(response.body())
    key.write_bytes(public_pem(world))
    monkeypatch.setenv("LETHE_HOME", str(tmp_path / "elsewhere"))
    answer = document("verify", str(saved), "--key", str(key))
    assert answer["payload"]["number"] == 2
