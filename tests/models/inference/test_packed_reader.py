"""Packed rows have the logits of whole prompts, and models that cannot be packed have no reader."""

from __future__ import annotations

import copy
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import peft
import pytest
import torch
from torch.nn import functional
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from models.inference.packed_reader import PackedReader, Row, attention_mask, group_by_tokens
from models.inference.split_attention import SplitAttention
from models.prompts.scoring_inputs import Candidate, HistoryEvent
from models.prompts.templates import SHARED_PREFIX
from models.prompts.text_encoding import TextPrompt
from models.prompts.vocabulary import Vocabulary
from models.recommender.factory import build, parse_backbone
from models.recommender.language import TextRecommender
from tests.support import tiny_models as tiny

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from models.prompts.prompt_batch import PromptBatch
    from models.recommender.base import Recommender

VOCABULARY = Vocabulary.from_catalog(tiny.DATA)
TOKENIZER = tiny.byte_pairs()
SMALL = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": tiny.PAD,
}
GATED = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
PACKABLE: dict[str, tuple[type[PreTrainedModel], Any, bool]] = {
    # Soft-capped logits, and a sliding window in every other layer.
    "gemma2": (Gemma2ForCausalLM, Gemma2Config(**GATED, sliding_window=400), False),
    # Scaled logits.
    "granite": (GraniteForCausalLM, GraniteConfig(**GATED, logits_scaling=3.0), False),
    "mistral": (MistralForCausalLM, MistralConfig(**GATED, sliding_window=400), True),
    # RoPE.
    "falcon": (FalconForCausalLM, FalconConfig(**SMALL), True),
    # Learned positions.
    "opt": (OPTForCausalLM, OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=32), True),
}
#: ALiBi (distances from columns), and a recurrent state.
UNPACKABLE: dict[str, tuple[type[PreTrainedModel], Any]] = {
    "bloom": (BloomForCausalLM, BloomConfig(**SMALL)),
    "falcon-alibi": (FalconForCausalLM, FalconConfig(**SMALL, alibi=True)),
    "mamba": (MambaForCausalLM, MambaConfig(**SMALL)),
}


def recommender(kind: type[PreTrainedModel], config: Any) -> TextRecommender:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:  # So that small mistakes show.
                torch.nn.init.normal_(parameter, std=0.15)
    prompt = TextPrompt(TOKENIZER, keep_end_token=False, limit=None, wording=SHARED_PREFIX)
    return TextRecommender(VOCABULARY, parse_backbone("hf:tiny"), model.eval(), prompt)


def request(text_recommender: Recommender, count: int, history: int = 6) -> PromptBatch:
    """Return prompts of candidates whose titles repeat "Item n" 1 to 4 times."""
    titles = [" ".join([f"Item {n}"] * (1 + n % 4)) for n in range(count)]
    return text_recommender.prompt.request(
        {"gender": "F"},
        [HistoryEvent(n, 1 + n % 5, f"Item {n + 7}") for n in range(history)],
        [Candidate(n, {}, title) for n, title in enumerate(titles)],
    )


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return build(VOCABULARY, tiny.save("llama", tmp_path_factory.mktemp("llama")))


def reader_of(text_recommender: Recommender) -> PackedReader:
    assert isinstance(text_recommender, TextRecommender)
    reader = text_recommender.reader()
    assert reader is not None
    return reader


