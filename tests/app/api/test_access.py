"""Access control: API keys, or loopback callers only if no keys are configured."""

from __future__ import annotations

import asyncio
import hmac
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from app.api import auth
from app.api.auth import check_binding, is_loopback
from app.domain.errors import InvalidInputError, UnauthorizedError
from tests.support.gateway_world import client_of

if TYPE_CHECKING:
    import httpx

    from tests.support.gateway_world import World

KEYS = {"api_keys": (SecretStr("first-key"), SecretStr("second-key"))}


def call(
    world: World,
    path: str = "/jobs",
    method: str = "GET",
    client: str = "127.0.0.1",
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with client_of(world.app(**(settings or {})), client=client) as http_client:
            return await http_client.request(method, path, **options)

    return asyncio.run(ask())


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("key", ["first-key", "second-key"])
def test_any_configured_key_gives_access_from_any_address(world: World, key: str) -> None:
    response = call(world, settings=KEYS, client="203.0.113.9", headers=bearer(key))
    assert response.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong"),
        bearer("first-ke"),
        bearer("first-keyy"),
        bearer(""),
        bearer("first-key,second-key"),
        {"Authorization": "Basic first-key"},
        {"Authorization": "first-key"},
        {"Authorization": b"Bearer \xff\xfe"},
    ],
)
def test_request_without_a_valid_key_is_refused(world: World, headers: dict[str, str]) -> None:
    response = call(world, settings=KEYS, headers=headers)
    assert response.status_code == 401
    assert response.json()["type"] == f"/problems/{UnauthorizedError.code}"
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/recommend/u1"),
        ("POST", "/forget"),
        ("GET", "/forget"),
        ("GET", "/releases"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/nowhere"),
        ("POST", "/"),
        ("POST", "/healthz"),
    ],
)
def test_all_paths_except_health_and_dashboard_need_a_key(
    world: World, method: str, path: str
) -> None:
    assert call(world, path, method, settings=KEYS).status_code == 401


@pytest.mark.parametrize("path", ["/healthz", "/", "/web/dashboard.js", "/web/dashboard.css"])
def test_health_and_dashboard_files_need_no_key(world: World, path: str) -> None:
    assert call(world, path, settings=KEYS, client="203.0.113.9").status_code == 200


def test_token_is_compared_with_every_key_in_constant_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[bytes] = []

    def recording_compare(token: bytes, key: bytes) -> bool:
        compared.append(key)
        return hmac.compare_digest(token, key)

    monkeypatch.setattr(auth, "hmac", SimpleNamespace(compare_digest=recording_compare))
    call(world, settings=KEYS, headers=bearer("first-key"))
    assert compared == [b"first-key", b"second-key"]


@pytest.mark.parametrize("client", ["203.0.113.9", "10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1"])
def test_without_keys_other_hosts_are_refused(world: World, client: str) -> None:
    assert call(world, client=client).status_code == 403


@pytest.mark.parametrize("client", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
def test_without_keys_loopback_has_access(world: World, client: str) -> None:
    assert call(world, client=client).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("lethe.internal", 200),
        ("attacker.example", 421),
        ("127.0.0.1.attacker.example", 421),
        ("localhost.attacker.example", 421),
        ("user@attacker.example", 421),
        ("[", 421),
        ("", 421),
    ],
)
def test_foreign_host_name_is_refused(world: World, host: str, status: int) -> None:
    settings = {"allowed_hosts": ("lethe.internal",)}
    assert call(world, settings=settings, headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://attacker.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_requests_from_other_sites_cannot_change_data(
    world: World, headers: dict[str, str]
) -> None:
    request = world.forget("u1")
    path = f"/forget/{request}/hold"
    assert call(world, path, "POST", headers=headers).status_code == 403
    own = {"Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"}
    assert call(world, path, "POST", headers=own).status_code == 200


@pytest.mark.parametrize("settings", [{}, KEYS])
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_body_needs_the_json_content_type(
    world: World, settings: dict[str, Any], kind: str
) -> None:
    headers = {"Content-Type": kind, **bearer("first-key")}
    body = b'{"user_id": "u1"}'
    response = call(world, "/forget", "POST", settings=settings, content=body, headers=headers)
    assert response.status_code == 415
    headers["Content-Type"] = "application/json; charset=utf-8"
    response = call(world, "/forget", "POST", settings=settings, content=body, headers=headers)
    assert response.status_code == 202


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "lethe.internal"])
def test_binding_to_a_network_address_needs_keys(world: World, host: str) -> None:
    settings = world.settings.model_copy(update={"host": host})
    with pytest.raises(InvalidInputError, match="LETHE_API_KEYS"):
        check_binding(settings)
    check_binding(settings.model_copy(update=KEYS))


def test_binding_to_loopback_needs_no_keys(world: World) -> None:
    check_binding(world.settings)
    assert is_loopback("[::1]")
