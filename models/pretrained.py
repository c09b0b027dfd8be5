"""Language models of others: from a directory, or from the Hugging Face hub by their name."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)
from transformers.utils import logging

from models.devices import DTYPES
from models.language import SequenceRecommender, TextRecommender
from models.text_prompt import TextPrompt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from models.recommender import Recommender
    from models.vocabulary import Vocabulary

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
    return HuggingFaceConfig(name=str(path.resolve()) if _is_path(text) else text)


def build_pretrained(vocabulary: Vocabulary, config: HuggingFaceConfig) -> Recommender:
    """Load model and tokenizer; raises BackboneUnavailableError or NoAnswerTokensError."""
    if config.dtype not in DTYPES:
        raise BackboneUnavailableError(config.name, f"{config.dtype} is none of {list(DTYPES)}")
    local = _is_path(config.name)
    if local and not Path(config.name).is_dir():
        raise BackboneUnavailableError(config.name, "there is no such directory")
    try:
        model, tokenizer = _load(config, local=local)
    except _FAILURES as error:
        first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise BackboneUnavailableError(config.name, first.rstrip(".")) from error
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise BackboneUnavailableError(config.name, "its tokenizer has more tokens than the model")
    twofold = bool(model.config.is_encoder_decoder)
    limit = getattr(model.config, "max_position_embeddings", None)
    prompt = TextPrompt(tokenizer, closed=twofold, limit=limit)
    kind = SequenceRecommender if twofold else TextRecommender
    return kind(vocabulary, config, model.eval(), prompt)


def _load(
    config: HuggingFaceConfig, *, local: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load both from the same place; code that a model brings along is never run."""
    place = {"local_files_only": local, "trust_remote_code": False}
    settings = AutoConfig.from_pretrained(config.name, **place)
    tokenizer = AutoTokenizer.from_pretrained(config.name, **place)
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
    return model, tokenizer


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
