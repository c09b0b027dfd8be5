"""Builds a recommender from what a manifest says of it: the one place that knows every kind.

Adding a kind of backbone is one line here. Knows nothing of files or of training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.adapter_mixture import AdapterEnsemble
from models.backbones import CompactConfig, UnknownBackboneError, compact_from_manifest
from models.ensembles import ADAPTERS, EnsembleConfig, OutputEnsemble, ensemble_from_manifest
from models.recommender import Recommender

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.backbones import BackboneConfig
    from models.vocabulary import Vocabulary


def backbone_from_manifest(manifest: Mapping[str, Any]) -> BackboneConfig:
    """Rebuild the settings of a backbone; raises UnknownBackboneError."""
    if manifest.get("kind") == "ensemble":
        return ensemble_from_manifest(manifest, backbone_from_manifest(manifest["member"]))
    return compact_from_manifest(manifest)


def build(vocabulary: Vocabulary, config: BackboneConfig) -> Recommender:
    """Return a recommender with its initial weights; raises UnknownBackboneError."""
    if isinstance(config, CompactConfig):
        return Recommender(vocabulary, config)
    if isinstance(config, EnsembleConfig):
        if config.aggregation == ADAPTERS:
            return AdapterEnsemble(vocabulary, config, build(vocabulary, config.member))
        members = [build(vocabulary, member) for member in config.members()]
        return OutputEnsemble(vocabulary, config, members)
    raise UnknownBackboneError(UnknownBackboneError.__doc__)
