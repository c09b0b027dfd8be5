"""Call a serving engine over HTTP: score prompts, load and unload adapters, and verify both.

The client does not trust the engine's status messages. An adapter counts as loaded once its scores
of the release's golden prompts match those of torch in fp32; the client repeats the prompts until
they match or a timeout ends, because engines report a load as done too early. An adapter counts as
unloaded once its name is no longer listed and a query for the name is refused. Adapters that are
already loaded are verified in the same way: a crashed gateway, or another gateway on the same
engine, may have loaded them.
"""

from __future__ import annotations

import math
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import httpx

from app.domain.errors import EngineError, ReleaseLostError
from app.serving.scorers.wire import Prompts
from models.checkpoints.manifest import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.serving.scorers.wire import Wire
    from app.settings import Settings
    from models.checkpoints.manifest import Manifest

#: The allowed difference of golden scores, as a probability. bf16 changes scores by up to 0.1, and
#: no check could distinguish that from the scores of another adapter.
GOLDEN_TOLERANCE: Final = 1e-3
#: Attempts per call when the connection breaks. All calls are idempotent.
_MAX_ATTEMPTS: Final = 3
#: Seconds between two checks of a new adapter's golden scores.
_GOLDEN_RETRY_SECONDS: Final = 0.1
#: The statuses with which engines refuse an unknown adapter name.
_UNKNOWN_STATUSES: Final = frozenset({400, 404})


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenPrompts:
    """A release's golden prompts as token ids, and their P(Yes) computed by torch in fp32."""

    rows: list[list[int]]
    scores: list[float]

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Read the golden prompts of a manifest; raises CheckpointError."""
        try:
            golden = manifest.content["golden"]
            pairs = zip(golden["tokens"], golden["mask"], strict=True)
            rows = [
                [token for token, is_token in zip(*pair, strict=True) if is_token] for pair in pairs
            ]
            scores = [1 / (1 + math.exp(no - yes)) for yes, no in golden["reference"]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError("the manifest has no golden prompts of a text model") from error
        if not all(rows) or not len(rows) == len(scores) > 0:
            raise CheckpointError("the manifest's golden prompts and reference scores do not match")
        return cls(rows=rows, scores=scores)


class EngineClient:
    """A client of one engine. Thread-safe; every failure raises EngineError."""

    def __init__(self, settings: Settings, wire: Wire) -> None:
        """Create the client; the first call connects."""
        self._wire = wire
        self._timeout = settings.engine_timeout
        key = settings.engine_key
        self._http = httpx.Client(
            base_url=settings.engine_url,
            headers={"Authorization": f"Bearer {key.get_secret_value()}"} if key else {},
            timeout=settings.engine_timeout,
            # One connection per scoring thread, and one for the thread that loads.
            limits=httpx.Limits(max_connections=settings.threads_that_score + 1),
            # Users' histories must not pass through a proxy from the environment.
            trust_env=False,
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def names(self) -> set[str]:
        """Return the names of the base model and of all loaded adapters."""
        response = self._call("GET", "/v1/models")
        try:
            response.raise_for_status()
            return {str(model["id"]) for model in response.json()["data"]}
        except (httpx.HTTPStatusError, ValueError, KeyError, TypeError) as error:
            raise EngineError(f"The engine lists no models ({response.status_code}).") from error

    def score(
        self, adapter: str, rows: Sequence[list[int]], answers: tuple[int, int], salt: str
    ) -> list[float]:
        """Return P(first answer token) for each prompt.

        Raises ReleaseLostError if the adapter is not loaded, and EngineError otherwise.
        """
        prompts = Prompts.of(rows)
        response = self._post(self._wire.query(adapter, prompts, answers, salt))
        if response.status_code in _UNKNOWN_STATUSES and adapter not in self.names():
            raise ReleaseLostError
        if response.status_code != httpx.codes.OK:
            raise EngineError(f"The engine answered a query with status {response.status_code}.")
        try:
            scores = self._wire.scores(response.json(), adapter, prompts)
            return [_checked_probability(score) for score in scores]
        except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
            raise EngineError(f"The engine's response is invalid: {error}.") from error

    def load(self, adapter: str, path: str) -> None:
        """Load the adapter unless it is listed; `await_golden` verifies the result."""
        if adapter in self.names():
            return
        response = self._post(self._wire.load(adapter, path))
        # Another gateway may have loaded the adapter since it was listed; then loading fails, but
        # the adapter is there.
        if response.status_code != httpx.codes.OK and adapter not in self.names():
            raise EngineError(
                f"The engine cannot load {path} (status {response.status_code}). See the engine's"
                " log, and set LETHE_ENGINE_ADAPTERS if the engine sees the adapters at another"
                " path."
            )

    def await_golden(self, adapter: str, golden: GoldenPrompts, answers: tuple[int, int]) -> None:
        """Wait until the adapter's golden scores match torch's; raises EngineError on timeout."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                # A new salt for each try: cached states must not hide wrong weights.
                scores = self.score(adapter, golden.rows, answers, secrets.token_urlsafe(32))
                pairs = zip(scores, golden.scores, strict=True)
                difference = max(abs(score - reference) for score, reference in pairs)
                if difference <= GOLDEN_TOLERANCE:
                    return
                reason = (
                    f"the scores differ by {difference:.2g}; the engine must compute in float32"
                )
            except EngineError as error:
                reason = str(error)
            if time.monotonic() >= deadline:
                raise EngineError(f"{adapter} does not reproduce its golden prompts: {reason}.")
            time.sleep(_GOLDEN_RETRY_SECONDS)

    def unload(self, adapter: str) -> None:
        """Unload the adapter and verify that queries for it fail; raises EngineError."""
        if adapter in self.names():
            # The status is ignored: the checks below decide.
            self._post(self._wire.unload(adapter))
        if adapter in self.names():
            raise EngineError(f"The engine still lists {adapter} after unloading it.")
        any_prompt = Prompts.of([[0, 0]])
        response = self._post(self._wire.query(adapter, any_prompt, (0, 1), "none"))
        if response.status_code not in _UNKNOWN_STATUSES:
            raise EngineError(
                f"{adapter} is unloaded, but a query for it got status {response.status_code}."
            )

    def _post(self, call: tuple[str, dict[str, Any]]) -> httpx.Response:
        return self._call("POST", *call)

    def _call(
        self, method: str, path: str, content: dict[str, Any] | None = None
    ) -> httpx.Response:
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            try:
                return self._http.request(method, path, json=content)
            except httpx.TimeoutException as error:
                raise EngineError(
                    f"The engine did not answer within {self._timeout:g} seconds."
                ) from error
            except httpx.TransportError as error:
                if attempt == _MAX_ATTEMPTS:
                    raise EngineError("The engine cannot be reached.") from error
        raise EngineError


def _checked_probability(score: Any) -> float:
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise ValueError(f"{score!r} is not a probability")
    return float(score)
