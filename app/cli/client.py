"""HTTP client for the REST API of a running service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

import httpx

from app.api.auth import is_loopback
from app.cli.failures import BadInputError, CommandError

if TYPE_CHECKING:
    from app.settings import Settings

_TIMEOUT_SECONDS: Final = 30.0
_UNPROCESSABLE: Final = 422


class ServiceError(CommandError):
    """The service returned a problem document; `status` is the HTTP status."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code


class Service:
    """Calls the REST API and raises ServiceError for a problem document."""

    def __init__(self, url: str, api_key: str | None) -> None:
        parsed = httpx.URL(url)
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise BadInputError(f"{url} is no address of a service. Use the form http://host:8000")
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=_TIMEOUT_SECONDS,
            # A proxy from the environment cannot reach the loopback address of this machine.
            trust_env=not is_loopback(parsed.host),
        )

    @classmethod
    def of(cls, settings: Settings, url: str | None = None) -> Self:
        """Return a client for `url`, or for the address in the settings."""
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        keys = settings.api_keys
        return cls(
            url or f"http://{host}:{settings.port}", keys[0].get_secret_value() if keys else None
        )

    def call(self, method: str, path: str, **options: Any) -> Any:
        """Send a request and return the JSON of the response."""
        try:
            response = self._http.request(method, path, **options)
        except httpx.ConnectError as error:
            raise CommandError(
                f"No service answers at {self.url}. Start it with: lethe up"
            ) from error
        except httpx.HTTPError as error:
            raise CommandError(f"Invalid response from {self.url}: {error}") from error
        if response.is_error:
            raise _error_of(response)
        try:
            return response.json()
        except ValueError as error:
            raise CommandError(
                f"The answer from {self.url} is not JSON. Check that Lethe runs at this address."
            ) from error

    def get(self, path: str, **parameters: Any) -> Any:
        return self.call("GET", path, params=parameters)

    def recommend(self, user_id: str, n: int) -> Any:
        """Call GET /recommend; the user id may contain any character."""
        if user_id in {".", ".."}:
            # Clients and proxies resolve these segments of a path, so the id is sent in the body.
            return self.call("POST", "/recommend", json={"user_id": user_id, "n": n})
        return self.get(f"/recommend/{quote(user_id, safe='')}", n=n)

    def is_up(self) -> bool:
        """Return whether the gateway process answers."""
        try:
            return self._http.get("/healthz", timeout=2.0).is_success
        except httpx.HTTPError:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()


def _error_of(response: httpx.Response) -> ServiceError | BadInputError:
    try:
        document = response.json()
        detail = str(document["detail"])
        code = str(document["type"]).rsplit(":", 1)[-1].rsplit("/", 1)[-1]
    except (ValueError, KeyError, TypeError):
        return ServiceError(
            response.status_code, "http", f"The service returned {response.status_code}."
        )
    if response.status_code == _UNPROCESSABLE:
        return BadInputError(detail)
    return ServiceError(response.status_code, code, detail)
