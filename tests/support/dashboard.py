"""Fixtures: the dashboard in a browser, and a server with an untrained release."""

from __future__ import annotations

import os
import shutil
import threading
from typing import TYPE_CHECKING

import pytest
import uvicorn
from playwright.sync_api import Page, sync_playwright

from app.services.secrets import load_signer
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastapi import FastAPI

    from tests.support.gateway_world import World


@pytest.fixture(scope="module")
def browser_path() -> str:
    path = os.environ.get("LETHE_TEST_CHROMIUM") or shutil.which("chromium")
    if path is None:
        reason = "there is no Chromium: install it or set LETHE_TEST_CHROMIUM"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture
def page(browser_path: str) -> Iterator[Page]:
    """Return a page that fails the test on script errors and policy violations."""
    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        context = browser.new_context(accept_downloads=True)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console",
            # The browser reports every 4xx and 5xx answer as an error, which these tests expect.
            lambda message: (
                errors.append(message.text)
                if message.type == "error" and "Failed to load resource" not in message.text
                else None
            ),
        )
        yield page
        context.close()
        browser.close()
    assert errors == []


class Server:
    """uvicorn in a thread, on a free port."""

    def __init__(self, app: FastAPI) -> None:
        self._server = uvicorn.Server(
            uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=2)
        )
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> str:
        self._thread.start()
        wait_until(lambda: self._server.started, "the server does not start")
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture
def address(world: World) -> Iterator[str]:
    lease, name = world.publish(1)
    world.flip(lease, name)
    with Server(world.app()) as url:
        wait_until(lambda: any(replica.serving for replica in world.live_replicas()), "not serving")
        yield url


def save_certificate(page: Page, directory: Path) -> Path:
    """Press the button `Certificate` and return the path of the saved file."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Certificate").click()
    saved = directory / "certificate.json"
    download.value.save_as(saved)
    return saved


def public_pem(world: World) -> bytes:
    return load_signer(world.settings).public_pem()
