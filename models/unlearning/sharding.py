"""Which shard a training sample belongs to, and what a shard's member is known by.

Both are computed anew from the retained data in every job, so that no artefact has to say who is
where. A sample's shard depends on the sample itself (a hash of ids that are stable between jobs, or
fixed random directions), and at most on K prices that keep shards balanced. Prices are of all the
retained data, but so coarse that one person hardly ever changes them; where one does, the seals of
the shards differ, and their members are trained again.
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
#: One sign per bit of a 64-bit hash.
SIGNS: Final = 64
_LIKED_FROM: Final = 2.5


def hashes(texts: Sequence[str], seed: int) -> NDArray[np.uint64]:
    """Return [N] uint64 hashes of texts; the same texts and seed give the same ones everywhere."""
    key = seed.to_bytes(8, "big", signed=True)
    digests = [hashlib.blake2b(text.encode(), digest_size=8, key=key).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def by_hash(samples: Samples, data: Interactions, seed: int, shards: int) -> NDArray[np.int64]:
    """Return [M] shards of samples: as good as random, and the same whenever it is asked again."""
    users = hashes([user.id for user in data.users], seed)
    items = hashes([item.id for item in data.items], seed + 1)
    mixed = users[samples.user] ^ items[samples.candidate]
    # A product's high bits depend on all of the factor's bits; its low ones do not.
    spread = (mixed * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(33)
    return (spread % np.uint64(shards)).astype(np.int64)


def tastes(data: Interactions, before: int, seed: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return [U, SIGNS] float64 features of length 1 of every user, and [U] how many ratings.

    A user is the sum of their own ratings' items (before a moment, in Unix seconds), weighted by
    how much they liked them; an item is random signs for itself and for each of its attributes.
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
    """Return [N] shards of [N, D] features of length 1, of about equal total [N] `weight`.

    Each goes to the direction it is most like, less that direction's price: a balanced k-means
    whose centres are random and fixed, because learned ones would remember whom they are of.
    """
    generator = np.random.default_rng(seed)
    directions = generator.normal(size=(shards, features.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    scores = features @ directions.T
    priced: NDArray[np.int64] = (scores - prices(scores, weight)).argmax(axis=1)
    return priced


def prices(scores: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
    """Return [K] prices, in steps of PRICE_STEP, at which [N, K] scores share `weight` evenly."""
    found = np.zeros(scores.shape[1])
    total = float(weight.sum())
    if not total:
        return found
    for _ in range(_ROUNDS):
        wish = (scores - found) / _SOFTNESS
        wish = np.exp(wish - wish.max(axis=1, keepdims=True))
        share = weight @ (wish / wish.sum(axis=1, keepdims=True)) / total
        found += _SOFTNESS * np.log(np.maximum(share * len(found), 1e-9))
        found -= found.mean()
    stepped: NDArray[Any] = np.round(found / PRICE_STEP) * PRICE_STEP
    return stepped


def shard_fingerprint(
    recipe: Mapping[str, Any],
    prompts: PromptBatch,
    labels: torch.Tensor,
    state: Mapping[str, torch.Tensor],
) -> str:
    """Return a SHA-256 over all that a member was trained by and on, and what came out.

    A member that has its seal is, bit for bit, what training on these samples gives.
    """
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode())
    # A token may be padding in one place and a word in another.
    given = {"prompts": prompts.tokens, "present": prompts.mask, "labels": labels}
    for name, tensor in (*given.items(), *sorted(state.items())):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        # As bytes, because NumPy knows no bfloat16.
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
