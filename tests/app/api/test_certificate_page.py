"""`GET /forget/{id}/certificate.html`: the page, its headers, its access and its description."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from app.cli.certificate_files import embedded_in
from app.domain.certificates import CertificateKind
from app.web.certificate_page import certificate_page, content_security_policy
from tests.support.gateway_world import client_of

if TYPE_CHECKING:
    import httpx

    from tests.support.gateway_world import World


def get(world: World, path: str, key: str | None = None, **settings: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        async with client_of(world.app(**settings), headers=headers) as client:
            return await client.get(path)

    return asyncio.run(ask())


@pytest.fixture
def completed(world: World) -> str:
    """Return the id of a completed deletion request."""
    return world.forget_now("u2")


def test_page_embeds_the_certificate_and_has_strict_headers(world: World, completed: str) -> None:
    answer = get(world, f"/forget/{completed}/certificate.html")
    envelope = get(world, f"/forget/{completed}/certificate").json()
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Security-Policy"] == content_security_policy()
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert f"certificate-{completed}-1.html" in answer.headers["Content-Disposition"]
    # Like the certificate: the page has pseudonyms of a person.
    assert answer.headers["Cache-Control"] == "no-store"
    assert json.loads(embedded_in(answer.text)) == envelope
    assert answer.text == certificate_page(envelope)
    assert "u2" not in answer.text.replace(completed, "").split("<script")[0].split("</style>")[1]


def test_page_is_chosen_by_number(world: World, completed: str) -> None:
    with world.uow() as uow:
        (first,) = uow.certificates.of_request(completed)
        second = replace(first, number=2, kind=CertificateKind.EXACT, envelope={"payload": {}})
        uow.certificates.add([second])
    path = f"/forget/{completed}/certificate.html"
    assert json.loads(embedded_in(get(world, f"{path}?number=1").text)) == first.envelope
    assert json.loads(embedded_in(get(world, path).text)) == {"payload": {}}
    unknown = get(world, f"{path}?number=3")
    assert (unknown.status_code, unknown.json()["type"]) == (404, "/problems/unknown-certificate")
    assert get(world, f"{path}?number=0").status_code == 422


def test_errors_are_those_of_the_certificate(world: World) -> None:
    request_id = world.forget("u2")
    for path in (f"/forget/{request_id}/certificate", "/forget/req_x/certificate"):
        page, json_answer = get(world, f"{path}.html"), get(world, path)
        assert page.status_code == json_answer.status_code == 404
        assert page.json()["type"] == json_answer.json()["type"]


def test_page_needs_a_key_like_the_certificate(world: World, completed: str) -> None:
    keys = {"api_keys": (SecretStr("the-key"),)}
    path = f"/forget/{completed}/certificate.html"
    assert get(world, path, **keys).status_code == 401
    assert get(world, path, "wrong", **keys).status_code == 401
    assert get(world, path, "the-key", **keys).status_code == 200


def test_description_has_the_page_with_its_errors(world: World) -> None:
    document = get(world, "/openapi.json").json()
    call = document["paths"]["/forget/{request_id}/certificate.html"]["get"]
    json_call = document["paths"]["/forget/{request_id}/certificate"]["get"]
    assert list(call["responses"]["200"]["content"]) == ["text/html"]
    assert set(call["responses"]) == set(json_call["responses"])
    assert [p["name"] for p in call["parameters"]] == [p["name"] for p in json_call["parameters"]]
