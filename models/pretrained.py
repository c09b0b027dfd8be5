"""Language models of others: from a directory, or from the Hugging Face hub by their name.

A recommender that learns in an adapter shares the model's weights with all others in this process
that stand on the same one: nothing ever changes them.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from weakref import WeakValueDictionary

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)
from transformers.utils import logging

from models.language import SequenceRecommender, TextRecommender
from models.lora import AdapterConfig, wrapped
from models.text_prompt import TextPrompt
from models.weights import copied

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

    from models.recommender import Recommender
    from models.vocabulary import Vocabulary

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: Public models that some recommender stands on, by name and precision.
_public: WeakValueDictionary[tuple[str, str], PreTrainedModel] = WeakValueDictionary()
_loading = threading.Lock()
#: What loading ends in where files lack, are damaged, or are of a kind unknown to transformers.
_FAILURES: Final = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ImportError,
    RuntimeError,
    SafetensorError,
)


class BackboneUnavailableError(ValueError):
    """A language model cannot be loaded."""

    def __init__(self, name: str, reason: str) -> None:
        """Say why, and what to give instead."""
        super().__init__(
            f"the backbone hf:{name} cannot be loaded: {reason}. Give a directory with config.json,"
            " *.safetensors and the tokenizer's files (hf:/path/to/model), or the id of a model"
            " that this machine has in its cache or can fetch from the Hugging Face hub"
            " (hf:google-t5/t5-base)."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFaceConfig:
    """Any causal or encoder-decoder language model on prompts in words.

    `name` is a directory, or an id of the hub, where all initial weights come from. With `adapter`
    they stay as they are, and all that is learned is in one adapter, whose initial values follow
    from `seed`; without it the whole model is fine-tuned, as in the paper, and `seed` stands only
    for what training draws.
    """

    name: str
    dtype: str = "float32"
    wording: str = "published"
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
    return HuggingFaceConfig(name=str(path.resolve()) if _is_path(text) else text)


def build_pretrained(vocabulary: Vocabulary, config: HuggingFaceConfig) -> Recommender:
    """Load model and tokenizer; raises BackboneUnavailableError or NoAnswerTokensError."""
    if config.dtype not in DTYPES:
        raise BackboneUnavailableError(config.name, f"{config.dtype} is none of {list(DTYPES)}")
    local = _is_path(config.name)
    if local and not Path(config.name).is_dir():
        raise BackboneUnavailableError(config.name, "there is no such directory")
    try:
        model = _model(config, local=local)
        tokenizer = AutoTokenizer.from_pretrained(config.name, **_place(local=local))
    except _FAILURES as error:
        first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise BackboneUnavailableError(config.name, first.rstrip(".")) from error
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise BackboneUnavailableError(config.name, "its tokenizer has more tokens than the model")
    twofold = bool(model.config.is_encoder_decoder)
    limit = getattr(model.config, "max_position_embeddings", None)
    prompt = TextPrompt(tokenizer, closed=twofold, limit=limit)
    kind = SequenceRecommender if twofold else TextRecommender
    found: Recommender = kind(vocabulary, config, model.eval(), prompt)
    if config.adapter is None:
        return found
    shared = copied(found)  # Its layers are wrapped in place, and those of the public model stay.
    found = shared.with_model(wrapped(shared.model, config.adapter, config.seed).eval())
    found.public = model
    return found


def _model(config: HuggingFaceConfig, *, local: bool) -> PreTrainedModel:
    """Load the model, or return the one that is here already where nothing will change it."""
    if config.adapter is None:
        return _load(config, local=local)
    with _loading:
        key = config.name, config.dtype
        model = _public.get(key)
        if model is None:
            model = _public[key] = _load(config, local=local).requires_grad_(requires_grad=False)
        return model


def _load(config: HuggingFaceConfig, *, local: bool) -> PreTrainedModel:
    """Load the weights; code that a model brings along is never run."""
    place = _place(local=local)
    settings = AutoConfig.from_pretrained(config.name, **place)
    auto = AutoModelForSeq2SeqLM if settings.is_encoder_decoder else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]), _no_bars():
        torch.manual_seed(config.seed)
        model, report = auto.from_pretrained(
            config.name,
            dtype=DTYPES[config.dtype],
            use_safetensors=True,
            output_loading_info=True,
            **place,
        )
    if lacking := sorted(report["missing_keys"]):
        raise ValueError(f"it lacks weights, {lacking[0]} among them")
    loaded: PreTrainedModel = model
    return loaded


def _place(*, local: bool) -> dict[str, bool]:
    return {"local_files_only": local, "trust_remote_code": False}


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep the bar of milliseconds that transformers draws out of the bars of whoever asked."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _is_path(text: str) -> bool:
    return text.startswith(("/", ".", "~")) or Path(text).is_dir()
