"""Brings a published release where it is scored, and checks it. Knows artefacts, not leases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.serving.replica.live_model import ServingModel
from app.serving.scorers.engine import EngineScorers
from app.serving.scorers.sglang import SglangWire
from app.serving.scorers.vllm import VllmWire
from models.backbones.packaged import set_cache_directory
from models.checkpoints.manifest import CheckpointError, read_manifest

if TYPE_CHECKING:
    from app.domain.releases import Release
    from app.serving.scorers.base import Scorers
    from app.settings import Settings
    from app.storage.artifacts import ArtifactStore


class ReleaseLoader:
    """Loads releases from the store of artefacts."""

    def __init__(self, artifacts: ArtifactStore, scorers: Scorers) -> None:
        """Remember where the artefacts are, and what makes scorers of them."""
        self._artifacts = artifacts
        self.scorers = scorers

    def __call__(self, release: Release) -> ServingModel:
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
            return ServingModel(release.id, self.scorers.load(release, directory, manifest))
        finally:
            self._artifacts.evict(release.path)


def make_scorers(settings: Settings, artifacts: ArtifactStore) -> Scorers:
    """Return what computes scores, as the settings say; torch is imported for `torch` only."""
    set_cache_directory(settings.backbones_directory)
    if settings.scorer == "torch":
        from app.serving.scorers.torch_scorer import TorchScorers  # noqa: PLC0415 -- see above

        return TorchScorers(settings)
    wire = VllmWire() if settings.scorer == "vllm" else SglangWire()
    return EngineScorers(settings, artifacts, wire)
