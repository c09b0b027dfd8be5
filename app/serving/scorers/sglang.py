"""SGLang's wire format.

Written from docs.sglang.io (advanced_features/lora, basic_usage/native_api, sampling_params) and
the request classes of SGLang's repository. The server needs `--enable-lora --max-loras-per-batch 2
--max-lora-rank … --lora-target-modules … --dtype float32`.

`/v1/score` takes no adapter: whatever `model` says, it answers from the base (serving_score.py
passes none on). What it does inside is a `/generate` of no new tokens with `token_ids_logprob`, and
that takes `lora_path`, the adapter's name, and `extra_key`, which keeps cached states apart.
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
        del adapter  # An answer does not name it; a name that is unknown is refused.
        return [
            _score(result["meta_info"], len(prompt))
            for result, prompt in zip(content, prompts.whole, strict=True)
        ]


def _score(meta: Any, length: int) -> float:
    """Return P(Yes) against No from (log probability, token, text) of the two, in their order."""
    if meta["prompt_tokens"] != length:
        raise ValueError("a prompt was cut")
    ((yes, no),) = meta["output_token_ids_logprobs"]
    return 1.0 / (1.0 + math.exp(no[0] - yes[0]))
