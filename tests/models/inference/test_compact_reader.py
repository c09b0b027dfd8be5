"""The compact reader has the logits of transformers, and refuses models that it cannot read."""

from __future__ import annotations

import copy
import gc
import weakref
from functools import cache
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from models.backbones.compact import CompactConfig
from models.inference.compact_reader import CANDIDATES_PER_PASS, CompactReader
from models.prompts.prompt_batch import PromptBatch
from models.prompts.scoring_inputs import Candidate, HistoryEvent
from models.prompts.vocabulary import Vocabulary
from models.recommender.base import Recommender
from tests.support import tiny_models as tiny

if TYPE_CHECKING:
    from collections.abc import Callable

VOCABULARY = Vocabulary.from_catalog(tiny.DATA)
GENRES = st.lists(st.sampled_from(["Comedy", "Drama", "War", "Unknown"]), max_size=4)


def strong(config: CompactConfig) -> Recommender:
    """Return a recommender with large random weights, whose logits differ between prompts."""
    recommender = Recommender(VOCABULARY, config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in recommender.model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.15, generator=generator)
            else:
                weight.uniform_(0.5, 1.5, generator=generator)
    recommender.model.eval()
    return recommender


@cache
def usual() -> Recommender:
    return strong(CompactConfig())


@cache
def usual_reader() -> CompactReader:
    return reader_of(usual())


def reader_of(recommender: Recommender) -> CompactReader:
    reader = recommender.reader()
    assert isinstance(reader, CompactReader)
    return reader


def request(recommender: Recommender, count: int, history: int = 7) -> PromptBatch:
    genres = [[], ["Comedy"], ["Drama", "War"], ["Comedy", "Drama", "War", "Comedy"]]
    return recommender.prompt.request(
        {"gender": "F"},
        [HistoryEvent(3 * n % 25, (1 + n % 10) / 2) for n in range(history)],
        [Candidate(7 * n % 40, {"genre": genres[n % 4]}) for n in range(count)],
    )


def assert_same_logits(
    recommender: Recommender, reader: CompactReader, prompts: PromptBatch, shared: int
) -> None:
    logits = reader.score(prompts, shared)
    torch.testing.assert_close(logits, recommender.logits(prompts), atol=1e-5, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    gender=st.sampled_from([{}, {"gender": "F"}, {"gender": "?"}]),
    history=st.lists(st.tuples(st.integers(-1, 60), st.integers(1, 10)), max_size=14),
    scored_items=st.lists(st.tuples(st.integers(-1, 60), GENRES), min_size=1, max_size=12),
)
def test_a_request_has_the_logits_of_whole_prompts(
    gender: dict[str, str],
    history: list[tuple[int, int]],
    scored_items: list[tuple[int, list[str]]],
) -> None:
    """With short and long histories, unknown items and values, and any number of attributes."""
    prompts = usual().prompt.request(
        gender,
        [HistoryEvent(item_index, half_stars / 2) for item_index, half_stars in history],
        [Candidate(item_index, {"genre": genres}) for item_index, genres in scored_items],
    )

    assert_same_logits(usual(), usual_reader(), prompts, prompts.shared_length())


@settings(max_examples=40, deadline=None)
@given(
    prefix=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    suffixes=st.lists(
        st.lists(st.integers(0, 30), min_size=5, max_size=5).filter(any), min_size=1, max_size=6
    ),
)
def test_padding_in_any_column_changes_no_logit(
    prefix: list[int], suffixes: list[list[int]]
) -> None:
    """PAD is 0; suffixes may have padding in any column."""
    prompts = PromptBatch(tokens=torch.tensor([[*prefix, *suffix] for suffix in suffixes]))

    assert_same_logits(usual(), usual_reader(), prompts, len(prefix))


@pytest.mark.parametrize("count", [1, CANDIDATES_PER_PASS, CANDIDATES_PER_PASS + 1, 1000])
def test_any_number_of_candidates_is_scored(count: int) -> None:
    prompts = request(usual(), count)
    expected = usual().logits(prompts)

    assert count == 1 or expected.std(0).min() > 0.1  # The candidates have different logits.
    assert_same_logits(usual(), usual_reader(), prompts, prompts.shared_length())


@pytest.mark.parametrize(
    "config",
    [
        CompactConfig(layers=1),
        CompactConfig(layers=3, heads=2),
        CompactConfig(hidden_size=32, heads=8, intermediate_size=24),
    ],
)
def test_other_model_sizes_are_supported(config: CompactConfig) -> None:
    recommender = strong(config)
    prompts = request(recommender, 9)

    assert_same_logits(recommender, reader_of(recommender), prompts, prompts.shared_length())


