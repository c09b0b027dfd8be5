"""Compute scores with a serving engine that holds one adapter per release.

An adapter's name is `lethe-<release id>`, and a release id is the digest of its content. So a name
is never reused for other content, and a prefix cache that survives reloading an adapter is
harmless.

Prompts are sent as token ids, so that the engine scores exactly the tokens of the training. User
ids are never sent. The engine caches the states of prompts, which contain users' histories. A
random salt per user and release separates these states. When a user is forgotten, the salt is
discarded: no query can reach the states any more, and the engine overwrites them when it needs
memory. Clearing the whole cache (vLLM's `/reset_prefix_cache` in development mode, SGLang's
`/flush_cache` while idle) is left to operators, because it slows down the next answer of every
user.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import numpy as np

from app.domain.errors import ReleaseLostError
from app.serving.scorers.engine_client import EngineClient, GoldenPrompts
from models.backbones.sources import load_tokens
from models.checkpoints.manifest import CheckpointError
from models.checkpoints.peft_export import write_peft

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from app.domain.releases import Release
    from app.serving.scorers.scorer import ScoringRequest
    from app.serving.scorers.wire import Wire
    from app.settings import Settings
    from app.storage.artifacts import ArtifactStore
    from models.checkpoints.manifest import Manifest
    from models.prompts.text_prompt import TextTokens

_PREFIX: Final = "lethe-"
#: Salts are kept for this many users; a user who returns later gets a new salt.
_MAX_SALTS: Final = 10_000


class EngineScorer:
    """Score with the adapter of one release."""

    def __init__(self, client: EngineClient, adapter: str, tokens: TextTokens) -> None:
        """Create a scorer of a loaded adapter; `tokens` writes the release's prompts."""
        self._client = client
        self._adapter = adapter
        self._tokens = tokens
        self._salts: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()
        self.lost = False
        #: The engine chooses the data type and does not report it.
        self.precision: str | None = None

    def score(self, request: ScoringRequest) -> NDArray[np.float32]:
        """Return [N] float32 P(Yes); raises EngineError."""
        rows = self._tokens.request_tokens(request.attributes, request.history, request.candidates)
        if not rows:
            return np.empty(0, dtype=np.float32)
        # A salt that is used once neither finds cached states nor lets others find these states.
        salt = self._salt(request.user_id) if request.keep else secrets.token_urlsafe(32)
        try:
            scores = self._client.score(self._adapter, rows, self._tokens.answers, salt)
        except ReleaseLostError:
            self.lost = True
            raise
        return np.array(scores, dtype=np.float32)

    def score_all(self, requests: Sequence[ScoringRequest]) -> list[NDArray[np.float32]]:
        return [self.score(request) for request in requests]

    def forget(self, user_id: str | None) -> None:
        """Discard the salt of this user, or of all users."""
        with self._lock:
            if user_id is None:
                self._salts.clear()
            self._salts.pop(user_id or "", None)

    def close(self) -> None:
        """Discard all salts."""
        self.forget(None)

    def _salt(self, user_id: str) -> str:
        with self._lock:
            salt = self._salts.setdefault(user_id, secrets.token_urlsafe(32))
            self._salts.move_to_end(user_id)
            if len(self._salts) > _MAX_SALTS:
                self._salts.popitem(last=False)
            return salt


class EngineBackend:
    """Load releases as adapters of a serving engine."""

    def __init__(self, settings: Settings, artifacts: ArtifactStore, wire: Wire) -> None:
        """Create the backend; nothing is loaded yet."""
        self._artifacts = artifacts
        self._adapters_as_seen_by_engine = settings.engine_adapters.rstrip("/")
        self._client = EngineClient(settings, wire)

    def load(self, release: Release, directory: Path, manifest: Manifest) -> EngineScorer:
        """Write the adapter to a directory that the engine reads, load it, and verify its scores.

        Raises CheckpointError, EngineError or OSError.
        """
        golden, tokens = GoldenPrompts.of(manifest), _load_tokens(manifest)
        adapter = _PREFIX + release.id
        self._client.load(adapter, self._write_adapter(release, directory, manifest))
        self._client.await_golden(adapter, golden, tokens.answers)
        return EngineScorer(self._client, adapter, tokens)

    def loaded_release_ids(self) -> set[str]:
        """Return the release ids of all adapters in the engine or on disk."""
        names = {name for name in self._client.names() if name.startswith(_PREFIX)}
        return {name.removeprefix(_PREFIX) for name in names} | set(self._artifacts.adapters())

    def unload(self, release_id: str) -> None:
        """Unload the adapter, verify that it is gone, and delete its files."""
        self._client.unload(_PREFIX + release_id)
        self._artifacts.remove(self._artifacts.adapter_path(release_id))

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _write_adapter(self, release: Release, directory: Path, manifest: Manifest) -> str:
        """Write the adapter in PEFT's format and return its path as seen by the engine."""
        try:
            with self._artifacts.writing_adapter(release.id) as target:
                write_peft(directory, manifest, target)
        except OSError:
            # Another gateway on this machine may have written the same adapter concurrently.
            if release.id not in self._artifacts.adapters():
                raise
        relative = self._artifacts.adapter_path(release.id)
        # Race: a deletion may shred the release and its copies before this copy is written. The
        # check comes after the write, so that either the shredding or this check sees the copy.
        if not self._artifacts.exists(release.path):
            self._artifacts.remove(relative)
            raise CheckpointError(f"release {release.id} is gone")
        if self._adapters_as_seen_by_engine:
            return f"{self._adapters_as_seen_by_engine}/{release.id}"
        return str(self._artifacts.local_path(relative))


def _load_tokens(manifest: Manifest) -> TextTokens:
    """Return the writer of the release's prompts as token ids.

    Raises CheckpointError if the writer would produce other tokens than the training did.
    """
    name = manifest.content.get("backbone", {}).get("name", "")
    try:
        tokens = load_tokens(name, manifest.content.get("prompt", {}).get("wording", ""))
    except ValueError as error:
        raise CheckpointError(f"an engine cannot serve this release: {error}") from error
    if tokens.manifest() != manifest.content.get("prompt"):
        raise CheckpointError(
            f"the tokenizer of {name} has changed since the release was trained; restore the"
            " tokenizer of that time"
        )
    return tokens
