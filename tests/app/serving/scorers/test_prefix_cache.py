"""Test the limit of the prefix cache, and that the cache drops forgotten users."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from app.serving.scorers.prefix_cache import PrefixCache
from models.inference.shared_prefix import Prefix

#: Bytes per token: keys and values of one layer with one head of eight float32 numbers.
TOKEN_BYTES = 2 * 8 * 4


def prefix(*tokens: int) -> Prefix:
    states = torch.tensor(tokens, dtype=torch.float32)[None, None, :, None].repeat(1, 1, 1, 8)
    return Prefix(tokens=torch.tensor(tokens), states=((states, states.clone()),))


def keep(cache: PrefixCache, user_id: str, kept: Prefix) -> None:
    cached, generation = cache.find(user_id, kept.tokens, 1)
    assert cached is None
    cache.keep(user_id, kept, generation)


def test_a_cached_prefix_is_found_by_its_tokens() -> None:
    cache, kept = PrefixCache(10 * TOKEN_BYTES), prefix(1, 2, 3)
    keep(cache, "ann", kept)

    cached, _ = cache.find("ann", torch.tensor([1, 2, 3]), 100)

    assert cached is not None
    assert cached.tokens.tolist() == [1, 2, 3]
    assert torch.equal(cached.states[0][0], kept.states[0][0])
    assert cache._nbytes == kept.nbytes == 3 * TOKEN_BYTES


@pytest.mark.parametrize("tokens", [[1, 2, 4], [2, 3], [1, 3, 3, 4], [7]])
def test_a_changed_history_is_a_miss(tokens: list[int]) -> None:
    cache = PrefixCache(10 * TOKEN_BYTES)
    keep(cache, "ann", prefix(1, 2, 3))

    assert cache.find("ann", torch.tensor(tokens), 1)[0] is None


def test_the_prefix_of_another_user_is_a_miss() -> None:
    cache = PrefixCache(10 * TOKEN_BYTES)
    keep(cache, "ann", prefix(1, 2, 3))

    assert cache.find("bob", torch.tensor([1, 2, 3]), 1)[0] is None


def test_a_slightly_shorter_or_longer_prefix_is_a_hit() -> None:
    """Titles may start with the same tokens, which lengthens the prefix of the same history."""
    cache = PrefixCache(10 * TOKEN_BYTES)
    keep(cache, "ann", prefix(1, 2, 3, 4))

    shorter, _ = cache.find("ann", torch.tensor([1, 2]), 100)
    longer, _ = cache.find("ann", torch.tensor([1, 2, 3, 4, 5]), 5)
    too_many, _ = cache.find("ann", torch.tensor([1, 2, 3, 4, 5]), 6)

    assert shorter is not None
    assert shorter.tokens.tolist() == [1, 2]
    assert shorter.states[0][0].shape == (1, 1, 2, 8)
    assert longer is not None
    assert longer.tokens.tolist() == [1, 2, 3, 4]
    assert too_many is None  # One more token per candidate costs more than the history.


def test_the_least_recently_used_prefix_is_dropped_first() -> None:
    cache = PrefixCache(4 * TOKEN_BYTES)
    keep(cache, "ann", prefix(1, 2))
    keep(cache, "bob", prefix(3, 4))
    cache.find("ann", torch.tensor([1, 2]), 1)

    keep(cache, "eve", prefix(5))

    assert cache.find("bob", torch.tensor([3, 4]), 1)[0] is None
    assert cache.find("ann", torch.tensor([1, 2]), 1)[0] is not None
    assert cache._nbytes == 3 * TOKEN_BYTES


def test_a_newer_prefix_replaces_the_older_prefix() -> None:
    cache = PrefixCache(4 * TOKEN_BYTES)
    keep(cache, "ann", prefix(1, 2))
    keep(cache, "ann", prefix(1, 3, 4))

    assert len(cache._prefixes) == 1
    assert cache._nbytes == 3 * TOKEN_BYTES


@pytest.mark.parametrize("limit", [0, 3 * TOKEN_BYTES - 1])
def test_a_prefix_larger_than_the_limit_is_not_cached(limit: int) -> None:
    cache = PrefixCache(limit)
    keep(cache, "ann", prefix(1, 2, 3))

    assert (len(cache._prefixes), cache._nbytes) == (0, 0)


def test_forget_drops_one_user_or_all_users() -> None:
    cache = PrefixCache(10 * TOKEN_BYTES)
    for number, user_id in enumerate(("ann", "bob", "eve")):
        keep(cache, user_id, prefix(number))

    cache.forget("ann")
    assert cache.find("ann", torch.tensor([0]), 1)[0] is None
    assert cache._nbytes == 2 * TOKEN_BYTES
    cache.forget("unknown")
    assert len(cache._prefixes) == 2
    cache.forget(None)
    assert (len(cache._prefixes), cache._nbytes) == (0, 0)


@pytest.mark.parametrize("forgotten", ["ann", None])
def test_a_prefix_computed_while_a_user_is_forgotten_is_not_cached(
    forgotten: str | None,
) -> None:
    cache = PrefixCache(10 * TOKEN_BYTES)
    _, generation = cache.find("ann", torch.tensor([1]), 1)
    cache.forget(forgotten)

    cache.keep("ann", prefix(1), generation)

    assert len(cache._prefixes) == 0


def test_the_limit_holds_under_many_threads() -> None:
    cache, sizes = PrefixCache(5 * TOKEN_BYTES), []

    def use(number: int) -> None:
        kept = prefix(*range(1 + number % 4))
        _, generation = cache.find(f"user {number % 7}", kept.tokens, 1)
        cache.keep(f"user {number % 7}", kept, generation)
        sizes.append(cache._nbytes)
        if number % 11 == 0:
            cache.forget(f"user {number % 7}")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, range(2000)))
    use(1)  # The last of the parallel calls can be one that empties the cache.

    assert max(sizes) <= 5 * TOKEN_BYTES
    assert cache._nbytes == sum(kept.nbytes for kept in cache._prefixes.values()) > 0
