"""Language models of others: from a directory, or from the Hugging Face hub by their name."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from models.backbones import BackboneUnavailableError
from models.bars import no_bars
from models.language import SequenceRecommender, TextRecommender
from models.sources import explained, is_path, locate
from models.text_prompt import TextPrompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from models.recommender import Recommender
    from models.vocabulary import Vocabulary

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFaceConfig:
    """Any causal or encoder-decoder language model, fine-tuned whole on prompts in words.

    `name` is a directory, an id of the hub, or one of `models.packaged`. All initial weights come
    from there: `seed` stands only for what training draws.
    """

    name: str
    #: Digest of the weights that it was first loaded with; they must stay the same.
    source_sha256: str | None = None
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
    """Load model and tokenizer; the config that results has the digest of the weights.

    Raises BackboneUnavailableError, SourceChangedError or NoAnswerTokensError.
    """
    if config.dtype not in DTYPES:
        raise BackboneUnavailableError(config.name, f"{config.dtype} is none of {list(DTYPES)}")
    source = locate(config.name, config.source_sha256)
    with explained(config.name):
        model, tokenizer = _load(source.directory, config)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise BackboneUnavailableError(config.name, "its tokenizer has more tokens than the model")
    twofold = bool(model.config.is_encoder_decoder)
    limit = getattr(model.config, "max_position_embeddings", None)
    prompt = TextPrompt(tokenizer, closed=twofold, limit=limit)
    kind = SequenceRecommender if twofold else TextRecommender
    known = replace(config, source_sha256=source.sha256)
    return kind(vocabulary, known, model.eval(), prompt)


def _load(
    directory: Path, config: HuggingFaceConfig
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load both from the same place; code that a model brings along is never run."""
    place = {"local_files_only": True, "trust_remote_code": False}
    settings = AutoConfig.from_pretrained(directory, **place)
    tokenizer = AutoTokenizer.from_pretrained(directory, **place)
    auto = AutoModelForSeq2SeqLM if settings.is_encoder_decoder else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]), no_bars():
        torch.manual_seed(config.seed)
        model, report = auto.from_pretrained(
            directory,
            dtype=DTYPES[config.dtype],
            use_safetensors=True,
            output_loading_info=True,
            **place,
        )
    if lacking := sorted(report["missing_keys"]):
        raise ValueError(f"it lacks weights, {lacking[0]} among them")
    return model, tokenizer
