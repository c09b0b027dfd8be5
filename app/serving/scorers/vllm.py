"""Speak vLLM's wire format.

Source: docs.vllm.ai (serving/online_serving/generative_scoring, features/lora,
design/prefix_caching) and the request classes in vLLM's repository. The server needs
`--enable-lora --max-loras 2 --dtype float32` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1. Two adapters
are needed because a new adapter is loaded beside the live adapter.

Known behavior of vLLM:

- Prompts longer than the context are cut without an error, so the number of processed tokens is
  checked.
- The prefix cache identifies an adapter by its name only (vllm#42125).
- Unloading an adapter removes its name, but the weights stay in the worker until other adapters
  replace them (vllm#54839).
- Versions without `cache_salt` on this endpoint ignore the field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.serving.scorers.wire import Call, Prompts


class VllmWire:
    """Implements `wire.Wire`."""

    def load(self, adapter: str, path: str) -> Call:
        return "/v1/load_lora_adapter", {"lora_name": adapter, "lora_path": path}

    def unload(self, adapter: str) -> Call:
        return "/v1/unload_lora_adapter", {"lora_name": adapter}

    def query(self, adapter: str, prompts: Prompts, answers: tuple[int, int], salt: str) -> Call:
        return "/generative_scoring", {
            "model": adapter,
            "query": prompts.shared,
            "items": prompts.rests,
            "label_token_ids": list(answers),
            "apply_softmax": True,
            "item_first": False,
            "add_special_tokens": False,
            "cache_salt": salt,
        }

    def scores(self, content: Any, adapter: str, prompts: Prompts) -> list[Any]:
        if content["model"] != adapter:
            raise ValueError(f"the response is of model {content['model']!r}")
        if content["usage"]["prompt_tokens"] != sum(map(len, prompts.whole)):
            raise ValueError("the engine cut the prompts")
        by_index = {result["index"]: result["score"] for result in content["data"]}
        if len(content["data"]) != len(prompts):
            raise ValueError("the numbers of scores and prompts differ")
        return [by_index[index] for index in range(len(prompts))]
