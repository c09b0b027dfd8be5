"""Test splitting prompts and the exact requests and responses of each engine."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.serving.scorers.sglang import SglangWire
from app.serving.scorers.vllm import VllmWire
from app.serving.scorers.wire import Prompts

ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=4)
PROMPTS = Prompts.of([[1, 2, 3, 4], [1, 2, 5]])


@given(ROWS)
def test_prompts_are_split_at_their_first_difference_and_keep_a_token_each(
    rows: list[list[int]],
) -> None:
    prompts = Prompts.of(rows)
    length = len(prompts.shared)
    assert prompts.whole == rows
    assert len(prompts) == len(rows)
    assert all(prompts.rests)
    shortest = min(map(len, rows))
    assert length == shortest - 1 or len({row[length] for row in rows}) > 1


def test_a_vllm_query_follows_the_documentation() -> None:
    path, body = VllmWire().query("lethe-rel_1", PROMPTS, (7, 8), "salt")
    assert path == "/generative_scoring"
    assert body == {
        "model": "lethe-rel_1",
        "query": [1, 2],
        "items": [[3, 4], [5]],
        "label_token_ids": [7, 8],
        "apply_softmax": True,
        "item_first": False,
        "add_special_tokens": False,
        "cache_salt": "salt",
    }


def test_vllm_scores_are_ordered_by_index() -> None:
    content = {
        "model": "lethe-rel_1",
        "data": [{"index": 1, "score": 0.25}, {"index": 0, "score": 0.75}],
        "usage": {"prompt_tokens": 7},
    }
    assert VllmWire().scores(content, "lethe-rel_1", PROMPTS) == [0.75, 0.25]
    content["data"] = [{"index": 0, "score": 0.5}] * 2
    with pytest.raises(KeyError):
        VllmWire().scores(content, "lethe-rel_1", PROMPTS)


def test_an_sglang_query_uses_the_endpoint_that_accepts_adapters() -> None:
    path, body = SglangWire().query("lethe-rel_1", PROMPTS, (7, 8), "salt")
    assert path == "/generate"  # /v1/score ignores adapters.
    assert body["input_ids"] == [[1, 2, 3, 4], [1, 2, 5]]
    assert body["lora_path"] == ["lethe-rel_1", "lethe-rel_1"]
    assert body["token_ids_logprob"] == [[7, 8], [7, 8]]
    assert body["extra_key"] == "salt"
    assert body["sampling_params"]["max_new_tokens"] == 0


def test_sglang_log_probabilities_become_the_probability_of_yes_against_no() -> None:
    def result(yes: float, no: float, length: int) -> dict[str, object]:
        pair = [[math.log(yes), 7, None], [math.log(no), 8, None]]
        return {"meta_info": {"prompt_tokens": length, "output_token_ids_logprobs": [pair]}}

    content = [result(0.3, 0.1, 4), result(0.01, 0.03, 3)]
    assert SglangWire().scores(content, "", PROMPTS) == pytest.approx([0.75, 0.25])
    with pytest.raises(ValueError, match="cut"):
        SglangWire().scores([result(0.3, 0.1, 3), result(0.3, 0.1, 3)], "", PROMPTS)
