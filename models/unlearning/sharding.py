"""Assign training samples to shards, and compute shard fingerprints.

Both are computed from the retained data in every job, so that no artifact stores which user is in
which shard. A sample's shard depends on the sample itself (a hash of ids that are stable between
jobs, or fixed random directions) and at most on K prices that balance the shards. Prices depend on
all retained data but are rounded so coarsely that one user rarely changes them. Where the prices do
change, the shard fingerprints differ and the members are retrained.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from models.data.interactions import Interactions, ItemRecord
    from models.data.samples import Samples
    from models.prompts.prompt_batch import PromptBatch

#: Prices are multiples of this; features have length 1.
PRICE_STEP: Final = 0.02
_SOFTNESS: Final = 0.02
_ROUNDS: Final = 200
#: Number of features of an item: a sign for each bit of a 64-bit hash.
SIGNS: Final = 64
_LIKED_FROM: Final = 2.5


def hashes(texts: Sequence[str], seed: int) -> NDArray[np.uint64]:
    """Return [N] uint64 hashes of N texts, which are the same on every machine."""
    key = seed.to_bytes(8, "big", signed=True)
    digests = [hashlib.blake2b(text.encode(), digest_size=8, key=key).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def by_hash(samples: Samples, data: Interactions, seed: int, shards: int) -> NDArray[np.int64]:
    """Return [M] pseudo-random shard indices of samples, which depend on ids and seed alone."""
    users = hashes([user.id for user in data.users], seed)
    items = hashes([item.id for item in data.items], seed + 1)
    mixed = users[samples.user] ^ items[samples.candidate]
    # The product's high bits depend on all bits of `mixed`, its low bits do not.
    spread = (mixed * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(33)
    return (spread % np.uint64(shards)).astype(np.int64)


def tastes(data: Interactions, before: int, seed: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return every user's [U, SIGNS] float64 features of length 1, and [U] numbers of ratings.

    A user's features are the sum over the user's ratings earlier than `before` (Unix seconds) of
    the item's features, weighted by the rating less the middle of the scale. An item's features are
    random signs, summed over its id and its attributes.
    """
    early = data.timestamp < before
    user, item = data.user[early], data.item[early]
    signs = np.zeros((len(data.items), SIGNS))
    rated = np.unique(item)
    for item_index in rated.tolist():
        signs[item_index] = _signs(data.items[item_index], seed)
    weighted = signs[item] * (data.rating[early] - _LIKED_FROM)[:, None]
    features = np.zeros((len(data.users), SIGNS))
    np.add.at(features, user, weighted)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    counts = np.bincount(user, minlength=len(data.users))
    return features / np.maximum(length, 1e-12), counts


def _signs(item: ItemRecord, seed: int) -> NDArray[Any]:
    names = [item.id, *(f"{name}:{v}" for name, values in item.attributes.items() for v in values)]
    bits = np.unpackbits(hashes(names, seed).view(np.uint8)).reshape(len(names), SIGNS)
    total: NDArray[Any] = (2.0 * bits - 1).sum(axis=0)
    return total


def balanced(
    features: NDArray[Any], weight: NDArray[Any], seed: int, shards: int
) -> NDArray[np.int64]:
    """Return [N] shard indices of [N, D] features of length 1, with about equal sums of `weight`.

    Each row goes to the direction with the largest cosine less the direction's price. This is a
    balanced k-means with fixed random centers; learned centers would depend on forgotten users.
    """
    generator = np.random.default_rng(seed)
    directions = generator.normal(size=(shards, features.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    scores = features @ directions.T
    priced: NDArray[np.int64] = (scores - prices(scores, weight)).argmax(axis=1)
    return priced


def prices(scores: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
    """Return [K] prices, multiples of PRICE_STEP, that divide [N] `weight` evenly by [N, K] scores.

    The assignment of a row is a softmax over its scores less the prices, with width _SOFTNESS.
    """
    exact = np.zeros(scores.shape[1])
    total = float(weight.sum())
    if not total:
        return exact
    for _ in range(_ROUNDS):
        odds = (scores - exact) / _SOFTNESS
        odds = np.exp(odds - odds.max(axis=1, keepdims=True))
        share = weight @ (odds / odds.sum(axis=1, keepdims=True)) / total
        exact += _SOFTNESS * np.log(np.maximum(share * len(exact), 1e-9))
        exact -= exact.mean()
    rounded: NDArray[Any] = np.round(exact / PRICE_STEP) * PRICE_STEP
    return rounded


def shard_fingerprint(
    recipe: Mapping[str, Any],
    prompts: PromptBatch,
    labels: torch.Tensor,
    state: Mapping[str, torch.Tensor],
) -> str:
    """Return the SHA-256 of a member's recipe, prompts, labels and trained tensors.

    A member whose fingerprint matches equals, bit for bit, the result of training on these samples.
    """
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode())
    # The mask is needed because the padding token can also be a word.
    inputs = {"prompts": prompts.tokens, "present": prompts.mask, "labels": labels}
    for name, tensor in (*inputs.items(), *sorted(state.items())):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        # As bytes, because NumPy has no bfloat16.
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
