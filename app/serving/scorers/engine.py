"""Scores with a serving engine over HTTP: what all engines share, whatever their wire format.

An adapter has one name for ever, `lethe-<release id>`, and the id is the digest of what is in it:
nothing is reloaded under a name with other content, so that a prefix cache that survives a reload
is harmless. An engine is believed in nothing. What counts as loaded is an adapter whose answers to
the release's golden prompts are those of torch in fp32, asked until they are or the time is over,
since loading may be answered too early. What counts as unloaded is a name that is no longer listed
and that is asked once more and refused. One that is there already is held to the same: a crashed
gateway, or a sibling on the same engine, may have loaded it.

Prompts go as token ids, so that they are those the model was trained on; nobody's id ever goes.
An engine keeps states of what it read, people's histories among it. They are kept apart by a random
salt for each person and release, which is thrown away when the person is forgotten: nothing can
reach the states any more, and the engine's need for room overwrites them. Emptying all of it
(vLLM's `/reset_prefix_cache` in its development mode, SGLang's `/flush_cache` while it is idle) is
left to operators: it takes everybody's states at the cost of everybody's next answer.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import httpx
import numpy as np

from app.domain.errors import EngineError, ReleaseLostError
from app.serving.scorers.wire import Prompts
from models.backbones.sources import load_tokens
from models.checkpoints.manifest import CheckpointError
from models.checkpoints.peft_export import write_peft

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from app.domain.releases import Release
    from app.serving.scorers.base import ScoringRequest
    from app.serving.scorers.wire import Wire
    from app.settings import Settings
    from app.storage.artifacts import ArtifactStore
    from models.checkpoints.manifest import Manifest
    from models.prompts.text_prompt import TextTokens

_PREFIX: Final = "lethe-"
#: In probability. bf16 moves it by up to a tenth, which no check could tell from another adapter.
GOLDEN_TOLERANCE: Final = 1e-3
#: A connection that breaks is tried so often: questions and orders may all be repeated.
_ATTEMPTS: Final = 3
#: Between two looks at whether a loaded adapter answers rightly, in seconds.
_LOOK_EVERY: Final = 0.1
#: Salts of so many people are kept; who comes back later has a new one.
_MOST_SALTS: Final = 10_000
#: How engines refuse a name that they do not know.
_UNKNOWN: Final = frozenset({400, 404})


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """A release's golden prompts, and what torch in fp32 made of them."""

    rows: list[list[int]]
    scores: list[float]

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Read them from a manifest; raises CheckpointError."""
        try:
            golden = manifest.content["golden"]
            pairs = zip(golden["tokens"], golden["mask"], strict=True)
            rows = [[t for t, there in zip(*pair, strict=True) if there] for pair in pairs]
            scores = [1 / (1 + math.exp(no - yes)) for yes, no in golden["reference"]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError("the manifest has no golden prompts in words") from error
        if not all(rows) or not len(rows) == len(scores) > 0:
            raise CheckpointError("the manifest's golden prompts and answers do not match")
        return cls(rows=rows, scores=scores)


class EngineScorer:
    """One release, asked under its adapter's name."""

    def __init__(self, engine: Engine, adapter: str, tokens: TextTokens) -> None:
        self._engine = engine
        self._adapter = adapter
        self._tokens = tokens
        self._salts: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()
        self.lost = False

    def score(self, request: ScoringRequest) -> NDArray[np.float32]:
        """Return [N] float32 P(Yes); raises EngineError."""
        rows = self._tokens.request_tokens(request.attributes, request.history, request.candidates)
        if not rows:
            return np.empty(0, dtype=np.float32)
        # A salt that nobody remembers: no state is found by it, and none is found again.
        salt = self._salt(request.user_id) if request.keep else secrets.token_urlsafe(32)
        try:
            scores = self._engine.ask(self._adapter, rows, self._tokens.answers, salt)
        except ReleaseLostError:
            self.lost = True
            raise
        return np.array(scores, dtype=np.float32)

    def score_all(self, requests: Sequence[ScoringRequest]) -> list[NDArray[np.float32]]:
        return [self.score(request) for request in requests]

    def forget(self, user_id: str | None) -> None:
        """Throw away the one way to the states that the engine made from this person's history."""
        with self._lock:
            if user_id is None:
                self._salts.clear()
            self._salts.pop(user_id or "", None)

    def close(self) -> None:
        """Throw away all ways to the engine's states."""
        with self._lock:
            self._salts.clear()

    def _salt(self, user_id: str) -> str:
        with self._lock:
            salt = self._salts.setdefault(user_id, secrets.token_urlsafe(32))
            self._salts.move_to_end(user_id)
            if len(self._salts) > _MOST_SALTS:
                self._salts.popitem(last=False)
            return salt


