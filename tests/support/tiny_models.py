"""Build tiny language models with random weights and their tokenizers, saved by transformers.

The architectures differ in what padding, caches and adapters can get wrong: Llama has RoPE, GPT-2
learned positions and fused projections, T5 relative positions, BART positions from columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from models.prompts.templates import WORDINGS, PromptContent
from models.recommender.factory import parse_backbone
from tests.support.interaction_tables import planted_interactions

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from models.backbones.compact import BackboneConfig

CAUSAL: Final = ("llama", "gpt2")
SEQUENCE: Final = ("t5", "bart")
COMPACT: Final = ("compact", "compact-t5")
BACKBONES: Final = (*COMPACT, *CAUSAL, *SEQUENCE)
#: The data of all backbone tests: 24 users with 7 samples each, 20 items.
DATA: Final = planted_interactions(users=24, items=20, per_user=12)
#: <pad> <s> </s>; ids differ from those of the compact vocabulary.
PAD, BEGIN, END = 2, 0, 1


def byte_pairs(size: int = 420) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on prompts; blanks are part of the word that follows.

    With fewer than 260 tokens, each token is a single byte.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        _corpus(),
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=["<s>", "</s>", "<pad>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def word_pieces() -> PreTrainedTokenizerFast:
    """Train a tokenizer like T5's: words with a blank before each, and </s> after each text."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.Metaspace()]
    )
    special = ["<s>", "</s>", "<pad>", "<unk>"]
    tokenizer.train_from_iterator(_corpus(), trainers.WordLevelTrainer(special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", END)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def lower_case() -> normalizers.Normalizer:
    """Return a normalizer that changes the tokens of the same text."""
    return normalizers.Lowercase()


def save(kind: str, directory: Path) -> BackboneConfig:
    """Write a model and its tokenizer, and return the backbone's settings."""
    if kind in COMPACT:
        return parse_backbone(kind)
    tokenizer = byte_pairs() if kind in CAUSAL else word_pieces()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _MODELS[kind](len(tokenizer))
        # Larger weights make logits differ between prompts, so that small mistakes show.
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return parse_backbone(f"hf:{directory}")


def _llama(size: int) -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            pad_token_id=PAD,
            bos_token_id=BEGIN,
            eos_token_id=END,
            tie_word_embeddings=True,
        )
    )


def _gpt2(size: int) -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=size,
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=400,
            bos_token_id=BEGIN,
            eos_token_id=END,
        )
    )


def _t5(size: int) -> PreTrainedModel:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=size,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            pad_token_id=PAD,
            decoder_start_token_id=PAD,
            eos_token_id=END,
        )
    )


def _bart(size: int) -> PreTrainedModel:
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=size,
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            max_position_embeddings=400,
            pad_token_id=PAD,
            bos_token_id=BEGIN,
            eos_token_id=END,
            decoder_start_token_id=END,
        )
    )


_MODELS: Final = {"llama": _llama, "gpt2": _gpt2, "t5": _t5, "bart": _bart}


def _corpus() -> list[str]:
    history = tuple((f"Item {number}", number % 10 + 1) for number in range(30))
    contents = [
        PromptContent(attributes={"gender": gender}, history=history[:10], title=title)
        for gender in ("F", "M", "")
        for title, _ in history
    ]
    texts = [content.text(wording) for wording in WORDINGS for content in contents]
    return texts + ["Yes. No.", "tell me Yes or No"] * 200
