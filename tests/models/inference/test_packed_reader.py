"""Packed rows answer what whole prompts answer, or are not used at all."""

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
READABLE: dict[str, tuple[type[PreTrainedModel], Any, bool]] = {
    # Its logits are squeezed, and every other layer has a window.
    "gemma2": (Gemma2ForCausalLM, Gemma2Config(**GATED, sliding_window=400), False),
    # Its logits are divided.
    "granite": (GraniteForCausalLM, GraniteConfig(**GATED, logits_scaling=3.0), False),
    "mistral": (MistralForCausalLM, MistralConfig(**GATED, sliding_window=400), True),
    # Rotary positions, given by hand.
    "falcon": (FalconForCausalLM, FalconConfig(**SMALL), True),
    # Learned positions, given by hand.
    "opt": (OPTForCausalLM, OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=32), True),
}
#: Distances by columns, and a running state: neither can be read in rows.
UNREADABLE: dict[str, tuple[type[PreTrainedModel], Any]] = {
    "bloom": (BloomForCausalLM, BloomConfig(**SMALL)),
    "falcon-alibi": (FalconForCausalLM, FalconConfig(**SMALL, alibi=True)),
    "mamba": (MambaForCausalLM, MambaConfig(**SMALL)),
}


def recommender(kind: type[PreTrainedModel], config: Any) -> TextRecommender:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:  # Let small mistakes show.
                torch.nn.init.normal_(parameter, std=0.15)
    prompt = TextPrompt(TOKENIZER, keep_end_token=False, limit=None, wording=SHARED_PREFIX)
    return TextRecommender(VOCABULARY, parse_backbone("hf:tiny"), model.eval(), prompt)


def request(made: Recommender, count: int, history: int = 6) -> PromptBatch:
    """Return prompts of candidates whose titles are 1 to 4 words."""
    titles = [" ".join([f"Item {n}"] * (1 + n % 4)) for n in range(count)]
    return made.prompt.request(
        {"gender": "F"},
        [HistoryEvent(n, 1 + n % 5, f"Item {n + 7}") for n in range(history)],
        [Candidate(n, {}, title) for n, title in enumerate(titles)],
    )


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return build(VOCABULARY, tiny.save("llama", tmp_path_factory.mktemp("llama")))


def reader_of(made: Recommender) -> PackedReader:
    assert isinstance(made, TextRecommender)
    reader = made.reader()
    assert reader is not None
    return reader


