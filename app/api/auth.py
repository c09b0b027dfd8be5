"""Access control: API keys as bearer tokens; without configured keys, loopback callers only.

Without keys, a web page in a local browser could send requests to loopback, also under a host name
that resolves to loopback. The checks of Host, Origin and Content-Type prevent this.
"""

from __future__ import annotations

import hmac
import ipaddress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from app.api.problems import DOMAIN_PROBLEMS, HTTP_PROBLEMS, problem
from app.domain.errors import InvalidInputError, UnauthorizedError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from app.api.problems import ProblemResponse
    from app.settings import Settings

#: Health checks, the dashboard's files and the public keys of certificates, which contain no data.
#: All other paths need a key.
PUBLIC_PATHS: Final = frozenset({"/", "/healthz", "/readyz", "/web/dashboard.css"}) | frozenset(
    {"/web/dashboard.js", "/web/icon.svg", "/.well-known/lethe-keys"}
)
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def is_loopback(address: str) -> bool:
    """Return whether an address, or the name `localhost`, is loopback."""
    try:
        parsed = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return address.lower() == "localhost"
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def check_binding(settings: Settings) -> None:
    """Raise InvalidInputError if a service without keys would listen on a network address."""
    if not settings.api_keys and not is_loopback(settings.host):
        raise InvalidInputError(
            f"Without LETHE_API_KEYS the gateway listens on loopback only, not on {settings.host}."
        )


class AccessGuard:
    """Middleware that refuses unauthorized requests before their body is read."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._keys = tuple(key.get_secret_value().encode() for key in settings.api_keys)
        self._hosts = _LOOPBACK_NAMES | {host.lower() for host in settings.allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = self._refusal(scope)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ProblemResponse | None:
        headers = Headers(scope=scope)
        check = self._check_key if self._keys else self._check_local
        refusal = check(scope, headers)
        if refusal is None and _has_body(headers) and not _is_json(headers):
            return problem(HTTP_PROBLEMS[415])
        return refusal

    def _check_key(self, scope: Scope, headers: Headers) -> ProblemResponse | None:
        if scope["path"] in PUBLIC_PATHS and scope["method"] in _SAFE_METHODS:
            return None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_key(token.strip().encode("latin-1")):
            return None
        return problem(DOMAIN_PROBLEMS[UnauthorizedError])

    def _is_key(self, token: bytes) -> bool:
        """Compare with every key in constant time, so that timing reveals nothing."""
        matches = [hmac.compare_digest(token, key) for key in self._keys]
        return any(matches)

    def _check_local(self, scope: Scope, headers: Headers) -> ProblemResponse | None:
        client = scope.get("client")
        if client is not None and not is_loopback(client[0]):
            return problem(HTTP_PROBLEMS[403])
        if not self._is_own_name(f"//{headers.get('host', '')}"):
            return problem(HTTP_PROBLEMS[421])
        if scope["method"] in _SAFE_METHODS:
            return None
        origin = headers.get("origin")
        foreign = origin is not None and not self._is_own_name(origin)
        if foreign or headers.get("sec-fetch-site") in {"cross-site", "same-site"}:
            return problem(HTTP_PROBLEMS[403], "Requests from other web sites may not change data.")
        return None

    def _is_own_name(self, url: str) -> bool:
        try:
            hostname = urlsplit(url).hostname
        except ValueError:
            return False
        return hostname is not None and hostname.rstrip(".") in self._hosts


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _is_json(headers: Headers) -> bool:
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    return content_type == "application/json"
