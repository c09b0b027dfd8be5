"""Language models of others: from a package, a directory, or the Hugging Face hub.

A recommender that learns in an adapter shares the model's weights with all others in this process
that stand on the same one: nothing ever changes them.
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
from models.backbones.sources import PLACE, explained, is_path, locate, read_limit, read_settings
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


#: Public models that some recommender stands on, by the digest of their weights and precision.
_public: WeakValueDictionary[tuple[str, str], PreTrainedModel] = WeakValueDictionary()
_loading = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFaceConfig:
    """Any causal or encoder-decoder language model on prompts in words.

    `name` is a directory, a hub id, or a name in `backbones.packaged`: the source of all initial
    weights. With `adapter` they stay as they are, and all that is learned is in one adapter,
    whose initial values follow from `seed`; without it the whole model is fine-tuned, as in the
    paper, and `seed` stands only for what training draws.
    """

    name: str
    #: Digest of the weights that it was first loaded with; they must stay the same.
    source_sha256: str | None = None
    dtype: str = "float32"
    wording: str = PUBLISHED
    adapter: AdapterConfig | None = None
    seed: int = 0

    def seeded(self, seed: int) -> Self:
        """Return the same backbone for another run of training."""
        return replace(self, seed=seed)

    def manifest(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        adapter = self.adapter.manifest() if self.adapter else None
        return {"kind": "hf", **asdict(self), "adapter": adapter}

    @classmethod
    def from_manifest(cls, **manifest: Any) -> Self:
        """Rebuild the settings; raises TypeError or KeyError for others."""
        shape = manifest.get("adapter")
        return cls(**{**manifest, "adapter": AdapterConfig.from_manifest(shape) if shape else None})


def parse_name(text: str) -> HuggingFaceConfig:
    """Return the config for what follows `hf:`; a directory is named by its absolute path."""
    path = Path(text).expanduser()
    return HuggingFaceConfig(name=str(path.resolve()) if is_path(text) else text)


def build_pretrained(vocabulary: Vocabulary, config: HuggingFaceConfig) -> Recommender:
    """Load model and tokenizer; the config that results has the digest of the weights.

    Raises BackboneUnavailableError, SourceChangedError or NoAnswerTokensError.
    """
    if config.dtype not in DTYPES:
        raise BackboneUnavailableError(config.name, f"{config.dtype} is none of {list(DTYPES)}")
    source = locate(config.name, config.source_sha256)
    with explained(config.name):
        model = _model(source, config)
        settings, tokenizer = read_settings(source.directory)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise BackboneUnavailableError(config.name, "its tokenizer has more tokens than the model")
    twofold = bool(settings.is_encoder_decoder)
    limit = read_limit(settings)
    prompt = TextPrompt(tokenizer, keep_end_token=twofold, limit=limit, wording=config.wording)
    kind = SequenceRecommender if twofold else TextRecommender
    known = replace(config, source_sha256=source.sha256)
    found: Recommender = kind(vocabulary, known, model.eval(), prompt)
    if config.adapter is None:
        return found
    shared = copy_recommender(
        found
    )  # Its layers are wrapped in place, and those of the public model stay.
    found = shared.with_model(add_adapter(shared.model, config.adapter, config.seed).eval())
    found.public = model
    return found


def _model(source: Source, config: HuggingFaceConfig) -> PreTrainedModel:
    """Load the model, or return the one that is here already where nothing will change it."""
    if config.adapter is None:
        return _load(source.directory, config)
    with _loading:
        key = source.sha256, config.dtype
        model = _public.get(key)
        if model is None:
            model = _load(source.directory, config).requires_grad_(requires_grad=False)
            _public[key] = model
        return model


def _load(directory: Path, config: HuggingFaceConfig) -> PreTrainedModel:
    """Load the weights; code that a model brings along is never run."""
    settings = AutoConfig.from_pretrained(directory, **PLACE)
    auto = AutoModelForSeq2SeqLM if settings.is_encoder_decoder else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]), no_progress_bars():
        torch.manual_seed(config.seed)
        model, report = auto.from_pretrained(
            directory,
            dtype=DTYPES[config.dtype],
            use_safetensors=True,
            output_loading_info=True,
            **PLACE,
        )
    if lacking := sorted(report["missing_keys"]):
        raise ValueError(f"it lacks weights, {lacking[0]} among them")
    loaded: PreTrainedModel = model
    return loaded
