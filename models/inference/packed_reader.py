"""Score many candidates of one user with prefix caching and packed sequences.

      prefix   │  suffix a   │ suffix b
    p0 p1 … ph │ a0 a1 a2 a3 │ b0 b1 b2      positions continue from the prefix for each suffix

The model reads the prefix that all candidates share once; its keys and values are cached. The
suffixes are packed into rows behind that cache, where the attention mask lets each suffix see the
prefix and itself only. Nothing is copied or padded per candidate.

Some architectures cannot be called like this, for example with ALiBi (distances from columns) or a
recurrent state. `PackedReader.verified` compares the logits of each model with and without packing.
"""

from __future__ import annotations

import inspect
import threading
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn import functional
from transformers import DynamicCache

from models.inference.shared_prefix import Prefix
from models.inference.split_attention import SplitAttention
from models.prompts.prompt_batch import PromptBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Suffix tokens per row. Attention grows with its square, and every row reads all weights: 160 to
#: 256 are fastest for SmolLM2-135M on one core, in float32 and in bfloat16.
ROW_TOKENS: Final = 256
#: Maximum deviation of packed logits, relative to the largest logit. Lower precisions round
#: differently in another order; a wrong mask or position changes logits far more.
_TOLERANCES: Final = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
#: Result of `_verify` per model: whether the head is linear, or None if packing is not usable.
_verified: WeakKeyDictionary[nn.Module, bool | None] = WeakKeyDictionary()
_verification_lock = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """N suffixes, each [c] int64 tokens, to be read behind one prefix."""

    prefix: Prefix
    suffixes: Sequence[torch.Tensor]

    @property
    def width(self) -> int:
        """Return the number of suffix tokens."""
        return sum(map(len, self.suffixes))


def group_by_tokens(
    suffixes: Sequence[torch.Tensor], limit: int = ROW_TOKENS
) -> list[Sequence[torch.Tensor]]:
    """Split suffixes, in order, into groups of at most `limit` tokens or a single suffix."""
    groups, start, tokens = [], 0, 0
    for index, suffix in enumerate(suffixes):
        if index > start and tokens + len(suffix) > limit:
            groups.append(suffixes[start:index])
            start, tokens = index, 0
        tokens += len(suffix)
    return [*groups, suffixes[start:]] if suffixes else []


