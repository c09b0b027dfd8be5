"""Load a published release into memory or into the serving engine, and verify it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.serving.replica.live_model import LoadedModel
from app.serving.scorers.engine_scorer import EngineBackend
from app.serving.scorers.sglang import SglangWire
from app.serving.scorers.vllm import VllmWire
from models.backbones.packaged import set_cache_directory
from models.checkpoints.manifest import CheckpointError, read_manifest

if TYPE_CHECKING:
    from app.domain.releases import Release
    from app.serving.scorers.scorer import ScorerBackend
    from app.settings import Settings
    from app.storage.artifacts import ArtifactStore


class ReleaseLoader:
    """Load releases from the artifact store."""

    def __init__(self, artifacts: ArtifactStore, backend: ScorerBackend) -> None:
        """Create a loader that reads from `artifacts` and scores with `backend`."""
        self._artifacts = artifacts
        self.backend = backend

    def __call__(self, release: Release) -> LoadedModel:
        """Load and verify the release; raises CheckpointError, EngineError or OSError.

        The loader checks the manifest against the digest in the database. The backend checks the
        weights against the manifest and repeats the golden prompts. A downloaded copy is deleted
        after loading, by the last process that reads the copy.
        """
        try:
            with self._artifacts.reading(release.path) as directory:
                manifest = read_manifest(directory)
                if manifest.digest != release.digest:
                    raise CheckpointError(
                        f"release {release.id} has another digest in its manifest than in the"
                        " database"
                    )
                return LoadedModel(release.id, self.backend.load(release, directory, manifest))
        finally:
            self._artifacts.evict(release.path)

    def clear_cache(self) -> None:
        """Delete copies on this machine that no process uses; a dead process leaves such copies."""
        self._artifacts.remove_incoming()
        self._artifacts.evict_all()


def make_scorer_backend(settings: Settings, artifacts: ArtifactStore) -> ScorerBackend:
    """Return the scorer backend that `settings.scorer` selects."""
    set_cache_directory(settings.backbones_directory)
    if settings.scorer == "torch":
        # A gateway in front of a serving engine runs without torch installed.
        from app.serving.scorers.torch_scorer import TorchBackend  # noqa: PLC0415 -- see above

        return TorchBackend(settings)
    wire = VllmWire() if settings.scorer == "vllm" else SglangWire()
    return EngineBackend(settings, artifacts, wire)
