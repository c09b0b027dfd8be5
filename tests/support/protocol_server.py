"""Simulate a serving engine: HTTP, scores of a tiny model, the wire formats of vLLM and SGLang.

The server is written from the engines' published interfaces. No test here runs against a real
engine. Sources:

- vLLM: docs.vllm.ai/en/latest/serving/online_serving/generative_scoring/ (and
  vllm/entrypoints/openai/generative_scoring/serving.py), docs.vllm.ai/en/latest/features/lora/ (and
  vllm/entrypoints/openai/models/serving.py), docs.vllm.ai/en/latest/design/prefix_caching/
- SGLang: docs.sglang.io/docs/advanced_features/lora, …/basic_usage/native_api,
  …/basic_usage/sampling_params (and sglang/srt/entrypoints/http_server.py, managers/io_struct.py)

The simulated faults are those that users report: a prefix cache that answers for an adapter that
was reloaded under the same name (vllm-project/vllm#42125), an unload that leaves the adapter in
place (vllm-project/vllm#42633, #54839), and a load that is reported as successful although no
adapter, or the base model, answers (vllm-project/vllm#18372, vllm-project/aibrix#235).
"""

from __future__ import annotations

import copy
import json
import math
import socket
import threading
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import torch
import uvicorn
from fastapi import Body, FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from peft import PeftModel
from transformers import AutoModelForCausalLM

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

BASE: Final = "base-model"
KEY: Final = "the engine's key"
Json = Annotated[dict[str, Any], Body()]


@dataclass
class Faults:
    """The faults to simulate; none by default."""

    #: States of an adapter name are reused after reloads and for other salts.
    stale_prefix_cache: bool = False
    #: An unload reports success, but the name stays listed, or the unlisted name still answers.
    unload: Literal["stays listed", "still answers", ""] = ""
    #: A new adapter's first `early_queries` queries are refused or answered by the base model.
    early: Literal["unknown", "base", ""] = ""
    early_queries: int = 0
    #: All paths answer with this status.
    status: int | None = None
    #: The kind of invalid response to a query.
    garbage: Literal["count", "range", "nan", "words", "no json", "cut", "another", ""] = ""
    #: Queries wait for this event.
    hang: threading.Event | None = None
    #: Called when a query arrives, before the query is processed.
    before: Callable[[], None] | None = None


@dataclass
class Query:
    """A received query."""

    adapter: str
    salt: str | None
    body: dict[str, Any] = field(repr=False)


