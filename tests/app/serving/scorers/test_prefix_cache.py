"""The cache of prefixes holds no more than it may, and nothing that was forgotten."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from app.serving.scorers.prefix_cache import PrefixCache
from models.inference.shared_prefix import Prefix

#: Of one token: keys and values of one layer, one head of eight numbers of four bytes.
TOKEN = 2 * 8 * 4


def prefix(*tokens: int) -> Prefix:
    states = torch.tensor(tokens, dtype=torch.float32)[None, None, :, None].repeat(1, 1, 1, 8)
    return Prefix(tokens=torch.tensor(tokens), states=((states, states.clone()),))


def keep(cache: PrefixCache, user_id: str, kept: Prefix) -> None:
    found, moment = cache.find(user_id, kept.tokens, 1)
    assert found is None
    cache.keep(user_id, kept, moment)


def test_what_was_kept_is_found_by_its_tokens() -> None:
    cache, kept = PrefixCache(10 * TOKEN), prefix(1, 2, 3)
    keep(cache, "ann", kept)

    found, _ = cache.find("ann", torch.tensor([1, 2, 3]), 100)

    assert found is not None
    assert found.tokens.tolist() == [1, 2, 3]
    assert torch.equal(found.states[0][0], kept.states[0][0])
    assert cache.nbytes == kept.nbytes == 3 * TOKEN


@pytest.mark.parametrize("tokens", [[1, 2, 4], [2, 3], [1, 3, 3, 4], [7]])
def test_a_changed_history_finds_nothing(tokens: list[int]) -> None:
    cache = PrefixCache(10 * TOKEN)
    keep(cache, "ann", prefix(1, 2, 3))

    assert cache.find("ann", torch.tensor(tokens), 1)[0] is None


def test_nobody_finds_what_is_anothers() -> None:
    cache = PrefixCache(10 * TOKEN)
    keep(cache, "ann", prefix(1, 2, 3))

    assert cache.find("bob", torch.tensor([1, 2, 3]), 1)[0] is None


def test_what_candidates_share_by_chance_does_not_matter() -> None:
    """Their titles may begin alike: then the same history has more tokens once, and less again."""
    cache = PrefixCache(10 * TOKEN)
    keep(cache, "ann", prefix(1, 2, 3, 4))

    shorter, _ = cache.find("ann", torch.tensor([1, 2]), 100)
    longer, _ = cache.find("ann", torch.tensor([1, 2, 3, 4, 5]), 5)
    too_many, _ = cache.find("ann", torch.tensor([1, 2, 3, 4, 5]), 6)

    assert shorter is not None
    assert shorter.tokens.tolist() == [1, 2]
    assert shorter.states[0][0].shape == (1, 1, 2, 8)
    assert longer is not None
    assert longer.tokens.tolist() == [1, 2, 3, 4]
    assert too_many is None  # Reading one more token each would cost more than the history.


def test_who_asked_least_recently_goes_first() -> None:
    cache = PrefixCache(4 * TOKEN)
    keep(cache, "ann", prefix(1, 2))
    keep(cache, "bob", prefix(3, 4))
    cache.find("ann", torch.tensor([1, 2]), 1)

    keep(cache, "eve", prefix(5))

    assert cache.find("bob", torch.tensor([3, 4]), 1)[0] is None
    assert cache.find("ann", torch.tensor([1, 2]), 1)[0] is not None
    assert cache.nbytes == 3 * TOKEN


def test_a_newer_prefix_takes_the_place_of_the_older() -> None:
    cache = PrefixCache(4 * TOKEN)
    keep(cache, "ann", prefix(1, 2))
    keep(cache, "ann", prefix(1, 3, 4))

    assert len(cache) == 1
    assert cache.nbytes == 3 * TOKEN


@pytest.mark.parametrize("limit", [0, 3 * TOKEN - 1])
def test_what_is_larger_than_the_limit_is_not_kept(limit: int) -> None:
    cache = PrefixCache(limit)
    keep(cache, "ann", prefix(1, 2, 3))

    assert (len(cache), cache.nbytes) == (0, 0)


def test_forgetting_drops_one_person_or_everybody() -> None:
    cache = PrefixCache(10 * TOKEN)
    for number, user_id in enumerate(("ann", "bob", "eve")):
        keep(cache, user_id, prefix(number))

    cache.forget("ann")
    assert cache.find("ann", torch.tensor([0]), 1)[0] is None
    assert cache.nbytes == 2 * TOKEN
    cache.forget("nobody")
    assert len(cache) == 2
    cache.forget(None)
    assert (len(cache), cache.nbytes) == (0, 0)


@pytest.mark.parametrize("forgotten", ["ann", None])
def test_what_was_being_made_while_somebody_was_forgotten_is_not_kept(
    forgotten: str | None,
) -> None:
    cache = PrefixCache(10 * TOKEN)
    _, moment = cache.find("ann", torch.tensor([1]), 1)
    cache.forget(forgotten)

    cache.keep("ann", prefix(1), moment)

    assert len(cache) == 0


def test_the_limit_holds_under_many_threads() -> None:
    cache, most = PrefixCache(5 * TOKEN), []

    def use(number: int) -> None:
        kept = prefix(*range(1 + number % 4))
        _, moment = cache.find(f"user {number % 7}", kept.tokens, 1)
        cache.keep(f"user {number % 7}", kept, moment)
        most.append(cache.nbytes)
        if number % 11 == 0:
            cache.forget(f"user {number % 7}")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, range(2000)))

    assert max(most) <= 5 * TOKEN
    assert cache.nbytes == sum(kept.nbytes for kept in cache._kept.values()) > 0
