"""Reads what prompts share once, and then their rests behind it, several packed into one row.

      prefix   │   rest a    │  rest b
    p0 p1 … ph │ a0 a1 a2 a3 │ b0 b1 b2      positions go on from the prefix, anew for each rest

A rest sees the prefix and itself, through a mask. Nothing is copied per candidate, and a row of any
rests is as long as their tokens together. Not every architecture can be called like this: one that
measures distances by columns, or keeps a running state, would answer something else. So a model
must prove once that its packed answers are its plain ones; see `PackedReader.of`.
"""

from __future__ import annotations

import inspect
import threading
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, Self
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn import functional
from transformers import DynamicCache

from models.inference.split_attention import SplitAttention
from models.prompts.prompt_batch import PromptBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Tokens of rests in one row. Attention grows with the square of it, and every row reads all the
#: weights: 160 to 256 are fastest for SmolLM2-135M on one core, in fp32 and in bf16.
ROW_TOKENS: Final = 256
#: How far packed answers may be from plain ones, as a share of the largest logit. Precisions round
#: each in another order; a wrong mask or position moves logits as much as another prompt does.
_TOLERANCES: Final = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
#: Whether the head of a model is plain, or None where it cannot be read packed.
_proven: WeakKeyDictionary[nn.Module, bool | None] = WeakKeyDictionary()
_proving = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prefix:
    """Tokens [h], and per layer the keys and values [1, heads, h, size] of a model for them."""

    tokens: torch.Tensor
    states: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        """Return how much memory the states take."""
        return sum(each.nbytes for pair in self.states for each in pair)

    def cut(self, length: int) -> Prefix:
        """Return the first tokens only: a causal model made the same of them. Nothing is copied."""
        states = tuple(
            (keys[..., :length, :], values[..., :length, :]) for keys, values in self.states
        )
        return Prefix(tokens=self.tokens[:length], states=states)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """N rests, each [c] int64 tokens, that go through a model behind one prefix."""

    prefix: Prefix
    rests: Sequence[torch.Tensor]

    @property
    def width(self) -> int:
        """Return the number of tokens."""
        return sum(map(len, self.rests))


class Reader(Protocol):
    """What reads prefixes, and rests behind them in rows of its own making, each with a `width`.

    Thread-safe: it only reads the model, and no prefix is ever changed.
    """

    @property
    def joins(self) -> bool:
        """Say whether rows of several requests gain by going through the model together."""

    def encode_prefixes(self, prefixes: Sequence[torch.Tensor]) -> list[Prefix]:
        """Return what the model makes of several [h] tokens, each by itself."""

    def rows(self, prefix: Prefix, prompts: PromptBatch) -> Sequence[Any]:
        """Return what of N prompts follows a prefix, in rows that `answer` takes, in order."""

    def answer(self, batch: Sequence[Any]) -> list[torch.Tensor]:
        """Return for each row the [N, 2] logits of (Yes, No) of its rests, fp32 on the CPU."""


def group_by_tokens(
    rests: Sequence[torch.Tensor], tokens: int = ROW_TOKENS
) -> list[Sequence[torch.Tensor]]:
    """Cut rests, in order, into groups of at most so many tokens; a longer one is alone."""
    groups, start, held = [], 0, 0
    for place, rest in enumerate(rests):
        if place > start and held + len(rest) > tokens:
            groups.append(rests[start:place])
            start, held = place, 0
        held += len(rest)
    return [*groups, rests[start:]] if rests else []


