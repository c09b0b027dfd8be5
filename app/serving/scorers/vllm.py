"""vLLM's wire format.

Written from docs.vllm.ai (serving/online_serving/generative_scoring, features/lora,
design/prefix_caching) and the request classes of vLLM's repository. The server needs
`--enable-lora --max-loras 2 --dtype float32` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1: two adapters,
so that a new one is loaded beside the live one.

Known of it: prompts longer than its context are cut without a word, so that the number of tokens
that it read is checked. Its prefix cache knows an adapter by name alone (vllm#42125). Unloading
makes the name unknown, but the weights stay in the worker until others push them out (vllm#54839).
Versions before `cache_salt` came to this endpoint ignore it.
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
            raise ValueError("another model answered")
        if content["usage"]["prompt_tokens"] != sum(map(len, prompts.whole)):
            raise ValueError("prompts were cut")
        by_index = {result["index"]: result["score"] for result in content["data"]}
        if len(content["data"]) != len(prompts):
            raise ValueError("another number of scores than of prompts")
        return [by_index[index] for index in range(len(prompts))]
