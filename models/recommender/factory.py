"""Build recommenders of every backbone kind, from a manifest or from a name given by a user.

To add a kind of backbone, add it to `_KINDS` and `_build`; a packaged model is added in
`models.backbones.packaged`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from models.backbones.compact import (
    CompactConfig,
    CompactT5Config,
    UnknownBackboneError,
    build_compact_t5,
)
from models.backbones.packaged import PACKAGED
from models.prompts.compact_prompt import CompactPrompt
from models.recommender.adapter_ensemble import AdapterEnsemble
from models.recommender.base import Recommender
from models.recommender.ensemble import (
    ADAPTERS,
    EnsembleConfig,
    OutputEnsemble,
    ensemble_from_manifest,
)
from models.recommender.language import CompactSequenceRecommender
from models.recommender.pretrained import HuggingFaceConfig, build_pretrained, parse_name
from models.runtime.devices import machine
from models.runtime.memory import checkpoint_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from models.backbones.compact import BackboneConfig
    from models.prompts.vocabulary import Vocabulary

_KINDS: Final[Mapping[str, Callable[..., BackboneConfig]]] = {
    "compact": CompactConfig,
    "compact-t5": CompactT5Config,
    "hf": HuggingFaceConfig.from_manifest,
}
#: Backbones with a short name.
NAMED: Final = (*(kind for kind in _KINDS if kind != "hf"), *PACKAGED)
#: Prefix of the name of any other model.
HUGGING_FACE: Final = "hf:"


def parse_backbone(text: str) -> BackboneConfig:
    """Return the settings of a backbone name: compact, compact-t5, smollm2, hf:<id or path>.

    Loads nothing. Raises UnknownBackboneError.
    """
    name = text.strip()
    if name in PACKAGED:
        return HuggingFaceConfig(name=name)
    if name in NAMED:
        return _KINDS[name]()
    model = name.removeprefix(HUGGING_FACE)
    if model not in {"", name, *NAMED}:
        return parse_name(model)
    known = ", ".join((*NAMED, "hf:<model id or directory>"))
    raise UnknownBackboneError(f"there is no backbone {name!r}. Known: {known}.")


def backbone_from_manifest(manifest: Mapping[str, Any]) -> BackboneConfig:
    """Rebuild the settings of a backbone from its manifest; raises UnknownBackboneError."""
    kind = str(manifest.get("kind"))
    if kind == "ensemble":
        return ensemble_from_manifest(manifest, backbone_from_manifest(manifest["member"]))
    if kind not in _KINDS:
        raise UnknownBackboneError(UnknownBackboneError.__doc__)
    return _KINDS[kind](**{key: value for key, value in manifest.items() if key != "kind"})


def build(vocabulary: Vocabulary, config: BackboneConfig) -> Recommender:
    """Return a recommender with initial weights on this process's device (`runtime.devices.use`).

    Raises UnknownBackboneError; for pretrained models BackboneUnavailableError and
    NoAnswerTokensError.
    """
    recommender, target = _build(vocabulary, config), machine()
    recommender.model.to(target.device)
    if target.checkpointing:
        checkpoint_layers(recommender.model)
    return recommender


def _build(vocabulary: Vocabulary, config: BackboneConfig) -> Recommender:
    if isinstance(config, CompactConfig):
        return Recommender(vocabulary, config)
    if isinstance(config, CompactT5Config):
        model = build_compact_t5(vocabulary, config)
        return CompactSequenceRecommender(vocabulary, config, model, CompactPrompt(vocabulary))
    if isinstance(config, HuggingFaceConfig):
        return build_pretrained(vocabulary, config)
    if isinstance(config, EnsembleConfig):
        if config.aggregation == ADAPTERS:
            return AdapterEnsemble(vocabulary, config, build(vocabulary, config.member))
        members = [build(vocabulary, member) for member in config.members()]
        return OutputEnsemble(vocabulary, config, members)
    raise UnknownBackboneError(UnknownBackboneError.__doc__)
