"""HTTP client for the REST API of a running service."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

import httpx

from app.api.auth import is_loopback
from app.cli.failures import BadInputError, CommandError

if TYPE_CHECKING:
    from app.settings import Settings

_TIMEOUT_SECONDS: Final = 30.0


class ServiceError(CommandError):
    """The service returned a problem; `status` is the HTTP status, `document` the JSON if any."""

    def __init__(self, status: int, code: str, detail: str, document: Any = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.document = document


class Service:
    """Calls the REST API and raises ServiceError for a problem document."""

    def __init__(self, url: str, api_key: str | None) -> None:
        try:
            parsed = httpx.URL(url)
            parsed.raw_host.decode().encode("idna")  # As the socket does, for the name's length.
        except (httpx.InvalidURL, UnicodeError):
            parsed = httpx.URL()
        is_address = parsed.host and not parsed.query and not parsed.fragment
        if parsed.scheme not in {"http", "https"} or not is_address:
            raise BadInputError(
                f"{url!r} is no address of a service. Use the form http://host:8000"
            )
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise BadInputError("The API key has characters that no key has. Check --key.")
        #: The address for messages, without the password that the address may have.
        self.url = str(parsed.copy_with(userinfo=b"")).rstrip("/")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            self._http = httpx.Client(
                base_url=parsed,
                headers=headers,
                timeout=_TIMEOUT_SECONDS,
                # A proxy from the environment cannot reach the loopback address of this machine.
                trust_env=not is_loopback(parsed.host),
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise BadInputError(
                f"The proxy of the environment (HTTP_PROXY, ALL_PROXY) cannot be used: {error}"
            ) from error

    @classmethod
    def of(cls, settings: Settings, url: str | None = None, key: str | None = None) -> Self:
        """Return a client for `url` with `key`, or for address and first key of the settings."""
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        keys = [secret.get_secret_value() for secret in settings.api_keys[:1]]
        address = f"http://{host}:{settings.port}" if url is None else url
        return cls(address, key or next(iter(keys), None))

    def call(self, method: str, path: str, **options: Any) -> Any:
        """Send a request and return the JSON of the response."""
        return self.answer(method, path, **options)[1]

    def answer(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Send a request and return the status and the JSON of the response."""
        try:
            response = self._http.request(method, path, **options)
        except httpx.ConnectError as error:
            raise CommandError(
                f"No service answers at {self.url}. Start the service with: lethe up. For a service"
                " at another address, give --url"
            ) from error
        except httpx.TimeoutException as error:
            raise CommandError(
                f"The service at {self.url} did not answer within {_TIMEOUT_SECONDS:.0f} s."
                " Try again, and check the service with: lethe doctor"
            ) from error
        except httpx.HTTPError as error:
            raise CommandError(f"Invalid response from {self.url}: {error}") from error
        if response.is_error:
            raise _error_of(response)
        if response.has_redirect_location:
            address = response.headers["Location"]
            raise CommandError(
                f"{self.url} redirects to {address}. Give the address of the service with --url"
            )
        try:
            document = response.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise self._not_lethe()
        return response.status_code, document

    def get(self, path: str, **parameters: Any) -> Any:
        """Call GET; parameters that are None are left out."""
        given = {name: value for name, value in parameters.items() if value is not None}
        return self.call("GET", path, params=given)

    def readiness(self) -> dict[str, Any]:
        """Return the answer of /readyz, also of a replica that is not ready."""
        try:
            document = self.get("/readyz")
        except ServiceError as error:
            document = error.document
            if not isinstance(document, dict) or "reasons" not in document:
                raise
        if "reasons" not in document:
            raise self._not_lethe()
        return dict(document)

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

    def _not_lethe(self) -> CommandError:
        return CommandError(
            f"{self.url} does not answer like Lethe. Check that Lethe runs at this address."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()


def _error_of(response: httpx.Response) -> ServiceError | BadInputError:
    """Return the error of a response with a status of 400 or more."""
    status = response.status_code
    try:
        document = response.json()
    except ValueError:
        document = None
    try:
        detail = str(document["detail"])
        code = str(document["type"]).rsplit(":", 1)[-1].rsplit("/", 1)[-1]
    except (KeyError, TypeError):
        return ServiceError(status, "http", f"The service returned {status}.", document)
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        parts = document.get("errors", ())
        invalid = [f"{part['location'][-1]}: {part['detail']}" for part in parts]
        return BadInputError("; ".join(invalid) or detail)
    if status == HTTPStatus.UNAUTHORIZED:
        detail += " Give the key with --key, or set LETHE_KEY."
    return ServiceError(status, code, detail, document)
