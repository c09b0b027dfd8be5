"""Commands with --url call the service; the installation on this machine is not opened."""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING

import pytest
import structlog
from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse
from pydantic import SecretStr

from app.domain.catalog import Interaction
from app.services.jobs import start_training
from app.services.secrets import load_signer
from app.services.signing_keys import register
from tests.support.command_line import document, lethe
from tests.support.dashboard import Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.gateway_world import World

KEY = "the-key-of-the-service"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Keep the log of the service, which runs in this process, out of the commands' output."""
    wrapper = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=wrapper)
    yield
    structlog.reset_defaults()


@pytest.fixture
def service(world: World, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve another installation than that of this machine, which must stay untouched."""
    with Server(world.app(api_keys=(SecretStr(KEY),))) as url:
        monkeypatch.setenv("LETHE_URL", url)
        monkeypatch.setenv("LETHE_KEY", KEY)
        yield
    assert not home.exists()


@pytest.mark.usefixtures("service")
class TestCalls:
    def test_requests_are_recorded_listed_and_changed(self, world: World) -> None:
        one = document("forget", "u1", "--reference", "DSR-7", "--reason", "legal")
        assert (one["status"], one["reason"], one["reference"]) == ("scheduled", "legal", "DSR-7")
        assert "An earlier request covers" in lethe("forget", "u1").stdout
        several = document("forget", "u2", "no-such-user", "u1")
        assert [each["result"] for each in several["items"]] == ["recorded", "failed", "covered"]
        assert several["items"][1]["error"]["code"] == "unknown-user"
        with world.uow() as uow:
            uow.people.upsert_interactions(
                [Interaction(user_id="u3", item_id="i1", rating=4.0, timestamp=9)], version=0
            )
        pair = document("forget", "u3", "--item", "i1")
        assert pair["scope"] == "user_items"
        with world.uow() as uow:
            assert uow.requests.get(one["id"]).reference == "DSR-7"

        for options, ids in (
            (("--reference", "DSR-7"), [one["id"]]),
            (("--status", "on_hold", "--status", "dead"), []),
            (("--user", "u3"), [pair["id"]]),
            (("--overdue",), []),
            (("--created-before", "2020-01-01T00:00:00+01:00"), []),
            (("--limit", "1"), [pair["id"]]),
        ):
            page = document("requests", "list", *options)
            assert [request["id"] for request in page["items"]] == ids, options

        assert document("requests", "show", one["id"])["id"] == one["id"]
        assert document("requests", "hold", one["id"])["status"] == "on_hold"
        assert document("requests", "release", one["id"])["status"] == "scheduled"
        assert document("requests", "cancel", one["id"])["status"] == "cancelled"
        # The deletion is not completed yet.
        assert document("consent", "u2")["error"]["code"] == "conflict"

    def test_jobs_releases_and_keys(self, world: World) -> None:
        with world.uow() as uow:
            job_id = start_training(uow).id
            key_id = register(uow, load_signer(world.settings)).key_id
        document("forget", "u4")
        listed = lethe("jobs")
        assert listed.stdout.split("\t")[0] == job_id
        assert f"1 deletion request(s) wait for the end of the training {job_id}" in listed.stderr
        assert document("jobs", job_id)["findings"] == []
        assert document("jobs", "cancel", job_id)["status"] == "cancelled"
        assert document("releases")["items"] == []
        assert [key["key_id"] for key in document("keys")["keys"]] == [key_id]
        refused = lethe("keys", "rotate")
        assert (refused.exit_code, "without --url" in refused.stderr) == (2, True)

    def test_errors_of_the_service_are_one_line(self) -> None:
        for arguments, status, text in (
            (("requests", "show", "req_0"), 1, "does not exist"),
            (("requests", "show", ".."), 2, "is no id"),
            (("requests", "list", "--limit", "0"), 2, "limit"),
            (("requests", "certificate", "req_0"), 1, "does not exist"),
            (("forget", "a\x01b"), 2, "control characters"),
            (("jobs", "--key", "wrong"), 1, "LETHE_KEY"),
            (("jobs", "--key", "k\ney"), 2, "Check --key"),
        ):
            ended = lethe(*arguments)
            assert (ended.exit_code, text in ended.stderr) == (status, True), ended.output
            assert (ended.stdout, len(ended.stderr.splitlines())) == ("", 1)

    def test_wrong_key_stops_after_the_first_user(self) -> None:
        ended = lethe("forget", "u1", "u2", "--key", "wrong", "--json")
        codes = [item["error"]["code"] for item in json.loads(ended.stdout)["items"]]
        assert (ended.exit_code, codes) == (1, ["unauthorised", "not-tried"])


def test_wait_ends_with_the_completion(world: World, home: Path) -> None:
    """The command starts no worker, because the service has its own."""
    world.settings = world.settings.model_copy(update={"cancel_window": 0.0})
    request_id = world.forget("u2")
    with Server(world.app()) as url:
        worker = threading.Thread(target=world.complete)
        worker.start()
        answer = document("forget", "u2", "--wait", "--url", url)
        worker.join()
    assert (answer["id"], answer["status"]) == (request_id, "completed")
    assert not home.exists()


def test_certificate_is_saved_and_verified(world: World, tmp_path: Path) -> None:
    world.settings = world.settings.model_copy(update={"cancel_window": 0.0})
    request_id = world.forget("u2")
    with Server(world.app()) as url:
        early = lethe("requests", "certificate", request_id, "--url", url)
        assert (early.exit_code, early.stdout) == (1, "")
        world.complete()
        saved, keys = tmp_path / "certificate.json", tmp_path / "keys.json"
        ended = lethe("requests", "certificate", request_id, "--url", url, "--out", str(saved))
        assert ended.exit_code == 0
        printed = lethe("requests", "certificate", request_id, "--url", url, "--number", "1")
        assert printed.stdout == saved.read_text()
        keys.write_text(lethe("keys", "--url", url, "--json").stdout)
    assert document("verify", str(saved), "--key", str(keys))["valid"] is True


@pytest.fixture(scope="module")
def another_service() -> Iterator[str]:
    """Serve a program that is not Lethe."""
    gateway = FastAPI()
    gateway.get("/odd/readyz")(lambda: {"status": "ok"})
    gateway.get("/list/readyz")(lambda: [1])
    gateway.get("/text/readyz")(lambda: PlainTextResponse("ok"))
    gateway.get("/moved/readyz")(lambda: RedirectResponse("https://host/readyz"))
    problem = {"type": "/problems/odd", "detail": "\x1b]0;title\x07 \u202eodd [red]"}
    gateway.get("/hostile/forget/{request_id}")(lambda: JSONResponse(problem, 404))
    with Server(gateway) as url:
        yield url


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("odd", "does not answer like Lethe"),
        ("list", "does not answer like Lethe"),
        ("text", "does not answer like Lethe"),
        ("moved", "redirects to https://host/readyz"),
    ],
)
def test_doctor_says_that_another_program_answers(
    another_service: str, path: str, message: str
) -> None:
    (check,) = document("doctor", "--url", f"{another_service}/{path}/")["checks"]
    assert (check["ok"], message in check["text"]) == (False, True), check


def test_message_of_a_service_gives_no_orders_to_the_terminal(another_service: str) -> None:
    ended = lethe("requests", "show", "req_1", "--url", f"{another_service}/hostile")
    assert (ended.exit_code, ended.stderr) == (1, "\\x1b]0;title\\x07 \\u202eodd [red]\n")


@pytest.mark.parametrize(
    ("url", "proxy", "status"),
    [
        # An empty variable: the command must not change the installation on this machine.
        ("", None, 2),
        ("http://a..b:80", None, 2),
        (f"http://{'a' * 64}.example", None, 2),
        ("http://127.0.0.1:1/?page=1", None, 2),
        ("http://127.0.0.1:1/#part", None, 2),
        ("http://host.invalid", "http://127.0.0.1:port", 2),
        ("http://host.invalid", "socks5://127.0.0.1:1", 2),
        ("http://host.invalid", "odd://name:the-secret@127.0.0.1:1", 2),
        ("http://name:the-secret@127.0.0.1:1/path", None, 1),
    ],
)
def test_bad_address_or_proxy_is_one_line_without_passwords(
    monkeypatch: pytest.MonkeyPatch, url: str, proxy: str | None, status: int
) -> None:
    if proxy is not None:
        monkeypatch.setenv("ALL_PROXY", proxy)
    ended = lethe("requests", "list", "--url", url)
    assert (ended.exit_code, ended.stdout, len(ended.stderr.splitlines())) == (status, "", 1)
    assert "the-secret" not in ended.stderr