class PackedReader:
    """Score packed rows with a causal language model, with or without a PEFT adapter.

    Thread-safe: neither the model nor a prefix is ever changed.
    """

    batches_requests = True

    def __init__(self, model: nn.Module, answers: tuple[int, int], *, linear_head: bool) -> None:
        """Take a model; `linear_head`: its logits are the output of one linear layer."""
        self.model = model
        self.inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator] # transformers and peft are untyped
        self._answers = list(answers)
        self.linear_head = linear_head

    @classmethod
    def verified(
        cls,
        model: nn.Module,
        answers: tuple[int, int],
        golden: Callable[[], PromptBatch],
        reference: Callable[[PromptBatch], torch.Tensor],
    ) -> Self | None:
        """Return a reader if its logits agree with those of `reference`, else None.

        Verified once per model, on pieces of the `golden` prompts; `reference` returns [B, 2]
        logits of whole prompts.
        """
        # The first look-up takes no lock, so that requests do not wait while another model is
        # verified.
        if model not in _verified:
            with _verification_lock:
                if model not in _verified:
                    reader = cls(model, answers, linear_head=False)
                    _verified[model] = _verify(reader, golden(), reference)
        linear_head = _verified[model]
        return None if linear_head is None else cls(model, answers, linear_head=linear_head)

    def score(self, prompts: PromptBatch, shared: int) -> torch.Tensor:
        """Return [N, 2] float32 logits of N prompts whose first `shared` columns are the same."""
        rows = self.rows(self.encode_prefix(prompts.tokens[0, :shared]), prompts)
        return torch.cat([self.answer([row])[0] for row in rows])

    def rows(self, prefix: Prefix, prompts: PromptBatch) -> list[Row]:
        """Return the suffixes of N prompts with this prefix, in rows of at most ROW_TOKENS."""
        suffixes = prompts.token_rows(len(prefix))
        return [Row(prefix=prefix, suffixes=group) for group in group_by_tokens(suffixes)]

    def encode_prefixes(self, prefixes: Sequence[torch.Tensor]) -> list[Prefix]:
        """Return the key/value caches of several [h] token sequences.

        Each sequence gets a pass of its own: long sequences are not faster in a batch.
        """
        return [self.encode_prefix(tokens) for tokens in prefixes]

    @torch.inference_mode()
    def encode_prefix(self, tokens: torch.Tensor) -> Prefix:
        """Return the key/value cache of tokens [h]."""
        cache = DynamicCache(config=self.inner.config)
        inputs = tokens[None].to(self.inner.device)
        arguments = {"logits_to_keep": 1, "past_key_values": cache, "use_cache": True}
        self.model(input_ids=inputs, **arguments)
        states = tuple((layer.keys, layer.values) for layer in cache.layers)
        # A view of the tokens would keep the prompts of all candidates in memory.
        return Prefix(tokens=tokens.clone(), states=states)

    @torch.inference_mode()
    def answer(self, batch: Sequence[Row]) -> list[torch.Tensor]:
        """Return for each row the [N, 2] logits of (Yes, No), float32 on the CPU."""
        prefix_width = max(len(row.prefix) for row in batch)
        packed_rows = [_pack(row) for row in batch]
        tokens, positions, owners = (
            nn.utils.rnn.pad_sequence(
                [packed[part] for packed in packed_rows], batch_first=True, padding_value=filler
            )
            for part, filler in ((0, 0), (1, 0), (2, -1))
        )
        like = batch[0].prefix.states[0][0]
        inputs = {
            "input_ids": tokens.to(like.device),
            "position_ids": positions.to(like.device),
            "attention_mask": attention_mask(owners, [len(row.prefix) for row in batch]).to(like),
            "past_key_values": self._cache([row.prefix for row in batch], prefix_width),
            "use_cache": True,
        }
        counts = [len(row.suffixes) for row in batch]
        row_indices = torch.arange(len(batch)).repeat_interleave(torch.tensor(counts))
        last_columns = torch.cat([packed[3] for packed in packed_rows])
        lengths = torch.tensor([len(suffix) for row in batch for suffix in row.suffixes])
        starts = row_indices * tokens.shape[1] + last_columns + 1 - lengths
        split = SplitAttention(inputs["attention_mask"], prefix_width, starts, lengths)
        with split if split.is_faster else nullcontext():
            logits = self._logits(inputs, row_indices, last_columns)
        return list(logits.float().cpu().split(counts))  # type: ignore[no-untyped-call] # torch's own

    def _logits(
        self, inputs: dict[str, Any], row_indices: torch.Tensor, columns: torch.Tensor
    ) -> torch.Tensor:
        """Return the [M, 2] logits of (Yes, No) at M places, given by row and column.

        With a linear head, only its two answer rows are computed.
        """
        if self.linear_head:
            states = self.inner.get_decoder()(**inputs).last_hidden_state
            hidden = states[row_indices, columns].float()
            head = self.inner.get_output_embeddings()
            bias = None if head.bias is None else head.bias[self._answers].float()
            return functional.linear(hidden, head.weight[self._answers].float(), bias)
        kept_columns, kept_index = torch.unique(columns, return_inverse=True)
        kept_columns = kept_columns.to(inputs["input_ids"].device)
        logits: torch.Tensor = self.model(**inputs, logits_to_keep=kept_columns).logits
        return logits[row_indices, kept_index][:, self._answers]

    def _cache(self, prefixes: Sequence[Prefix], width: int) -> DynamicCache:
        """Return a new cache of these prefixes, padded on the left to `width` columns."""
        cache = DynamicCache(config=self.inner.config)
        for index, layer in enumerate(zip(*(prefix.states for prefix in prefixes), strict=True)):
            keys, values = (_stack(states, width) for states in zip(*layer, strict=True))
            cache.update(keys, values, index)
        return cache


