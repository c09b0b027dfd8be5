"""The compact backbone read by other means answers as transformers does, or is not read so."""

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
GENRES = st.lists(st.sampled_from(["Comedy", "Drama", "War", "Nobody's"]), max_size=4)


def strong(config: CompactConfig) -> Recommender:
    """Return a recommender whose answers differ much from prompt to prompt: let mistakes show."""
    made = Recommender(VOCABULARY, config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in made.model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.15, generator=generator)
            else:
                weight.uniform_(0.5, 1.5, generator=generator)
    made.model.eval()
    return made


@cache
def usual() -> Recommender:
    return strong(CompactConfig())


@cache
def usual_reader() -> CompactReader:
    return reader_of(usual())


def reader_of(made: Recommender) -> CompactReader:
    reader = made.reader()
    assert isinstance(reader, CompactReader)
    return reader


def request(made: Recommender, count: int, history: int = 7) -> PromptBatch:
    genres = [[], ["Comedy"], ["Drama", "War"], ["Comedy", "Drama", "War", "Comedy"]]
    return made.prompt.request(
        {"gender": "F"},
        [HistoryEvent(3 * n % 25, (1 + n % 10) / 2) for n in range(history)],
        [Candidate(7 * n % 40, {"genre": genres[n % 4]}) for n in range(count)],
    )


def assert_plain(
    made: Recommender, reader: CompactReader, prompts: PromptBatch, shared: int
) -> None:
    found = reader.score(prompts, shared)
    torch.testing.assert_close(found, made.logits(prompts), atol=1e-5, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    gender=st.sampled_from([{}, {"gender": "F"}, {"gender": "?"}]),
    history=st.lists(st.tuples(st.integers(-1, 60), st.integers(1, 10)), max_size=14),
    wanted=st.lists(st.tuples(st.integers(-1, 60), GENRES), min_size=1, max_size=12),
)
def test_any_request_is_answered_as_whole_prompts_are(
    gender: dict[str, str], history: list[tuple[int, int]], wanted: list[tuple[int, list[str]]]
) -> None:
    """Short and long histories, unknown items and values, none to more attributes than places."""
    prompts = usual().prompt.request(
        gender,
        [HistoryEvent(item_index, half_stars / 2) for item_index, half_stars in history],
        [Candidate(item_index, {"genre": genres}) for item_index, genres in wanted],
    )

    assert_plain(usual(), usual_reader(), prompts, prompts.shared_length())


@settings(max_examples=40, deadline=None)
@given(
    prefix=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    suffixes=st.lists(
        st.lists(st.integers(0, 30), min_size=5, max_size=5).filter(any), min_size=1, max_size=6
    ),
)
def test_padding_is_nowhere(prefix: list[int], rests: list[list[int]]) -> None:
    """PAD is 0, and may stand anywhere in what is not shared."""
    prompts = PromptBatch(tokens=torch.tensor([[*prefix, *rest] for rest in rests]))

    assert_plain(usual(), usual_reader(), prompts, len(prefix))


@pytest.mark.parametrize("count", [1, CANDIDATES_PER_PASS, CANDIDATES_PER_PASS + 1, 1000])
def test_any_number_of_candidates_is_read(count: int) -> None:
    prompts = request(usual(), count)
    expected = usual().logits(prompts)

    assert count == 1 or expected.std(0).min() > 0.1  # They answer differently.
    assert_plain(usual(), usual_reader(), prompts, prompts.shared_length())


@pytest.mark.parametrize(
    "config",
    [
        CompactConfig(layers=1),
        CompactConfig(layers=3, heads=2),
        CompactConfig(hidden_size=32, heads=8, intermediate_size=24),
    ],
)
def test_other_sizes_are_read_as_well(config: CompactConfig) -> None:
    made = strong(config)
    prompts = request(made, 9)

    assert_plain(made, reader_of(made), prompts, prompts.shared_length())


def test_prompts_beyond_the_configured_positions_are_read() -> None:
    prompts = PromptBatch(tokens=torch.randint(1, 30, (3, 150)))

    assert_plain(usual(), usual_reader(), prompts.take(slice(1)), 147)