class PackedReader:
    """A causal language model, PEFT-wrapped or not, that is known to answer packed rows.

    Thread-safe: it only reads the model, and no prefix is ever changed.
    """

    joins = True

    def __init__(self, model: nn.Module, answers: tuple[int, int], *, plain_head: bool) -> None:
        """Take a model whose head is a linear layer and nothing else (`plain_head`), or not."""
        self.model = model
        self.inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator] # transformers and peft are untyped
        self._answers = list(answers)
        self.plain_head = plain_head

    @classmethod
    def of(
        cls,
        model: nn.Module,
        answers: tuple[int, int],
        golden: Callable[[], PromptBatch],
        plain: Callable[[PromptBatch], torch.Tensor],
    ) -> Self | None:
        """Return a reader if packed answers are those of `plain`, and else None.

        That is looked at once per model, on pieces of the golden prompts; `plain` returns [B, 2]
        logits of whole prompts.
        """
        if model not in _proven:  # Without the lock: nobody's answer waits for another's proof.
            with _proving:
                if model not in _proven:
                    _proven[model] = _prove(cls(model, answers, plain_head=False), golden(), plain)
        head = _proven[model]
        return None if head is None else cls(model, answers, plain_head=head)

    def score(self, prompts: PromptBatch, shared: int) -> torch.Tensor:
        """Return [N, 2] fp32 logits of N prompts that are one for their first `shared` columns."""
        rows = self.rows(self.read(prompts.tokens[0, :shared]), prompts)
        return torch.cat([self.answer([row])[0] for row in rows])

    def rows(self, prefix: Prefix, prompts: PromptBatch) -> list[Row]:
        """Return what of N prompts follows a prefix, in rows of at most ROW_TOKENS."""
        rests = prompts.token_rows(len(prefix))
        return [Row(prefix=prefix, rests=few) for few in group_by_tokens(rests)]

    def encode_prefixes(self, prefixes: Sequence[torch.Tensor]) -> list[Prefix]:
        """Return what the model makes of several [h] tokens: long ones gain nothing together."""
        return [self.read(tokens) for tokens in prefixes]

    @torch.inference_mode()
    def read(self, tokens: torch.Tensor) -> Prefix:
        """Return what the model makes of tokens [h]."""
        cache = DynamicCache(config=self.inner.config)
        inputs = tokens[None].to(self.inner.device)
        arguments = {"logits_to_keep": 1, "past_key_values": cache, "use_cache": True}
        self.model(input_ids=inputs, **arguments)
        states = tuple((layer.keys, layer.values) for layer in cache.layers)
        # A copy: a view would keep the prompts of all candidates as long as the prefix is kept.
        return Prefix(tokens=tokens.clone(), states=states)

    @torch.inference_mode()
    def answer(self, batch: Sequence[Row]) -> list[torch.Tensor]:
        """Return for each row the [N, 2] logits of (Yes, No) of its rests, fp32 on the CPU."""
        width = max(len(row.prefix) for row in batch)
        parts = [_lay_out(row) for row in batch]
        tokens, places, owners = (
            nn.utils.rnn.pad_sequence(
                [part[kind] for part in parts], batch_first=True, padding_value=filler
            )
            for kind, filler in ((0, 0), (1, 0), (2, -1))
        )
        like = batch[0].prefix.states[0][0]
        inputs = {
            "input_ids": tokens.to(like.device),
            "position_ids": places.to(like.device),
            "attention_mask": attention_mask(owners, [len(row.prefix) for row in batch]).to(like),
            "past_key_values": self._cache([row.prefix for row in batch], width),
            "use_cache": True,
        }
        counts = [len(row.rests) for row in batch]
        line = torch.arange(len(batch)).repeat_interleave(torch.tensor(counts))
        column = torch.cat([part[3] for part in parts])
        lengths = torch.tensor([len(rest) for row in batch for rest in row.rests])
        starts = line * tokens.shape[1] + column + 1 - lengths
        split = SplitAttention(inputs["attention_mask"], width, starts, lengths)
        with split if split.faster else nullcontext():
            logits = self._logits(inputs, line, column)
        return list(logits.float().cpu().split(counts))  # type: ignore[no-untyped-call] # torch's own

    def _logits(
        self, inputs: dict[str, Any], line: torch.Tensor, column: torch.Tensor
    ) -> torch.Tensor:
        """Return [M, 2] logits at M places; of a plain head only the two answers' rows count."""
        if self.plain_head:
            hidden = self.inner.get_decoder()(**inputs).last_hidden_state[line, column].float()
            head = self.inner.get_output_embeddings()
            bias = None if head.bias is None else head.bias[self._answers].float()
            return functional.linear(hidden, head.weight[self._answers].float(), bias)
        kept, place = torch.unique(column, return_inverse=True)
        kept = kept.to(inputs["input_ids"].device)
        logits: torch.Tensor = self.model(**inputs, logits_to_keep=kept).logits
        return logits[line, place][:, self._answers]

    def _cache(self, prefixes: Sequence[Prefix], width: int) -> DynamicCache:
        """Return a cache of its own with these prefixes, padded on the left to `width` columns."""
        cache = DynamicCache(config=self.inner.config)
        for index, layer in enumerate(zip(*(prefix.states for prefix in prefixes), strict=True)):
            keys, values = (_stacked(kind, width) for kind in zip(*layer, strict=True))
            cache.update(keys, values, index)
        return cache