def fits_sliding_windows(model: nn.Module, prompts: PromptBatch) -> bool:
    """Return whether every sliding attention window of a causal model covers the longest prompt.

    Behind a padded cache, a shorter window would count padding and lose tokens before it.
    """
    longest = max(prompts.lengths.tolist(), default=0)
    windows = [
        getattr(layer, "sliding_window", None) for layer in DynamicCache(config=model.config).layers
    ]
    return all(window is None or longest <= window for window in windows)


def _stack(states: Sequence[torch.Tensor], width: int) -> torch.Tensor:
    """Return [U, heads, width, head size] from U states [1, heads, h, head size], left-padded."""
    if len(states) == 1:
        return states[0]
    return torch.cat(
        [functional.pad(state, (0, 0, width - state.shape[-2], 0)) for state in states]
    )


def _pack(row: Row) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a row's tokens, positions and owning suffixes, all [T], and last columns [N]."""
    lengths = torch.tensor([len(suffix) for suffix in row.suffixes])
    ends = lengths.cumsum(0)
    owners = torch.arange(len(lengths)).repeat_interleave(lengths)
    positions = len(row.prefix) + torch.arange(len(owners)) - (ends - lengths)[owners]
    return torch.cat(list(row.suffixes)), positions, owners, ends - 1


def attention_mask(owners: torch.Tensor, prefix_lengths: Sequence[int]) -> torch.Tensor:
    """Return the additive attention mask [U, 1, T, H + T] of U packed rows.

    `owners` [U, T]: the suffix of each token. Visible columns are 0, all others float16's minimum:
    far below any attention score, and finite in every precision.
    """
    width, length = max(prefix_lengths), owners.shape[1]
    prefix_present = torch.arange(width) >= width - torch.tensor(prefix_lengths)[:, None]
    same_suffix = owners[:, :, None] == owners[:, None, :]
    causal = torch.ones(length, length).bool().tril()
    visible = torch.cat(
        [prefix_present[:, None, :].expand(-1, length, -1), same_suffix & causal], dim=2
    )
    hidden = torch.finfo(torch.float16).min
    return torch.zeros(visible.shape).masked_fill(~visible, hidden)[:, None]


def _verify(
    reader: PackedReader, golden: PromptBatch, reference: Callable[[PromptBatch], torch.Tensor]
) -> bool | None:
    """Return None if packed logits of pieces of the golden prompts differ from `reference`.

    Otherwise return whether the model's head is linear.
    """
    parameters = inspect.signature(reader.inner.forward).parameters
    if not parameters.keys() >= {"position_ids", "past_key_values", "logits_to_keep"}:
        return None
    first, *others = golden.token_rows(0)
    pieces = []
    for length in (len(first) // 2, len(first) // 4):
        ends = [text[length:] for text in (first[: len(first) // 2 + 1], first, *others)]
        pieces.append((first[:length], [end for end in ends if len(end)]))
    whole = [torch.cat([start, end]) for start, ends in pieces for end in ends]
    expected = reference(PromptBatch.from_rows(whole))
    try:
        reader.linear_head = _has_linear_head(reader, first)
        rows = [Row(prefix=reader.encode_prefix(start), suffixes=ends) for start, ends in pieces]
        packed = torch.cat(reader.answer(rows))
    except Exception:  # noqa: BLE001 - any model may fail in its own way when called like this
        return None
    tolerance = _TOLERANCES.get(reader.inner.dtype, 0) * expected.abs().max()
    return reader.linear_head if (packed - expected).abs().max() <= tolerance else None


@torch.inference_mode()
def _has_linear_head(reader: PackedReader, tokens: torch.Tensor) -> bool:
    """Return whether one linear layer maps the decoder's last hidden states to the logits."""
    head, inputs = reader.inner.get_output_embeddings(), tokens[None].to(reader.inner.device)
    if type(head) is not nn.Linear:
        return False
    logits = reader.model(input_ids=inputs, use_cache=False, logits_to_keep=1).logits
    hidden = reader.inner.get_decoder()(input_ids=inputs, use_cache=False).last_hidden_state
    return torch.equal(head(hidden[:, -1:]).float(), logits.float())