class Engine:
    """The engine over HTTP. Thread-safe; every failure is an EngineError, never a wrong answer."""

    def __init__(self, settings: Settings, wire: Wire) -> None:
        self._wire = wire
        self._timeout = settings.engine_timeout
        key = settings.engine_key
        self._client = httpx.Client(
            base_url=settings.engine_url,
            headers={"Authorization": f"Bearer {key.get_secret_value()}"} if key else {},
            timeout=settings.engine_timeout,
            # Beside the threads that score there is the one that loads.
            limits=httpx.Limits(max_connections=settings.threads_that_score + 1),
            # Histories go to the engine and through no proxy of the environment.
            trust_env=False,
        )

    def close(self) -> None:
        self._client.close()

    def names(self) -> set[str]:
        """Return the names that the engine answers under."""
        response = self._call("GET", "/v1/models")
        try:
            response.raise_for_status()
            return {str(model["id"]) for model in response.json()["data"]}
        except (httpx.HTTPStatusError, ValueError, KeyError, TypeError) as error:
            raise EngineError(f"The engine lists no models ({response.status_code}).") from error

    def ask(
        self, adapter: str, rows: Sequence[list[int]], answers: tuple[int, int], salt: str
    ) -> list[float]:
        """Return P(first answer) for each prompt; raises ReleaseLostError for an unknown name."""
        prompts = Prompts.of(rows)
        response = self._post(self._wire.query(adapter, prompts, answers, salt))
        if response.status_code in _UNKNOWN and adapter not in self.names():
            raise ReleaseLostError
        if response.status_code != httpx.codes.OK:
            raise EngineError(f"The engine answered {response.status_code} to a question.")
        try:
            scores = self._wire.scores(response.json(), adapter, prompts)
            return [_probability(score) for score in scores]
        except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
            raise EngineError(f"The engine's answer is not one: {error}.") from error

    def load(self, adapter: str, path: str) -> None:
        """Have the adapter loaded, unless it is there; whether it answers rightly is not known."""
        if adapter in self.names():
            return
        response = self._post(self._wire.load(adapter, path))
        # A sibling may have been faster: what counts is whether it is there now.
        if response.status_code != httpx.codes.OK and adapter not in self.names():
            raise EngineError(
                f"The engine does not load {path} ({response.status_code}): see its log, and"
                " LETHE_ENGINE_ADAPTERS where it sees the artefacts elsewhere."
            )

    def await_golden(self, adapter: str, golden: Golden, answers: tuple[int, int]) -> None:
        """Return once the adapter answers its golden prompts as torch does; raises EngineError."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                # A new salt each time: no cached state may answer for the weights.
                found = self.ask(adapter, golden.rows, answers, secrets.token_urlsafe(32))
                pairs = zip(found, golden.scores, strict=True)
                off = max(abs(one - other) for one, other in pairs)
                if off <= GOLDEN_TOLERANCE:
                    return
                why = f"they are off by {off:.2g}; the engine must compute in float32"
            except EngineError as error:
                why = str(error)
            if time.monotonic() >= deadline:
                raise EngineError(f"{adapter} does not answer its golden prompts: {why}.")
            time.sleep(_LOOK_EVERY)

    def unload(self, adapter: str) -> None:
        """Have the adapter unloaded and see that asking for it fails; raises EngineError."""
        if adapter in self.names():
            self._post(self._wire.unload(adapter))  # What it answers is not believed.
        if adapter in self.names():
            raise EngineError(f"The engine was told to unload {adapter}, and still lists it.")
        anything = Prompts.of([[0, 0]])
        response = self._post(self._wire.query(adapter, anything, (0, 1), "none"))
        if response.status_code not in _UNKNOWN:
            raise EngineError(
                f"{adapter} is unloaded, but asking for it was answered {response.status_code}."
            )

    def _post(self, call: tuple[str, dict[str, Any]]) -> httpx.Response:
        return self._call("POST", *call)

    def _call(
        self, method: str, path: str, content: dict[str, Any] | None = None
    ) -> httpx.Response:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._client.request(method, path, json=content)
            except httpx.TimeoutException as error:
                raise EngineError(f"The engine is silent for {self._timeout:g} seconds.") from error
            except httpx.TransportError as error:
                if attempt == _ATTEMPTS:
                    raise EngineError("The engine cannot be reached.") from error
        raise EngineError


class EngineScorers:
    """Implements `base.Scorers` for adapters that an engine has loaded."""

    def __init__(self, settings: Settings, artifacts: ArtifactStore, wire: Wire) -> None:
        self._artifacts = artifacts
        self._seen_under = settings.engine_adapters.rstrip("/")
        self._engine = Engine(settings, wire)

    def load(self, release: Release, directory: Path, manifest: Manifest) -> EngineScorer:
        """Write the adapter where the engine reads it, have it loaded, and check its answers.

        Raises CheckpointError, EngineError or OSError.
        """
        golden, tokens = Golden.of(manifest), _tokens(manifest)
        adapter = _PREFIX + release.id
        self._engine.load(adapter, self._written(release, directory, manifest))
        self._engine.await_golden(adapter, golden, tokens.answers)
        return EngineScorer(self._engine, adapter, tokens)

    def held(self) -> set[str]:
        """Return whose adapter the engine has, or still lies written for it."""
        names = {name for name in self._engine.names() if name.startswith(_PREFIX)}
        return {name.removeprefix(_PREFIX) for name in names} | set(self._artifacts.adapters())

    def unload(self, release_id: str) -> None:
        """Have the adapter unloaded, see that it is gone, and unlink what the engine had read."""
        self._engine.unload(_PREFIX + release_id)
        self._artifacts.remove(self._artifacts.adapter_path(release_id))

    def close(self) -> None:
        self._engine.close()

    def _written(self, release: Release, directory: Path, manifest: Manifest) -> str:
        """Write the adapter as PEFT does and return where the engine sees it."""
        try:
            with self._artifacts.writing_adapter(release.id) as target:
                write_peft(directory, manifest, target)
        except OSError:
            # A sibling on this machine wrote the same at the same moment.
            if release.id not in self._artifacts.adapters():
                raise
        relative = self._artifacts.adapter_path(release.id)
        if not self._artifacts.exists(release.path):
            # It was shredded meanwhile, and with it the copies that lay there by then.
            self._artifacts.remove(relative)
            raise CheckpointError(f"release {release.id} is gone")
        if self._seen_under:
            return f"{self._seen_under}/{release.id}"
        return str(self._artifacts.local_path(relative))


def _tokens(manifest: Manifest) -> TextTokens:
    """Return what writes the release's prompts; raises CheckpointError where it would differ."""
    name = manifest.content.get("backbone", {}).get("name", "")
    try:
        tokens = load_tokens(name, manifest.content.get("prompt", {}).get("wording", ""))
    except ValueError as error:
        raise CheckpointError(f"an engine cannot serve this release: {error}") from error
    if tokens.manifest() != manifest.content.get("prompt"):
        raise CheckpointError(
            f"the tokenizer of {name} has changed since the release was made: bring back the one"
            " that it was trained with"
        )
    return tokens


def _probability(score: Any) -> float:
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise ValueError(f"{score!r} is no probability")
    return float(score)
