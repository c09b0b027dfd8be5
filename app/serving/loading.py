"""Brings a published release into memory and checks it. Knows artefacts; nothing of leases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.serving.scorers.torch_scorer import TorchScorer
from app.serving.twin import Twin
from models import checkpoints

if TYPE_CHECKING:
    from app.domain.releases import Release
    from app.serving.scorers.torch_scorer import ScoringPolicy
    from app.storage.artifacts import ArtifactStore


class ReleaseLoader:
    """Loads releases from the store of artefacts."""

    def __init__(self, artifacts: ArtifactStore, policy: ScoringPolicy) -> None:
        """Remember where the artefacts are, and how much a release may take."""
        self._artifacts = artifacts
        self._policy = policy

    def __call__(self, release: Release) -> Twin:
        """Return the release as a twin; raises CheckpointError or OSError.

        `checkpoints.load` checks the digest against the manifest and repeats the golden prompts;
        the manifest itself is checked against what the database says of the release. The weights
        are read into memory, so that a download need not outlive the loading.
        """
        directory = self._artifacts.local_path(release.path)
        try:
            manifest = checkpoints.read_manifest(directory)
            if manifest.digest != release.digest:
                raise checkpoints.CheckpointError(
                    f"release {release.id} is recorded with another digest than its manifest's"
                )
            return Twin(release.id, TorchScorer(checkpoints.load(directory), self._policy))
        finally:
            self._artifacts.evict(release.path)