def test_an_answer_does_not_depend_on_who_else_is_read() -> None:
    reader, all_of_them = usual_reader(), request(usual(), 40)
    prefixes = [request(usual(), 1, history).tokens[0, : 2 + 2 * history] for history in (0, 3, 9)]

    together = reader.encode_prefixes(prefixes)

    for tokens, prefix in zip(prefixes, together, strict=True):
        assert prefix.nbytes == sum(
            each.untyped_storage().nbytes() for pair in prefix.states for each in pair
        )
        alone = reader.encode_prefix(tokens)
        for pair, other in zip(prefix.states, alone.states, strict=True):
            for one, wanted in zip(pair, other, strict=True):
                torch.testing.assert_close(one, wanted, atol=5e-6, rtol=1e-5)
    whole = reader.score(all_of_them, all_of_them.shared_length())
    for number in (0, 7, 39):
        one = all_of_them.take(slice(number, number + 1))
        torch.testing.assert_close(
            reader.score(one, all_of_them.shared_length())[0], whole[number], atol=2e-6, rtol=2e-6
        )


def test_a_shorter_prefix_may_be_cut_from_a_longer_one() -> None:
    prompts, reader = request(usual(), 5), usual_reader()
    cut = reader.encode_prefix(prompts.tokens[0, : prompts.shared_length()]).truncate(4)

    found = torch.cat(reader.answer(reader.rows(cut, prompts)))

    torch.testing.assert_close(found, usual().logits(prompts), atol=1e-5, rtol=1e-5)


def variation(**changes: object) -> Recommender:
    """Return a recommender on a Llama that differs from the compact one in something."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        **{**sizes, "vocab_size": VOCABULARY.size, "intermediate_size": 128, **changes}
    )
    return Recommender(VOCABULARY, CompactConfig(), LlamaForCausalLM(config).eval())


def half_precision() -> Recommender:
    made = strong(CompactConfig())
    made.model.to(torch.bfloat16)
    return made


def wrapped() -> Recommender:
    class Scaled(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 # torch's name
            return 2 * functional.linear(input, self.weight)

    made = strong(CompactConfig())
    made.model.model.layers[0].mlp.up_proj = Scaled(64, 128, bias=False)
    return made


def hooked() -> Recommender:
    made = strong(CompactConfig())
    made.model.model.layers[0].mlp.register_forward_hook(lambda _, __, given: 1.1 * given)
    return made


UNKNOWN: dict[str, Callable[[], Recommender]] = {
    "biases": lambda: variation(attention_bias=True),
    "shared keys": lambda: variation(num_key_value_heads=2),
    "another activation": lambda: variation(hidden_act="gelu"),
    "other turns": lambda: variation(rope_parameters={"rope_type": "linear", "factor": 2.0}),
    "half precision": half_precision,
    "a layer of its own": wrapped,
    "a hook": hooked,
}


@pytest.mark.parametrize("made", UNKNOWN.values(), ids=UNKNOWN)
def test_what_is_not_known_is_not_read(made: Callable[[], Recommender]) -> None:
    assert made().reader() is None


def test_what_answers_otherwise_is_not_used() -> None:
    made = usual()
    prompt = made.prompt

    def wrong(prompts: PromptBatch) -> torch.Tensor:
        return made.logits(prompts) + 1e-3

    def broken(prompts: PromptBatch) -> torch.Tensor:
        return made.logits(prompts) * torch.nan

    assert (
        CompactReader.verified(made.model, prompt.answers, prompt.golden, made.logits) is not None
    )
    assert CompactReader.verified(made.model, prompt.answers, prompt.golden, wrong) is None
    assert CompactReader.verified(made.model, prompt.answers, prompt.golden, broken) is None


def test_a_reader_holds_no_model() -> None:
    made = copy.deepcopy(usual())
    reader, held = reader_of(made), weakref.ref(made.model)
    table = weakref.ref(reader._embedding)
    del made, reader

    gc.collect()
    assert (held(), table()) == (None, None)
