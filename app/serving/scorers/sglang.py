"""Speak SGLang's wire format.

Source: docs.sglang.io (advanced_features/lora, basic_usage/native_api, sampling_params) and the
request classes in SGLang's repository. The server needs `--enable-lora --max-loras-per-batch 2
--max-lora-rank … --lora-target-modules … --dtype float32`.

`/v1/score` ignores adapters: its `model` field has no effect, and the base model computes the
scores (serving_score.py passes no adapter on). Internally, `/v1/score` is a `/generate` request
for zero new tokens with `token_ids_logprob`. `/generate` accepts `lora_path`, the adapter's name,
and `extra_key`, which separates cached states, so `/generate` is used directly.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.serving.scorers.wire import Call, Prompts


class SglangWire:
    """Implements `wire.Wire`."""

    def load(self, adapter: str, path: str) -> Call:
        return "/load_lora_adapter", {"lora_name": adapter, "lora_path": path}

    def unload(self, adapter: str) -> Call:
        return "/unload_lora_adapter", {"lora_name": adapter}

    def query(self, adapter: str, prompts: Prompts, answers: tuple[int, int], salt: str) -> Call:
        return "/generate", {
            "input_ids": prompts.whole,
            "lora_path": [adapter] * len(prompts),
            "sampling_params": {"max_new_tokens": 0, "temperature": 0.0},
            "return_logprob": True,
            "logprob_start_len": -1,
            "token_ids_logprob": [list(answers)] * len(prompts),
            "extra_key": salt,
        }

    def scores(self, content: Any, adapter: str, prompts: Prompts) -> list[Any]:
        del adapter  # The response does not contain it; the engine refuses unknown adapters.
        return [
            _score(result["meta_info"], len(prompt))
            for result, prompt in zip(content, prompts.whole, strict=True)
        ]


def _score(meta: Any, length: int) -> float:
    """Return P(Yes) / (P(Yes) + P(No)).

    The engine returns (log probability, token, text) of Yes and No, in this order.
    """
    if meta["prompt_tokens"] != length:
        raise ValueError("the engine cut a prompt")
    ((yes, no),) = meta["output_token_ids_logprobs"]
    return 1.0 / (1.0 + math.exp(no[0] - yes[0]))