@pytest.mark.parametrize("kind", READABLE)
def test_packed_answers_are_the_plain_ones(kind: str) -> None:
    model, config, linear_head = READABLE[kind]
    made = recommender(model, config)
    prompts = request(made, 40)
    expected = made.logits(prompts)

    assert reader_of(made).linear_head == linear_head
    assert expected.std(0).min() > 1e-2  # They answer differently to different prompts.
    torch.testing.assert_close(made.score_logits(prompts), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_packed_is_noticed_and_scored_all_the_same(kind: str) -> None:
    made = recommender(*UNREADABLE[kind])
    prompts = request(made, 9)

    assert made.reader() is None
    torch.testing.assert_close(made.score_logits(prompts), made.logits(prompts), atol=1e-4, rtol=0)


def test_prompts_longer_than_a_window_are_read_whole() -> None:
    short = recommender(MistralForCausalLM, MistralConfig(**GATED, sliding_window=90))
    fitting, longer = request(short, 9, history=2), request(short, 9, history=9)

    assert reader_of(short) is not None
    assert short.shared_length(fitting) == fitting.shared_length()
    assert short.shared_length(longer) == 0
    torch.testing.assert_close(short.score_logits(longer), short.logits(longer), atol=1e-4, rtol=0)


def test_rows_of_several_people_are_read_together(llama: Recommender) -> None:
    """Prefixes and rows of other lengths are padded; nobody sees the padding or a neighbour."""
    reader, batch, expected = reader_of(llama), [], []
    for count, history in ((5, 2), (1, 8), (12, 5)):
        prompts = request(llama, count, history)
        shared = prompts.shared_length()
        prefix = reader.encode_prefix(prompts.tokens[0, :shared])
        batch.append(Row(prefix=prefix, suffixes=prompts.token_rows(shared)))
        expected.append(llama.logits(prompts))

    found = reader.answer(batch)

    assert [len(each) for each in found] == [5, 1, 12]
    torch.testing.assert_close(torch.cat(found), torch.cat(expected), atol=1e-4, rtol=0)


def test_a_shorter_prefix_is_the_beginning_of_a_longer_one(llama: Recommender) -> None:
    reader, tokens = reader_of(llama), request(llama, 3).tokens[0]
    long, short = reader.encode_prefix(tokens[:50]).truncate(30), reader.encode_prefix(tokens[:30])

    assert len(long) == len(short) == 30
    assert long.tokens.tolist() == short.tokens.tolist()
    for ours, theirs in zip(long.states, short.states, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    # Eight bytes a token: the prompts that they were taken from are not kept.
    assert short.tokens.untyped_storage().nbytes() == 8 * 30
    # Two layers, keys and values, two heads of eight numbers of four bytes.
    assert short.nbytes == 2 * 2 * 2 * 8 * 4 * 30


def test_one_prefix_may_be_read_by_many_threads(llama: Recommender) -> None:
    reader, prompts = reader_of(llama), request(llama, 30)
    shared, expected = prompts.shared_length(), llama.logits(prompts)
    prefix = reader.encode_prefix(prompts.tokens[0, :shared])
    row = Row(prefix=prefix, suffixes=prompts.token_rows(shared))

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: reader.answer([row])[0], range(12)))

    for found in answers:
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def adapted(layers: list[str]) -> Any:
    """Return a model with an adapter that was not folded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers warns of a property that PEFT itself reads.
        return peft.get_peft_model(
            recommender(*READABLE["mistral"][:2]).model,
            peft.LoraConfig(r=2, target_modules=layers, init_lora_weights=False),
        ).eval()


def test_an_adapter_counts(llama: Recommender) -> None:
    made = llama.with_model(adapted(["q_proj", "v_proj"]))
    prompts = request(made, 12)
    expected = made.logits(prompts)

    assert reader_of(made).linear_head
    torch.testing.assert_close(made.score_logits(prompts), expected, atol=1e-4, rtol=0)
    with made.model.disable_adapter():
        assert (made.score_logits(prompts) - expected).abs().max() > 1e-2


def test_a_head_with_an_adapter_is_not_plain(llama: Recommender) -> None:
    made = llama.with_model(adapted(["lm_head"]))
    prompts = request(made, 12)

    assert not reader_of(made).linear_head
    torch.testing.assert_close(made.score_logits(prompts), made.logits(prompts), atol=1e-4, rtol=0)


def test_half_precision_answers_in_single() -> None:
    model, config, _ = READABLE["mistral"]
    exact = recommender(model, config)
    made = exact.with_model(recommender(model, config).model.to(torch.bfloat16))
    prompts = request(made, 12)
    scale = exact.logits(prompts).abs().max()

    found = made.score_logits(prompts)

    assert reader_of(made).inner.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    assert (found - exact.logits(prompts)).abs().max() < 0.05 * scale


def test_half_precision_of_several_people(llama: Recommender) -> None:
    """In half precision attention is split, also over padded prefixes."""
    half = llama.with_model(copy.deepcopy(llama.model).to(torch.bfloat16))
    reader, batch, expected = reader_of(half), [], []
    for count, history in ((5, 2), (1, 8), (12, 5)):
        prompts = request(half, count, history)
        shared = prompts.shared_length()
        prefix = reader.encode_prefix(prompts.tokens[0, :shared])
        batch.append(Row(prefix=prefix, suffixes=prompts.token_rows(shared)))
        expected.append(llama.logits(prompts))

    found, wanted = torch.cat(reader.answer(batch)), torch.cat(expected)

    assert (found - wanted).abs().max() < 0.05 * wanted.abs().max()


@pytest.mark.parametrize("prefixes", [(9,), (9, 4)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_in_two_parts_is_attention(
    prefixes: tuple[int, ...], scale: float | None
) -> None:
    """Rows of three rests, of 5, 1 and 4 tokens; the second row lacks the last one."""
    torch.manual_seed(0)
    width, lengths = max(prefixes), torch.tensor([5, 1, 4] + [5, 1] * (len(prefixes) - 1))
    starts = torch.tensor([0, 5, 6, 10, 15])[: len(lengths)]
    owners = torch.full((len(prefixes), 10), -1)
    for number, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        owners.view(-1)[start : start + length] = number
    mask = attention_mask(owners, prefixes)
    query = torch.randn(len(prefixes), 3, 10, 8)
    key, value = torch.randn(2, len(prefixes), 3, width + 10, 8)

    def attend(under: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=under, scale=scale
        ).transpose(1, 2)[owners >= 0]

    expected = attend(mask)
    with SplitAttention(mask, width, starts, lengths) as split:
        found = attend(mask)
        split._attend = None  # Under any other mask attention is torch's own.
        other = attend(mask.clone())

    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert torch.equal(other, expected)


def test_a_model_is_looked_at_once(llama: Recommender, tmp_path: Path) -> None:
    """Every later reader rests on the first proof; another model needs its own."""
    made = build(VOCABULARY, tiny.save("llama", tmp_path))
    assert llama.reader() is not None
    asked: list[int] = []

    def plain(prompts: PromptBatch) -> torch.Tensor:
        asked.append(len(prompts))
        return made.logits(prompts)

    for owner in (made, made, llama):
        model = owner.model
        assert (
            PackedReader.verified(model, made.prompt.answers, made.prompt.golden, plain) is not None
        )
    wrong = PackedReader.verified(
        build(VOCABULARY, tiny.save("llama", tmp_path)).model,
        made.prompt.answers,
        made.prompt.golden,
        lambda prompts: plain(prompts) + 1,
    )
    assert wrong is None
    assert len(asked) == 2


def test_nobody_waits_while_another_model_is_looked_at(llama: Recommender, tmp_path: Path) -> None:
    """A release that is loaded beside the live one must not hold up the answers of that."""
    made = build(VOCABULARY, tiny.save("llama", tmp_path))
    assert llama.reader() is not None

    with ThreadPoolExecutor(1) as other:

        def plain(prompts: PromptBatch) -> torch.Tensor:
            assert other.submit(llama.reader).result(timeout=30) is not None
            return made.logits(prompts)

        found = PackedReader.verified(made.model, made.prompt.answers, made.prompt.golden, plain)
    assert found is not None


def test_rests_are_grouped_by_their_tokens() -> None:
    rests = [torch.zeros(length) for length in (3, 3, 4, 11, 1, 9, 2)]

    groups = group_by_tokens(rests, limit=10)

    assert [[len(rest) for rest in group] for group in groups] == [[3, 3, 4], [11], [1, 9], [2]]
    assert group_by_tokens([]) == []
