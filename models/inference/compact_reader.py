"""Reads the compact backbone without `transformers`: the same sums in fewer and larger operations.

A Llama-type model in float32, whose release does not change any more. What is spared, beside
Python between the layers: tokens stand in columns, so that norms, turns and softmaxes run along
them without copies; norms' weights are multiplied into the matrices behind them; nothing is
padded; and of the last layer all tokens need keys and values, and only the last ones all else.
Other architectures are not read at all, and a model must prove that its answers are plain ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeGuard

import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaForCausalLM
from transformers.activations import SiLUActivation
from transformers.models.llama import modeling_llama as llama

from models.inference.columns import Columns
from models.inference.shared_prefix import Prefix
from models.prompts.prompt_batch import PromptBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: How far answers may be from plain ones, in logits or as a share of larger logits than 1.
TOLERANCE: Final = 1e-5
#: Candidates in one pass: more leave the caches of a processor.
AT_ONCE: Final = 512
#: What such a model is made of. A layer that an adapter has wrapped is something else.
_PARTS: Final = frozenset(
    {
        nn.Embedding,
        nn.Linear,
        nn.ModuleList,
        nn.SiLU,
        SiLUActivation,
        LlamaForCausalLM,
        llama.LlamaModel,
        llama.LlamaDecoderLayer,
        llama.LlamaAttention,
        llama.LlamaMLP,
        llama.LlamaRMSNorm,
        llama.LlamaRotaryEmbedding,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Layer:
    """A layer's matrices, with its norms' weights and attention's scale multiplied in.

    `query` [D, D], `others` [2D, D] for keys and values, `out` [D, D], `up` [2F, D] for gates and
    what they let through, `down` [D, F].
    """

    query: torch.Tensor
    others: torch.Tensor
    out: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor
    #: Of the norms before attention and before the rest.
    eps: tuple[float, float]


class CompactReader:
    """The weights of one release, laid out for reading. Thread-safe: nothing is ever changed."""

    #: A row of a hundred candidates keeps a core busy as it is.
    joins = False

    @torch.no_grad()
    def __init__(self, model: LlamaForCausalLM, answers: tuple[int, int]) -> None:
        """Copy all weights but the embeddings, which are the model's own."""
        config: Any = model.config
        self._heads: int = config.num_attention_heads
        self._embedding: torch.Tensor = model.get_input_embeddings().weight.detach()
        self._layers = [_layer(layer, self._heads) for layer in model.model.layers]
        norm = model.model.norm
        self._head = model.lm_head.weight.detach()[list(answers)] * norm.weight.detach()
        self._eps: float = norm.variance_epsilon
        self._frequencies = model.model.rotary_emb.inv_freq.float()

    @classmethod
    def of(
        cls,
        model: nn.Module,
        answers: tuple[int, int],
        golden: Callable[[], PromptBatch],
        plain: Callable[[PromptBatch], torch.Tensor],
    ) -> Self | None:
        """Return a reader of the weights as they are now if its answers are those of `plain`.

        `plain` returns [B, 2] logits of whole prompts. None for whatever is not known here.
        """
        if not _is_known(model):
            return None
        reader, prompts = cls(model, answers), golden()
        shortest = int(prompts.lengths.min())
        for shared in (1, shortest // 2, shortest - 1):
            same = prompts.tokens[:1, :shared].expand(len(prompts), -1)
            mixed = PromptBatch(tokens=torch.cat([same, prompts.tokens[:, shared:]], dim=1))
            expected = plain(mixed)
            allowed = TOLERANCE * expected.abs().max().clamp_min(1)
            if not (reader.score(mixed, shared) - expected).abs().max() <= allowed:
                return None
        return reader

    def score(self, prompts: PromptBatch, shared: int) -> torch.Tensor:
        """Return [N, 2] fp32 logits of N prompts that are one for their first `shared` columns."""
        return torch.cat(self.answer(self.rows(self.read(prompts.tokens[0, :shared]), prompts)))

    def rows(self, prefix: Prefix, prompts: PromptBatch) -> list[Columns]:
        """Return what of N prompts follows a prefix, in parts that go through the model at once."""
        rests = prompts.columns(len(prefix))
        return [
            Columns.of(prefix, rests.take(slice(start, start + AT_ONCE)))
            for start in range(0, len(rests), AT_ONCE)
        ]

    def read(self, tokens: torch.Tensor) -> Prefix:
        """Return what the model makes of tokens [h]."""
        return self.encode_prefixes([tokens])[0]

    @torch.inference_mode()
    def encode_prefixes(self, prefixes: Sequence[torch.Tensor]) -> list[Prefix]:
        """Return what the model makes of several [h] tokens, each by itself, in one pass."""
        count, width = len(prefixes), max(map(len, prefixes))
        tokens = torch.nn.utils.rnn.pad_sequence(list(prefixes), batch_first=True).flatten()
        cos, sin = self._angles(0, torch.arange(width).repeat(count))
        x, states = self._embedded(tokens), []
        for number, layer in enumerate(self._layers):
            normed = _normed(x, layer.eps[0])
            key, value = (layer.others @ normed).chunk(2)
            query = _turned(layer.query @ normed, cos, sin)
            query, key, value = (
                one.view(self._heads, -1, count, width).permute(2, 0, 3, 1).contiguous()
                for one in (query, _turned(key, cos, sin), value)
            )
            states.append((key, value))
            if number + 1 < len(self._layers):
                # What is padded comes after what is there, which therefore does not see it.
                found = functional.scaled_dot_product_attention(
                    query, key, value, is_causal=True, scale=1.0
                )
                x = _completed(layer, x, found.permute(1, 3, 0, 2).reshape(x.shape))
        return [
            Prefix(
                tokens=own.clone(),
                states=tuple(
                    (
                        key[row : row + 1, :, : len(own)].clone(),
                        value[row : row + 1, :, : len(own)].clone(),
                    )
                    for key, value in states
                ),
            )
            for row, own in enumerate(prefixes)
        ]

    def answer(self, batch: Sequence[Columns]) -> list[torch.Tensor]:
        """Return for each row the [N, 2] logits of (Yes, No) of its rests, fp32 on the CPU."""
        return [self._answered(row) for row in batch]

    @torch.inference_mode()
    def _answered(self, row: Columns) -> torch.Tensor:
        cos, sin = self._angles(len(row.prefix), row.places)
        x = self._embedded(row.tokens)
        for number, state in enumerate(row.prefix.states):
            last = number + 1 == len(self._layers)
            asks = slice(-len(row.order), None) if last else slice(None)
            layer, normed = self._layers[number], _normed(x, self._layers[number].eps[0])
            query = _turned(layer.query @ normed[:, asks], cos[:, asks], sin[:, asks])
            key, value = (layer.others @ normed).chunk(2)
            key = _turned(key, cos, sin)
            found = self._attended((query, key, value), state, row.pairs(last=last), len(row.ends))
            x = _completed(layer, x[:, asks], found)
        logits = torch.empty(len(row.order), 2)
        logits[row.order] = (self._head @ _normed(x, self._eps)).t()
        return logits

    def _attended(
        self,
        own: tuple[torch.Tensor, ...],
        state: tuple[torch.Tensor, torch.Tensor],
        pairs: Sequence[tuple[int, slice, slice]],
        places: int,
    ) -> torch.Tensor:
        """Return [D, M] for M queries [D, M] over a prefix's states and keys and values [D, T]."""
        query, key, value = (one.view(self._heads, -1, one.shape[1]) for one in own)
        before = state[0].shape[2]
        scores = query.new_full((self._heads, before + places, query.shape[2]), -torch.inf)
        torch.bmm(state[0][0], query, out=scores[:, :before])
        for place, asks, gives in pairs:
            torch.sum(query[..., asks] * key[..., gives], 1, out=scores[:, before + place, asks])
        shares = scores.softmax(1)
        found = state[1][0].mT @ shares[:, :before]
        for place, asks, gives in pairs:
            found[..., asks].addcmul_(shares[:, None, before + place, asks], value[..., gives])
        return found.view(-1, query.shape[2])

    def _embedded(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return [D, T]."""
        return self._embedding.index_select(0, tokens).t().contiguous()

    def _angles(self, start: int, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return [size / 2, T] cosines and sines of the angles at `start` + [T] places."""
        positions = torch.arange(start, start + int(places.max()) + 1)
        turns = self._frequencies[:, None] * positions
        return turns.cos().index_select(1, places), turns.sin().index_select(1, places)


def _layer(layer: Any, heads: int) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    size = attention.q_proj.weight.shape[0] // heads
    others = torch.cat([attention.k_proj.weight, attention.v_proj.weight])
    first, second = layer.input_layernorm, layer.post_attention_layernorm
    up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
    return _Layer(
        query=attention.q_proj.weight * first.weight * size**-0.5,
        others=others * first.weight,
        out=attention.o_proj.weight.detach(),
        up=up * second.weight,
        down=mlp.down_proj.weight.detach(),
        eps=(first.variance_epsilon, second.variance_epsilon),
    )


def _completed(layer: _Layer, x: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Return [D, M]: what a layer makes of its input and of what attention found."""
    x = torch.addmm(x, layer.out, found)
    gate, up = (layer.up @ _normed(x, layer.eps[1])).chunk(2)
    return x.addmm_(layer.down, functional.silu(gate).mul_(up))


def _normed(x: torch.Tensor, eps: float) -> torch.Tensor:
    """Return the columns of [D, T], each over the root of its mean square."""
    return x * x.square().mean(0).add_(eps).rsqrt_()


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Return [D', T] heads turned by [size / 2, T] angles (RoPE, as Llama's halves do it)."""
    halves = x.view(-1, 2, *cos.shape)
    found = halves * cos
    found[:, 0].addcmul_(halves[:, 1], sin, value=-1)
    found[:, 1].addcmul_(halves[:, 0], sin)
    return found.view(x.shape)


def _is_known(model: nn.Module) -> TypeGuard[LlamaForCausalLM]:
    if type(model) is not LlamaForCausalLM:
        return False
    config: Any = model.config
    weights = list(model.parameters())
    return (
        {(one.dtype, one.device.type) for one in weights} == {(torch.float32, "cpu")}
        and _PARTS.issuperset(map(type, model.modules()))
        and config.attention_dropout == 0
        and config.hidden_act == "silu"
        and config.num_key_value_heads == config.num_attention_heads
        and config.head_dim * config.num_attention_heads == config.hidden_size
        and not (config.attention_bias or config.mlp_bias)
        and config.rope_parameters.get("rope_type") == "default"
    )