@pytest.mark.parametrize("kind", PACKABLE)
def test_packed_logits_are_those_of_whole_prompts(kind: str) -> None:
    model, config, linear_head = PACKABLE[kind]
    text_recommender = recommender(model, config)
    prompts = request(text_recommender, 40)
    expected = text_recommender.logits(prompts)

    assert reader_of(text_recommender).linear_head == linear_head
    assert expected.std(0).min() > 1e-2  # The candidates have different logits.
    torch.testing.assert_close(text_recommender.score_logits(prompts), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", UNPACKABLE)
def test_a_model_that_cannot_be_packed_is_scored_without_a_reader(kind: str) -> None:
    text_recommender = recommender(*UNPACKABLE[kind])
    prompts = request(text_recommender, 9)

    assert text_recommender.reader() is None
    torch.testing.assert_close(
        text_recommender.score_logits(prompts), text_recommender.logits(prompts), atol=1e-4, rtol=0
    )


def test_prompts_longer_than_a_sliding_window_are_read_whole() -> None:
    short = recommender(MistralForCausalLM, MistralConfig(**GATED, sliding_window=90))
    fitting, longer = request(short, 9, history=2), request(short, 9, history=9)

    assert reader_of(short) is not None
    assert short.shared_length(fitting) == fitting.shared_length()
    assert short.shared_length(longer) == 0
    torch.testing.assert_close(short.score_logits(longer), short.logits(longer), atol=1e-4, rtol=0)


def test_rows_of_several_users_are_scored_together(llama: Recommender) -> None:
    """Prefixes and rows of different lengths are padded; no suffix sees padding."""
    reader, batch, expected = reader_of(llama), [], []
    for count, history in ((5, 2), (1, 8), (12, 5)):
        prompts = request(llama, count, history)
        shared = prompts.shared_length()
        prefix = reader.encode_prefix(prompts.tokens[0, :shared])
        batch.append(Row(prefix=prefix, suffixes=prompts.token_rows(shared)))
        expected.append(llama.logits(prompts))

    packed = reader.answer(batch)

    assert [len(logits) for logits in packed] == [5, 1, 12]
    torch.testing.assert_close(torch.cat(packed), torch.cat(expected), atol=1e-4, rtol=0)


def test_a_truncated_prefix_is_the_prefix_of_fewer_tokens(llama: Recommender) -> None:
    reader, tokens = reader_of(llama), request(llama, 3).tokens[0]
    long, short = reader.encode_prefix(tokens[:50]).truncate(30), reader.encode_prefix(tokens[:30])

    assert len(long) == len(short) == 30
    assert long.tokens.tolist() == short.tokens.tolist()
    for pair, expected in zip(long.states, short.states, strict=True):
        torch.testing.assert_close(pair, expected, atol=1e-5, rtol=0)
    # Eight bytes per token: the prefix does not keep the prompts in memory.
    assert short.tokens.untyped_storage().nbytes() == 8 * 30
    # Two layers, keys and values, two heads of size eight, four bytes per number.
    assert short.nbytes == 2 * 2 * 2 * 8 * 4 * 30


def test_threads_can_share_a_prefix(llama: Recommender) -> None:
    reader, prompts = reader_of(llama), request(llama, 30)
    shared, expected = prompts.shared_length(), llama.logits(prompts)
    prefix = reader.encode_prefix(prompts.tokens[0, :shared])
    row = Row(prefix=prefix, suffixes=prompts.token_rows(shared))

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: reader.answer([row])[0], range(12)))

    for packed in answers:
        torch.testing.assert_close(packed, expected, atol=1e-4, rtol=0)


