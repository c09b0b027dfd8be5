"""Build recommenders on pretrained language models: from a package, a directory, or the hub.

Recommenders with an adapter never change the pretrained weights, so that all of them in a process
share one copy in memory.
"""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakValueDictionary

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
)

from models.backbones.errors import BackboneUnavailableError
from models.backbones.lora import AdapterConfig, add_adapter
from models.backbones.sources import (
    LOAD_OPTIONS,
    is_path,
    locate,
    read_limit,
    read_settings,
    translate_load_errors,
)
from models.prompts.templates import PUBLISHED
from models.prompts.text_encoding import TextPrompt
from models.recommender.language import SequenceRecommender, TextRecommender
from models.recommender.trainable import copy_recommender
from models.runtime.devices import DTYPES
from models.runtime.progress_bars import no_progress_bars

if TYPE_CHECKING:
    from models.backbones.sources import Source
    from models.prompts.vocabulary import Vocabulary
    from models.recommender.base import Recommender

#: Pretrained models in use by recommenders with an adapter, by weights digest and precision.
_shared_models: WeakValueDictionary[tuple[str, str], PreTrainedModel] = WeakValueDictionary()
_load_lock = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFaceConfig:
    """Any causal or encoder-decoder language model on text prompts.

    `name`: the source of the initial weights: a directory, a hub id, or a key of
    `backbones.packaged.PACKAGED`. `adapter`: the shape of the one adapter that is trained, with
    initial values from `seed`. None: the whole model is fine-tuned, as in the E2URec paper, and
    `seed` only affects training.
    """

    name: str
    #: Digest of the initial weights at the first load; later loads must find the same.
    source_sha256: str | None = None
    dtype: str = "float32"
    wording: str = PUBLISHED
    adapter: AdapterConfig | None = None
    seed: int = 0

    def seeded(self, seed: int) -> Self:
        """Return the same settings with another seed."""
        return replace(self, seed=seed)

    def manifest(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        adapter = self.adapter.manifest() if self.adapter else None
        return {"kind": "hf", **asdict(self), "adapter": adapter}

    @classmethod
    def from_manifest(cls, **manifest: Any) -> Self:
        """Rebuild the settings; raises TypeError or KeyError for other values."""
        shape = manifest.get("adapter")
        return cls(**{**manifest, "adapter": AdapterConfig.from_manifest(shape) if shape else None})


def parse_name(text: str) -> HuggingFaceConfig:
    """Return the settings for a name without `hf:`; paths of directories become absolute."""
    path = Path(text).expanduser()
    return HuggingFaceConfig(name=str(path.resolve()) if is_path(text) else text)


def build_pretrained(vocabulary: Vocabulary, config: HuggingFaceConfig) -> Recommender:
    """Load model and tokenizer; the recommender's config contains the digest of the weights.

    Raises BackboneUnavailableError, SourceChangedError or NoAnswerTokensError.
    """
    if config.dtype not in DTYPES:
        raise BackboneUnavailableError(config.name, f"{config.dtype} is none of {list(DTYPES)}")
    source = locate(config.name, config.source_sha256)
    with translate_load_errors(config.name):
        model = _model(source, config)
        settings, tokenizer = read_settings(source.directory)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise BackboneUnavailableError(config.name, "its tokenizer has more tokens than the model")
    is_encoder_decoder = bool(settings.is_encoder_decoder)
    limit = read_limit(settings)
    prompt = TextPrompt(
        tokenizer, keep_end_token=is_encoder_decoder, limit=limit, wording=config.wording
    )
    kind = SequenceRecommender if is_encoder_decoder else TextRecommender
    config_with_digest = replace(config, source_sha256=source.sha256)
    recommender: Recommender = kind(vocabulary, config_with_digest, model.eval(), prompt)
    if config.adapter is None:
        return recommender
    # The copy shares the weights but not the layers, which PEFT replaces in place.
    wrapped = add_adapter(copy_recommender(recommender).model, config.adapter, config.seed)
    recommender = recommender.with_model(wrapped.eval())
    recommender.public = model
    return recommender


def _model(source: Source, config: HuggingFaceConfig) -> PreTrainedModel:
    """Load the model; with an adapter, share the copy that is already in memory."""
    if config.adapter is None:
        return _load(source.directory, config)
    with _load_lock:
        key = source.sha256, config.dtype
        model = _shared_models.get(key)
        if model is None:
            model = _load(source.directory, config).requires_grad_(requires_grad=False)
            _shared_models[key] = model
        return model


def _load(directory: Path, config: HuggingFaceConfig) -> PreTrainedModel:
    """Load the weights without running code from the model."""
    settings = AutoConfig.from_pretrained(directory, **LOAD_OPTIONS)
    auto = AutoModelForSeq2SeqLM if settings.is_encoder_decoder else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]), no_progress_bars():
        torch.manual_seed(config.seed)
        model, report = auto.from_pretrained(
            directory,
            dtype=DTYPES[config.dtype],
            use_safetensors=True,
            output_loading_info=True,
            **LOAD_OPTIONS,
        )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"weights are missing, among them {missing[0]}")
    loaded: PreTrainedModel = model
    return loaded