def test_prompts_longer_than_the_configured_positions_are_scored() -> None:
    prompts = PromptBatch(tokens=torch.randint(1, 30, (3, 150)))

    assert_same_logits(usual(), usual_reader(), prompts.take(slice(1)), 147)


def test_a_logit_does_not_depend_on_other_prompts_of_the_batch() -> None:
    reader, prompts = usual_reader(), request(usual(), 40)
    prefixes = [request(usual(), 1, history).tokens[0, : 2 + 2 * history] for history in (0, 3, 9)]

    batched = reader.encode_prefixes(prefixes)

    for tokens, prefix in zip(prefixes, batched, strict=True):
        assert prefix.nbytes == sum(
            tensor.untyped_storage().nbytes() for pair in prefix.states for tensor in pair
        )
        alone = reader.encode_prefix(tokens)
        for pair, expected_pair in zip(prefix.states, alone.states, strict=True):
            for tensor, expected in zip(pair, expected_pair, strict=True):
                torch.testing.assert_close(tensor, expected, atol=5e-6, rtol=1e-5)
    whole = reader.score(prompts, prompts.shared_length())
    for number in (0, 7, 39):
        single = prompts.take(slice(number, number + 1))
        torch.testing.assert_close(
            reader.score(single, prompts.shared_length())[0], whole[number], atol=2e-6, rtol=2e-6
        )


def test_a_truncated_prefix_gives_the_same_logits() -> None:
    prompts, reader = request(usual(), 5), usual_reader()
    truncated = reader.encode_prefix(prompts.tokens[0, : prompts.shared_length()]).truncate(4)

    logits = torch.cat(reader.answer(reader.rows(truncated, prompts)))

    torch.testing.assert_close(logits, usual().logits(prompts), atol=1e-5, rtol=1e-5)


def variation(**changes: object) -> Recommender:
    """Return a recommender on a Llama model with settings that the compact model does not have."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        **{**sizes, "vocab_size": VOCABULARY.size, "intermediate_size": 128, **changes}
    )
    return Recommender(VOCABULARY, CompactConfig(), LlamaForCausalLM(config).eval())


def half_precision() -> Recommender:
    recommender = strong(CompactConfig())
    recommender.model.to(torch.bfloat16)
    return recommender


def with_wrapped_layer() -> Recommender:
    class Scaled(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 # torch's name
            return 2 * functional.linear(input, self.weight)

    recommender = strong(CompactConfig())
    recommender.model.model.layers[0].mlp.up_proj = Scaled(64, 128, bias=False)
    return recommender


def with_hook() -> Recommender:
    recommender = strong(CompactConfig())
    recommender.model.model.layers[0].mlp.register_forward_hook(lambda _, __, output: 1.1 * output)
    return recommender


UNSUPPORTED: dict[str, Callable[[], Recommender]] = {
    "biases": lambda: variation(attention_bias=True),
    "grouped queries": lambda: variation(num_key_value_heads=2),
    "another activation": lambda: variation(hidden_act="gelu"),
    "other RoPE": lambda: variation(rope_parameters={"rope_type": "linear", "factor": 2.0}),
    "half precision": half_precision,
    "a wrapped layer": with_wrapped_layer,
    "a hook": with_hook,
}


@pytest.mark.parametrize("build_unsupported", UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_an_unsupported_model_has_no_reader(build_unsupported: Callable[[], Recommender]) -> None:
    assert build_unsupported().reader() is None


def test_a_reader_that_fails_verification_is_not_used() -> None:
    recommender = usual()
    prompt = recommender.prompt

    def wrong(prompts: PromptBatch) -> torch.Tensor:
        return recommender.logits(prompts) + 1e-3

    def broken(prompts: PromptBatch) -> torch.Tensor:
        return recommender.logits(prompts) * torch.nan

    assert (
        CompactReader.verified(recommender.model, prompt.answers, prompt.golden, recommender.logits)
        is not None
    )
    assert CompactReader.verified(recommender.model, prompt.answers, prompt.golden, wrong) is None
    assert CompactReader.verified(recommender.model, prompt.answers, prompt.golden, broken) is None


def test_a_freed_reader_frees_the_model() -> None:
    recommender = copy.deepcopy(usual())
    reader, model = reader_of(recommender), weakref.ref(recommender.model)
    table = weakref.ref(reader._embedding)
    del recommender, reader

    gc.collect()
    assert (model(), table()) == (None, None)