class ProtocolServer:
    """The engine; `start` and `stop` may be called repeatedly and keep the port."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self.faults = Faults()
        self.queries: list[Query] = []
        self.adapters: dict[str, torch.nn.Module] = {}
        self._hidden: dict[str, torch.nn.Module] = {}
        self._query_counts: dict[str, int] = {}
        self._states: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._port = 0
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start with the base model and no adapters."""
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self._port))
        self._port = listening.getsockname()[1]
        self._model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(
            self._base, dtype=torch.float32
        ).eval()
        config = uvicorn.Config(
            self._app(), log_config=None, lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = server = uvicorn.Server(config)
        self._thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        self._thread.start()
        while not server.started:
            self._thread.join(0.01)
            if not self._thread.is_alive():
                raise RuntimeError("the engine did not start")

    def stop(self) -> None:
        """Stop listening and drop all adapters, as a restarted engine does."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
        self._server = None
        self.adapters.clear()
        self._hidden.clear()

    def load(self, name: str, path: str) -> None:
        """Load an adapter; raises OSError or ValueError if this fails."""
        if not Path(path).is_dir():
            raise FileNotFoundError(f"No adapter found for {path}")
        with self._loading, warnings.catch_warnings():
            if name in self.adapters:
                raise ValueError(f"The lora adapter '{name}' has already been loaded.")
            # PEFT reads a property that transformers is about to rename.
            warnings.simplefilter("ignore")
            model = PeftModel.from_pretrained(copy.deepcopy(self._model), path)
            self.adapters[name] = model.eval()
            self._query_counts[name] = 0

    def _app(self) -> FastAPI:
        app = FastAPI()
        app.middleware("http")(self._guard)
        app.get("/v1/models")(self._models)
        app.post("/v1/load_lora_adapter")(self._vllm_load)
        app.post("/v1/unload_lora_adapter")(self._vllm_unload)
        app.post("/generative_scoring")(self._vllm_score)
        app.post("/load_lora_adapter")(self._sglang_load)
        app.post("/unload_lora_adapter")(self._sglang_unload)
        app.post("/generate")(self._sglang_generate)
        return app

    async def _guard(
        self, request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        if self.faults.status is not None:
            return JSONResponse({"error": "simulated"}, self.faults.status)
        return await call_next(request)

    def _models(self) -> dict[str, Any]:
        cards = [{"id": BASE, "object": "model", "root": str(self._base), "parent": None}]
        cards += [{"id": n, "object": "model", "root": n, "parent": BASE} for n in self.adapters]
        return {"object": "list", "data": cards}

    def _vllm_load(self, body: Json) -> Response:
        name = body["lora_name"]
        try:
            self.load(name, body["lora_path"])
        except (OSError, ValueError) as error:
            return _vllm_error(404 if isinstance(error, OSError) else 400, str(error))
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    def _vllm_unload(self, body: Json) -> Response:
        name = body["lora_name"]
        if not self._unload(name):
            return _vllm_error(404, f"The lora adapter '{name}' cannot be found.")
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    def _vllm_score(self, body: Json) -> Response:
        name = body["model"]
        prompts = [body["query"] + item for item in body["items"]]
        logprobs = self._logprobs_of(Query(name, body.get("cache_salt"), body), prompts)
        if logprobs is None:
            return _vllm_error(404, f"The model `{name}` does not exist.")
        labels = torch.stack([row[body["label_token_ids"]] for row in logprobs])
        scores: list[Any] = (labels.softmax(1) if body["apply_softmax"] else labels.exp())[:, 0]
        data = [
            {"index": index, "object": "score", "score": float(score)}
            for index, score in enumerate(scores)
        ]
        read = sum(map(len, prompts))
        content = {
            "id": "generative-scoring-1",
            "object": "list",
            "created": 1,
            "model": name,
            "data": data,
            "usage": {"prompt_tokens": read, "total_tokens": read + len(data)},
        }
        match self.faults.garbage:
            case "count":
                data.pop()
            case "range" | "nan" | "words":
                data[-1]["score"] = _WRONG[self.faults.garbage]
            case "cut":
                content["usage"] = {"prompt_tokens": read - 1}
            case "another":
                content["model"] = BASE
            case "no json":
                return PlainTextResponse("<html>")
        return _raw(content)

    def _sglang_load(self, body: Json) -> Response:
        name = body["lora_name"]
        try:
            self.load(name, body["lora_path"])
        except (OSError, ValueError) as error:
            return JSONResponse({"success": False, "error_message": str(error)}, 400)
        return JSONResponse({"success": True, "loaded_adapters": dict.fromkeys(self.adapters, "")})

    def _sglang_unload(self, body: Json) -> Response:
        if not self._unload(body["lora_name"]):
            return JSONResponse({"success": False, "error_message": "not loaded"}, 400)
        return JSONResponse({"success": True, "loaded_adapters": dict.fromkeys(self.adapters, "")})

    def _sglang_generate(self, body: Json) -> Response:
        (name,) = set(body["lora_path"])
        prompts, labels = body["input_ids"], body["token_ids_logprob"]
        logprobs = self._logprobs_of(Query(name, body.get("extra_key"), body), prompts)
        if logprobs is None:
            message = f"The following requested LoRA adapters are not loaded: {name}"
            return JSONResponse({"error": {"message": message}}, 400)
        content = [
            {
                "text": "",
                "meta_info": {
                    "prompt_tokens": len(prompt),
                    "completion_tokens": 0,
                    "output_token_ids_logprobs": [[[float(row[t]), t, None] for t in label_ids]],
                },
            }
            for prompt, row, label_ids in zip(prompts, logprobs, labels, strict=True)
        ]
        last: Any = content[-1]["meta_info"]
        match self.faults.garbage:
            case "count":
                content.pop()
            case "range" | "another":
                last["output_token_ids_logprobs"] = []
            case "nan" | "words":
                last["output_token_ids_logprobs"][0][0][0] = _WRONG[self.faults.garbage]
            case "cut":
                last["prompt_tokens"] -= 1
            case "no json":
                return PlainTextResponse("<html>")
        return _raw(content)

    def _unload(self, name: str) -> bool:
        if name not in self.adapters:
            return False
        if self.faults.unload != "stays listed":
            model = self.adapters.pop(name)
            if self.faults.unload == "still answers":
                self._hidden[name] = model
        return True

    def _logprobs_of(self, query: Query, prompts: list[list[int]]) -> list[torch.Tensor] | None:
        """Return each prompt's log probabilities of the next token; None for an unknown adapter."""
        if self.faults.before is not None:
            self.faults.before()
        if self.faults.hang is not None:
            self.faults.hang.wait(30)
        with self._lock:
            self.queries.append(query)
            model = self.adapters.get(query.adapter) or self._hidden.get(query.adapter)
            if model is None:
                return None
            number = self._query_counts[query.adapter] = (
                self._query_counts.get(query.adapter, 0) + 1
            )
            if self.faults.early and number <= self.faults.early_queries:
                if self.faults.early == "unknown":
                    return None
                model = self._model
            return [self._logprobs(query.adapter, model, prompt) for prompt in prompts]

    @torch.inference_mode()
    def _logprobs(self, name: str, model: torch.nn.Module, prompt: list[int]) -> torch.Tensor:
        known = self._states.get((name, tuple(prompt)))
        if known is not None and self.faults.stale_prefix_cache:
            return known
        logits: torch.Tensor = model(input_ids=torch.tensor([prompt])).logits[0, -1]
        self._states[name, tuple(prompt)] = logprobs = logits.log_softmax(0)
        return logprobs


_WRONG: Final[dict[str, Any]] = {"range": 1.5, "nan": math.nan, "words": "likely"}


def _vllm_error(status: int, message: str) -> JSONResponse:
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
    return JSONResponse({"error": error}, status)


def _raw(content: Any) -> Response:
    """Return JSON in Python's dialect, which allows NaN."""
    return Response(json.dumps(content), media_type="application/json")
