"""Certificates and their public keys over the REST API."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from app.domain.certificates import CertificateKind
from app.services.secrets import load_signer
from app.services.signatures import verify, verify_certificate
from app.services.signing_keys import rotate, trusted_keys
from tests.support.gateway_world import client_of

if TYPE_CHECKING:
    import httpx

    from tests.support.gateway_world import World


def get(world: World, path: str, settings: dict[str, Any] | None = None) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with client_of(world.app(**(settings or {}))) as client:
            return await client.get(path)

    return asyncio.run(ask())


@pytest.fixture
def completed(world: World) -> str:
    """Return the id of a completed deletion request."""
    return world.forget_now("u2")


def test_newest_certificate_and_all_certificates(world: World, completed: str) -> None:
    newest = get(world, f"/forget/{completed}/certificate").json()
    items = get(world, f"/forget/{completed}/certificates").json()["items"]
    assert [(item["number"], item["kind"]) for item in items] == [(1, "deletion")]
    assert items[0]["certificate"] == newest
    content = verify_certificate(newest, load_signer(world.settings).public_pem())
    assert content["request_id"] == completed
    assert "u2" not in json.dumps(content)


def test_certificate_is_returned_by_its_number(world: World, completed: str) -> None:
    path = f"/forget/{completed}/certificate"
    with world.uow() as uow:
        (first,) = uow.certificates.of_request(completed)
        second = replace(first, number=2, kind=CertificateKind.EXACT, envelope={"n": 2})
        uow.certificates.add([second])
    assert get(world, path).json() == {"n": 2}
    assert get(world, f"{path}?number=2").json() == {"n": 2}
    assert get(world, f"{path}?number=1").json() == first.envelope
    unknown = get(world, f"{path}?number=3")
    assert (unknown.status_code, unknown.json()["type"]) == (404, "/problems/unknown-certificate")
    assert get(world, f"{path}?number=0").status_code == 422


def test_open_request_has_no_certificates(world: World) -> None:
    request_id = world.forget("u2")
    assert get(world, f"/forget/{request_id}/certificates").json() == {"items": []}
    problem = get(world, f"/forget/{request_id}/certificate").json()
    assert problem["type"] == "/problems/certificate-not-ready"
    unknown = get(world, "/forget/req_x/certificates").json()
    assert unknown["type"] == "/problems/unknown-request"


def test_published_keys_verify_certificates_after_a_rotation(world: World, completed: str) -> None:
    with world.uow() as uow:
        rotate(uow, world.settings)
    certificate = get(world, f"/forget/{completed}/certificate").json()
    document = get(world, "/.well-known/lethe-keys").json()
    assert [key["retired_at"] is None for key in document["keys"]] == [False, True]
    assert verify(certificate, trusted_keys(document)).content["request_id"] == completed


def test_published_keys_are_public_and_hold_no_private_key(world: World, completed: str) -> None:
    settings = {"api_keys": (SecretStr("the-key"),)}
    assert get(world, f"/forget/{completed}/certificate", settings).status_code == 401
    answer = get(world, "/.well-known/lethe-keys", settings)
    assert answer.status_code == 200
    assert "PRIVATE" not in answer.text


def test_keys_are_an_empty_list_before_the_first_worker(world: World) -> None:
    assert get(world, "/.well-known/lethe-keys").json() == {"keys": []}