def adapted(layers: list[str]) -> Any:
    """Return a model with an adapter that is not merged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers warns of a property that PEFT itself reads.
        return peft.get_peft_model(
            recommender(*PACKABLE["mistral"][:2]).model,
            peft.LoraConfig(r=2, target_modules=layers, init_lora_weights=False),
        ).eval()


def test_packed_logits_include_an_adapter(llama: Recommender) -> None:
    text_recommender = llama.with_model(adapted(["q_proj", "v_proj"]))
    prompts = request(text_recommender, 12)
    expected = text_recommender.logits(prompts)

    assert reader_of(text_recommender).linear_head
    torch.testing.assert_close(text_recommender.score_logits(prompts), expected, atol=1e-4, rtol=0)
    with text_recommender.model.disable_adapter():
        assert (text_recommender.score_logits(prompts) - expected).abs().max() > 1e-2


def test_a_head_with_an_adapter_is_not_linear(llama: Recommender) -> None:
    text_recommender = llama.with_model(adapted(["lm_head"]))
    prompts = request(text_recommender, 12)

    assert not reader_of(text_recommender).linear_head
    torch.testing.assert_close(
        text_recommender.score_logits(prompts), text_recommender.logits(prompts), atol=1e-4, rtol=0
    )


def test_half_precision_gives_float32_logits() -> None:
    model, config, _ = PACKABLE["mistral"]
    exact = recommender(model, config)
    text_recommender = exact.with_model(recommender(model, config).model.to(torch.bfloat16))
    prompts = request(text_recommender, 12)
    scale = exact.logits(prompts).abs().max()

    packed = text_recommender.score_logits(prompts)

    assert reader_of(text_recommender).inner.dtype == torch.bfloat16
    assert packed.dtype == torch.float32
    assert (packed - exact.logits(prompts)).abs().max() < 0.05 * scale


def test_rows_of_several_users_in_half_precision(llama: Recommender) -> None:
    """In half precision, attention is split, with padded prefixes as well."""
    half = llama.with_model(copy.deepcopy(llama.model).to(torch.bfloat16))
    reader, batch, expected = reader_of(half), [], []
    for count, history in ((5, 2), (1, 8), (12, 5)):
        prompts = request(half, count, history)
        shared = prompts.shared_length()
        prefix = reader.encode_prefix(prompts.tokens[0, :shared])
        batch.append(Row(prefix=prefix, suffixes=prompts.token_rows(shared)))
        expected.append(llama.logits(prompts))

    packed, whole = torch.cat(reader.answer(batch)), torch.cat(expected)

    assert (packed - whole).abs().max() < 0.05 * whole.abs().max()


@pytest.mark.parametrize("prefixes", [(9,), (9, 4)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_split_attention_is_the_same_as_mverified_batches_attention(
    prefixes: tuple[int, ...], scale: float | None
) -> None:
    """Rows of three suffixes, of 5, 1 and 4 tokens; the second row lacks the last suffix."""
    torch.manual_seed(0)
    width, lengths = max(prefixes), torch.tensor([5, 1, 4] + [5, 1] * (len(prefixes) - 1))
    starts = torch.tensor([0, 5, 6, 10, 15])[: len(lengths)]
    owners = torch.full((len(prefixes), 10), -1)
    for number, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        owners.view(-1)[start : start + length] = number
    mask = attention_mask(owners, prefixes)
    query = torch.randn(len(prefixes), 3, 10, 8)
    key, value = torch.randn(2, len(prefixes), 3, width + 10, 8)

    def attend(attn_mask: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attn_mask, scale=scale
        ).transpose(1, 2)[owners >= 0]

    expected = attend(mask)
    with SplitAttention(mask, width, starts, lengths) as split:
        packed = attend(mask)
        split._attend = None  # With another mask object, torch computes attention.
        other = attend(mask.clone())

    torch.testing.assert_close(packed, expected, atol=1e-5, rtol=0)
    assert torch.equal(other, expected)


def test_each_model_is_verified_once(llama: Recommender, tmp_path: Path) -> None:
    """Later readers of a model reuse its verification; another model is verified separately."""
    text_recommender = build(VOCABULARY, tiny.save("llama", tmp_path))
    assert llama.reader() is not None
    verified_batches: list[int] = []

    def plain(prompts: PromptBatch) -> torch.Tensor:
        verified_batches.append(len(prompts))
        return text_recommender.logits(prompts)

    for owner in (text_recommender, text_recommender, llama):
        model = owner.model
        assert (
            PackedReader.verified(
                model, text_recommender.prompt.answers, text_recommender.prompt.golden, plain
            )
            is not None
        )
    wrong = PackedReader.verified(
        build(VOCABULARY, tiny.save("llama", tmp_path)).model,
        text_recommender.prompt.answers,
        text_recommender.prompt.golden,
        lambda prompts: plain(prompts) + 1,
    )
    assert wrong is None
    assert len(verified_batches) == 2


def test_a_verified_model_does_not_wait_for_another_verification(
    llama: Recommender, tmp_path: Path
) -> None:
    """Loading a release must not delay requests to the live release."""
    text_recommender = build(VOCABULARY, tiny.save("llama", tmp_path))
    assert llama.reader() is not None

    with ThreadPoolExecutor(1) as other:

        def plain(prompts: PromptBatch) -> torch.Tensor:
            assert other.submit(llama.reader).result(timeout=30) is not None
            return text_recommender.logits(prompts)

        reader = PackedReader.verified(
            text_recommender.model,
            text_recommender.prompt.answers,
            text_recommender.prompt.golden,
            plain,
        )
    assert reader is not None


def test_suffixes_are_grouped_up_to_a_token_limit() -> None:
    suffixes = [torch.zeros(length) for length in (3, 3, 4, 11, 1, 9, 2)]

    groups = group_by_tokens(suffixes, limit=10)

    assert [[len(suffix) for suffix in group] for group in groups] == [[3, 3, 4], [11], [1, 9], [2]]
    assert group_by_tokens([]) == []
