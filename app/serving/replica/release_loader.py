"""Brings a published release where it is scored, and checks it. Knows artefacts, not leases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.serving.replica.live_model import LoadedModel
from app.serving.scorers.engine_scorer import EngineBackend
from app.serving.scorers.sglang import SglangWire
from app.serving.scorers.vllm import VllmWire
from models.backbones.packaged import keep_in
from models.checkpoints.manifest import CheckpointError, read_manifest

if TYPE_CHECKING:
    from app.domain.releases import Release
    from app.serving.scorers.scorer import ScorerBackend
    from app.settings import Settings
    from app.storage.artifacts import ArtifactStore


class ReleaseLoader:
    """Loads releases from the store of artefacts."""

    def __init__(self, artifacts: ArtifactStore, scorers: ScorerBackend) -> None:
        """Remember where the artefacts are, and what makes scorers of them."""
        self._artifacts = artifacts
        self.scorers = scorers

    def __call__(self, release: Release) -> LoadedModel:
        """Return the release as a twin; raises CheckpointError, EngineError or OSError.

        The manifest is checked against what the database says of the release; the scorers check the
        weights against the manifest and repeat the golden prompts. A download does not outlive the
        loading.
        """
        directory = self._artifacts.local_path(release.path)
        try:
            manifest = read_manifest(directory)
            if manifest.digest != release.digest:
                raise CheckpointError(
                    f"release {release.id} is recorded with another digest than its manifest's"
                )
            return LoadedModel(release.id, self.scorers.load(release, directory, manifest))
        finally:
            self._artifacts.evict(release.path)


def make_scorer_backend(settings: Settings, artifacts: ArtifactStore) -> ScorerBackend:
    """Return what computes scores, as the settings say; torch is imported for `torch` only."""
    keep_in(settings.backbones_directory)
    if settings.scorer == "torch":
        from app.serving.scorers.torch_scorer import TorchBackend  # noqa: PLC0415 -- see above

        return TorchBackend(settings)
    wire = VllmWire() if settings.scorer == "vllm" else SglangWire()
    return EngineBackend(settings, artifacts, wire)