def within_windows(model: nn.Module, prompts: PromptBatch) -> bool:
    """Say whether no sliding window of a causal model is shorter than the longest prompt.

    Behind a cache such a window would count columns of padding, and lose what comes before it.
    """
    longest = max(prompts.lengths.tolist(), default=0)
    windows = [
        getattr(one, "sliding_window", None) for one in DynamicCache(config=model.config).layers
    ]
    return all(window is None or longest <= window for window in windows)


def _stacked(states: Sequence[torch.Tensor], width: int) -> torch.Tensor:
    """Return [U, heads, width, size] from U states [1, heads, h, size], padded on the left."""
    if len(states) == 1:
        return states[0]
    return torch.cat([functional.pad(one, (0, 0, width - one.shape[-2], 0)) for one in states])


def _lay_out(row: Row) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a row's [T] tokens, positions and owners (which rest), and the [N] last columns."""
    lengths = torch.tensor([len(rest) for rest in row.rests])
    ends = lengths.cumsum(0)
    owners = torch.arange(len(lengths)).repeat_interleave(lengths)
    places = len(row.prefix) + torch.arange(len(owners)) - (ends - lengths)[owners]
    return torch.cat(list(row.rests)), places, owners, ends - 1


def attention_mask(owners: torch.Tensor, prefixes: Sequence[int]) -> torch.Tensor:
    """Return [U, 1, T, H + T], 0 where a token of a row sees a column, and very little elsewhere.

    It is added to the scores of attention, which every implementation understands, in whatever
    precision: the least of the coarsest is far below any score.
    """
    width, length = max(prefixes), owners.shape[1]
    there = torch.arange(width) >= width - torch.tensor(prefixes)[:, None]
    own = (owners[:, :, None] == owners[:, None, :]) & torch.ones(length, length).bool().tril()
    seen = torch.cat([there[:, None, :].expand(-1, length, -1), own], dim=2)
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float16).min)[:, None]


def _prove(
    reader: PackedReader, golden: PromptBatch, plain: Callable[[PromptBatch], torch.Tensor]
) -> bool | None:
    """Return whether the head is plain if rows of golden pieces are answered right, else None."""
    known = inspect.signature(reader.inner.forward).parameters
    if not known.keys() >= {"position_ids", "past_key_values", "logits_to_keep"}:
        return None
    first, *others = golden.token_rows(0)
    batch = []
    for length in (len(first) // 2, len(first) // 4):
        ends = [text[length:] for text in (first[: len(first) // 2 + 1], first, *others)]
        batch.append((first[:length], [end for end in ends if len(end)]))
    whole = [torch.cat([start, end]) for start, ends in batch for end in ends]
    expected = plain(PromptBatch.from_rows(whole))
    try:
        reader.plain_head = _has_plain_head(reader, first)
        rows = [Row(prefix=reader.read(start), rests=ends) for start, ends in batch]
        found = torch.cat(reader.answer(rows))
    except Exception:  # noqa: BLE001 - code of others, called in a way that it need not know
        return None
    allowed = _TOLERANCES.get(reader.inner.dtype, 0) * expected.abs().max()
    return reader.plain_head if (found - expected).abs().max() <= allowed else None


@torch.inference_mode()
def _has_plain_head(reader: PackedReader, tokens: torch.Tensor) -> bool:
    """Say whether the model's logits are what one linear layer makes of its last states."""
    head, inputs = reader.inner.get_output_embeddings(), tokens[None].to(reader.inner.device)
    if type(head) is not nn.Linear:
        return False
    logits = reader.model(input_ids=inputs, use_cache=False, logits_to_keep=1).logits
    hidden = reader.inner.get_decoder()(input_ids=inputs, use_cache=False).last_hidden_state
    return torch.equal(head(hidden[:, -1:]).float(), logits.float())
