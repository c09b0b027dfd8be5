"""Language models of others: from a directory, or from the Hugging Face hub by their name."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.utils import logging

from models.language import SequenceRecommender, TextRecommender
from models.sources import (
    BackboneUnavailableError,
    first_line,
    is_path,
    place,
    read_limit,
    read_source,
)
from models.text_encoding import TextPrompt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

    from models.recommender import Recommender
    from models.vocabulary import Vocabulary

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}
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


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFaceConfig:
    """Any causal or encoder-decoder language model, fine-tuned whole on prompts in words.

    `name` is a directory, or an id of the hub. All initial weights come from there: `seed` stands
    only for what training draws.
    """

    name: str
    dtype: str = "float32"
    seed: int = 0

    def seeded(self, seed: int) -> Self:
        """Return the same backbone for another run of training."""
        return replace(self, seed=seed)

    def manifest(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {"kind": "hf", **asdict(self)}


def parse_name(text: str) -> HuggingFaceConfig:
    """Return the config for what follows `hf:`; a directory is named by its absolute path."""
    path = Path(text).expanduser()
    return HuggingFaceConfig(name=str(path.resolve()) if is_path(text) else text)


def build_pretrained(vocabulary: Vocabulary, config: HuggingFaceConfig) -> Recommender:
    """Load model and tokenizer; raises BackboneUnavailableError or NoAnswerTokensError."""
    if config.dtype not in DTYPES:
        raise BackboneUnavailableError(config.name, f"{config.dtype} is none of {list(DTYPES)}")
    settings, tokenizer = read_source(config.name)
    try:
        model = _load(config, twofold=bool(settings.is_encoder_decoder))
    except _FAILURES as error:
        raise BackboneUnavailableError(config.name, first_line(error)) from error
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise BackboneUnavailableError(config.name, "its tokenizer has more tokens than the model")
    twofold = bool(model.config.is_encoder_decoder)
    prompt = TextPrompt(tokenizer, closed=twofold, limit=read_limit(model.config))
    kind = SequenceRecommender if twofold else TextRecommender
    return kind(vocabulary, config, model.eval(), prompt)


def _load(config: HuggingFaceConfig, *, twofold: bool) -> PreTrainedModel:
    auto = AutoModelForSeq2SeqLM if twofold else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]), _no_bars():
        torch.manual_seed(config.seed)
        model, report = auto.from_pretrained(
            config.name,
            dtype=DTYPES[config.dtype],
            use_safetensors=True,
            output_loading_info=True,
            **place(config.name),
        )
    if lacking := sorted(report["missing_keys"]):
        raise ValueError(f"it lacks weights, {lacking[0]} among them")
    return model


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
