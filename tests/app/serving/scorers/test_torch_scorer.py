"""Test that cached and batched scores equal the model's own scores."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from app.domain.errors import NoReleaseError, UnavailableError
from app.serving.scorers.request_batching import RequestBatcher
from app.serving.scorers.scorer import ScoringRequest
from app.serving.scorers.torch_scorer import ScoringPolicy, TorchScorer
from models.inference.compact_reader import CompactReader
from models.prompts.scoring_inputs import Candidate, HistoryEvent
from models.prompts.vocabulary import Vocabulary
from models.recommender.factory import build, parse_backbone
from tests.support import tiny_models as tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from models.recommender.base import Recommender

POLICY = ScoringPolicy(prefix_cache_bytes=2**20, step_tokens=512, steps_at_once=1)
TOLERANCE = 1e-4


def request_of(user: int, count: int = 30) -> ScoringRequest:
    """Return a request whose history and its length depend on the user."""
    history = [HistoryEvent(n, 1 + (n + user) % 5, f"Item {n + user}") for n in range(2 + user % 7)]
    titles = [f"Item {n} " * (1 + (n + user) % 4) for n in range(count)]
    return ScoringRequest(
        user_id=f"user {user}",
        attributes={"gender": "FM"[user % 2]},
        history=history,
        candidates=[Candidate(n, {}, title) for n, title in enumerate(titles)],
    )


def own_scores(recommender: Recommender, request: ScoringRequest) -> np.ndarray:
    return recommender.score(request.attributes, request.history, request.candidates)


@pytest.fixture
def scorer(recommender: Recommender) -> Iterator[TorchScorer]:
    scorer = TorchScorer(recommender, POLICY)
    yield scorer
    scorer.close()


@pytest.fixture
def widths(recommender: Recommender) -> list[tuple[int, ...]]:
    """The shapes of the model's inputs, from the first request on."""
    recommender.reader()
    read: list[tuple[int, ...]] = []
    embedding: torch.nn.Module = recommender.model.get_input_embeddings()
    embedding.register_forward_hook(lambda _, inputs, __: read.append(tuple(inputs[0].shape)))
    return read


@pytest.fixture
def compact() -> Iterator[TorchScorer]:
    """A scorer of the compact backbone with weights large enough for distinct scores."""
    recommender = build(Vocabulary.from_catalog(tiny.DATA), parse_backbone("compact"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in recommender.model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.15, generator=generator)
    scorer = TorchScorer(recommender, POLICY)
    assert isinstance(scorer._reader, CompactReader)
    yield scorer
    scorer.close()


class Gate:
    """Block the forward passes for which `is_held` returns true, until the gate is opened."""

    def __init__(self, recommender: Recommender, is_held: Callable[[torch.Size], bool]) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self.is_held = is_held
        recommender.reader()
        embedding: torch.nn.Module = recommender.model.get_input_embeddings()
        embedding.register_forward_pre_hook(self)

    def __call__(self, _: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if self.is_held(inputs[0].shape):
            self.reached.set()
            assert self.opened.wait(30)


def test_a_cache_hit_gives_the_scores_of_a_miss(
    scorer: TorchScorer, recommender: Recommender, widths: list[tuple[int, ...]]
) -> None:
    request = request_of(3)
    missed = scorer.score(request)
    first, widths[:] = list(widths), []

    hit = scorer.score(request)

    assert widths == first[1:]  # The history was not read again.
    np.testing.assert_allclose(hit, missed, atol=1e-6)
    np.testing.assert_allclose(hit, own_scores(recommender, request), atol=TOLERANCE)


def test_other_candidates_hit_as_well(scorer: TorchScorer, recommender: Recommender) -> None:
    """With a single candidate, the shared prefix includes the title and is longer."""
    for count in (1, 30, 1, 2, 30):
        request = request_of(3, count)
        np.testing.assert_allclose(
            scorer.score(request), own_scores(recommender, request), atol=TOLERANCE
        )
    assert len(scorer._cache._prefixes) == 1


def test_a_cache_limit_of_zero_disables_the_cache(recommender: Recommender) -> None:
    policy = ScoringPolicy(prefix_cache_bytes=0, step_tokens=512, steps_at_once=1)
    scorer = TorchScorer(recommender, policy)

    scores = scorer.score(request_of(3))

    np.testing.assert_allclose(scores, own_scores(recommender, request_of(3)), atol=TOLERANCE)
    assert len(scorer._cache._prefixes) == 0


def test_no_candidates_give_no_scores(scorer: TorchScorer) -> None:
    assert scorer.score(request_of(3, 0)).shape == (0,)


def test_forget_frees_a_users_states_at_once(scorer: TorchScorer) -> None:
    scorer.score(request_of(3))
    scorer.score(request_of(4))
    held = weakref.ref(scorer._cache._prefixes["user 3"].states[0][0])

    scorer.forget("user 3")

    assert held() is None
    assert list(scorer._cache._prefixes) == ["user 4"]


@pytest.mark.parametrize("late", [False, True])
def test_a_score_in_progress_does_not_cache_a_forgotten_user(
    scorer: TorchScorer, recommender: Recommender, late: bool
) -> None:
    """The user is forgotten while the model reads the history (or, if late, the candidates)."""
    request = request_of(3)
    shared = recommender.prompt.request(
        request.attributes, request.history, request.candidates
    ).shared_length()
    gate = Gate(recommender, lambda shape: (shape[1] != shared) == late)
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(scorer.score, request)
        assert gate.reached.wait(30)
        scorer.forget("user 3")
        gate.opened.set()
        scores = running.result()

    assert len(scorer._cache._prefixes) == 0
    np.testing.assert_allclose(scores, own_scores(recommender, request), atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["compact", "llama", "gpt2", "t5"])
def test_joint_requests_get_the_scores_of_separate_requests(kind: str, tmp_path: Path) -> None:
    """The requests include a cached history, no candidates, and variations of one history."""
    recommender = build(Vocabulary.from_catalog(tiny.DATA), tiny.save(kind, tmp_path))
    scorer = TorchScorer(recommender, POLICY)
    scorer.score(request_of(4))
    whole = request_of(6, 9)
    left_out = [
        replace(whole, history=[*whole.history[:n], *whole.history[n + 1 :]], keep=False)
        for n in range(len(whole.history))
    ]
    requests = [request_of(1), request_of(4, 7), request_of(2, 0), *left_out, request_of(5, 300)]

    results = scorer.score_all(requests)

    for scores, request in zip(results, requests, strict=True):
        np.testing.assert_allclose(scores, own_scores(recommender, request), atol=TOLERANCE)
    assert scorer.score_all([]) == []


def test_a_request_without_keep_neither_uses_nor_fills_the_cache(compact: TorchScorer) -> None:
    """The cached states are corrupted on purpose, so that using them changes the scores."""
    right = compact.score(request_of(3))
    with torch.inference_mode():
        for pair in compact._cache._prefixes["user 3"].states:
            for tensor in pair:
                tensor.mul_(-3)
    corrupted = compact.score(request_of(3))

    without_keep = compact.score(replace(request_of(3), keep=False))
    compact.score(replace(request_of(4), keep=False))

    assert np.abs(corrupted - right).max() > 1e-3
    np.testing.assert_allclose(without_keep, right, atol=1e-6)
    assert list(compact._cache._prefixes) == ["user 3"]


def test_compact_states_are_cached_until_the_user_is_forgotten(compact: TorchScorer) -> None:
    missed = compact.score(request_of(3))
    compact.score(request_of(4))
    states = compact._cache._prefixes["user 3"].states
    held = [weakref.ref(tensor) for pair in states for tensor in pair]
    del states

    np.testing.assert_allclose(compact.score(request_of(3)), missed, atol=1e-6)
    compact.forget("user 3")

    assert [reference() for reference in held] == [None] * 4
    assert list(compact._cache._prefixes) == ["user 4"]


def test_close_frees_compact_weights_and_states() -> None:
    recommender = build(Vocabulary.from_catalog(tiny.DATA), parse_backbone("compact"))
    scorer = TorchScorer(recommender, POLICY)
    scorer.score(request_of(3))
    held = [
        weakref.ref(recommender.model),
        weakref.ref(scorer._reader),
        weakref.ref(scorer._cache._prefixes["user 3"].states[0][0]),
    ]
    del recommender

    scorer.close()

    gc.collect()
    assert [reference() for reference in held] == [None, None, None]
    with pytest.raises(NoReleaseError):
        scorer.score(request_of(3))


def test_compact_under_load_gives_the_scores_of_separate_requests(compact: TorchScorer) -> None:
    requests = [request_of(number % 9, 1 + number * 7 % 40) for number in range(60)]
    expected = [own_scores(compact.recommender, request) for request in requests]

    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(compact.score, requests))

    for scores, expected_scores in zip(results, expected, strict=True):
        np.testing.assert_allclose(scores, expected_scores, atol=1e-5)


def test_close_frees_the_weights_and_states(source: Path) -> None:
    recommender = build(Vocabulary.from_catalog(tiny.DATA), parse_backbone(f"hf:{source}"))
    scorer = TorchScorer(recommender, POLICY)
    scorer.score(request_of(3))
    held = [
        weakref.ref(recommender.model),
        weakref.ref(scorer._cache._prefixes["user 3"].states[0][0]),
    ]
    del recommender

    scorer.close()

    gc.collect()
    assert [reference() for reference in held] == [None, None]
    with pytest.raises(NoReleaseError):
        scorer.score(request_of(3))


def test_waiting_requests_share_a_forward_pass(
    scorer: TorchScorer, recommender: Recommender, widths: list[tuple[int, ...]]
) -> None:
    """Two requests arrive while a pass is blocked; their rows share the next pass."""
    waiting = [request_of(user, 4) for user in (1, 2)]
    for request in waiting:
        scorer.score(request)  # Caches the history, so that only candidates are read later.
    gate = Gate(recommender, lambda _: not gate.reached.is_set())
    with ThreadPoolExecutor(3) as threads:
        running = [threads.submit(scorer.score, request_of(3, 4))]
        assert gate.reached.wait(30)
        widths.clear()
        running += [threads.submit(scorer.score, request) for request in waiting]
        while len(scorer._batcher._waiting) < 2:
            assert not running[1].done()
        gate.opened.set()
        results = [future.result() for future in running]

    assert max(shape[0] for shape in widths) > 1
    for scores, request in zip(results, [request_of(3, 4), *waiting], strict=True):
        np.testing.assert_allclose(scores, own_scores(recommender, request), atol=TOLERANCE)


@pytest.mark.parametrize("at_once", [1, 3])
def test_scores_under_load_equal_those_of_separate_requests(
    recommender: Recommender, at_once: int
) -> None:
    policy = ScoringPolicy(prefix_cache_bytes=2**16, step_tokens=700, steps_at_once=at_once)
    scorer = TorchScorer(recommender, policy)
    requests = [request_of(number % 9, 1 + number * 7 % 40) for number in range(60)]
    expected = [own_scores(recommender, request) for request in requests]

    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(scorer.score, requests))

    for scores, expected_scores in zip(results, expected, strict=True):
        np.testing.assert_allclose(scores, expected_scores, atol=TOLERANCE)
    assert scorer._cache._nbytes <= 2**16


@pytest.mark.parametrize("kind", ["compact", "gpt2", "t5"])
def test_every_kind_of_backbone_is_scored(kind: str, tmp_path: Path) -> None:
    recommender = build(Vocabulary.from_catalog(tiny.DATA), tiny.save(kind, tmp_path))
    scorer = TorchScorer(recommender, POLICY)
    requests = [request_of(user, 9) for user in range(6)]

    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(scorer.score, requests))

    for scores, request in zip(results, requests, strict=True):
        np.testing.assert_allclose(scores, own_scores(recommender, request), atol=TOLERANCE)


def test_an_error_fails_only_its_own_request(scorer: TorchScorer, recommender: Recommender) -> None:
    """Two requests share a pass; one of them has broken states."""
    good, bad = request_of(1, 4), request_of(2, 4)
    for request in (good, bad):
        scorer.score(request)
    kept = scorer._cache._prefixes["user 2"]
    broken = (kept.states[0][0][..., :1], kept.states[0][1])  # Another size than the heads.
    object.__setattr__(kept, "states", (broken, *kept.states[1:]))
    gate = Gate(recommender, lambda _: not gate.reached.is_set())
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(scorer.score, request_of(3, 4))
        assert gate.reached.wait(30)
        running = [threads.submit(scorer.score, request) for request in (good, bad)]
        while len(scorer._batcher._waiting) < 2:
            assert not running[0].done()
        gate.opened.set()
        scores = running[0].result()
        with pytest.raises(RuntimeError):
            running[1].result()
        first.result()

    np.testing.assert_allclose(scores, own_scores(recommender, good), atol=TOLERANCE)


def test_close_fails_waiting_work_of_run_alone() -> None:
    batcher = RequestBatcher(max_tokens=1, max_concurrent=1)
    begun, go = threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return go.wait(30)

    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(batcher.run_alone, work)
        assert begun.wait(30)
        waiting = threads.submit(batcher.run_alone, work)
        batcher.close()
        with pytest.raises(UnavailableError):
            waiting.result()
        go.set()
        assert running.result()


def test_close_fails_waiting_requests(scorer: TorchScorer, recommender: Recommender) -> None:
    for user in (1, 2):
        scorer.score(request_of(user, 4))
    gate = Gate(recommender, lambda _: not gate.reached.is_set())
    with ThreadPoolExecutor(3) as threads:
        running = threads.submit(scorer.score, request_of(1, 4))
        assert gate.reached.wait(30)
        waiting = threads.submit(scorer.score, request_of(2, 4))
        while not scorer._batcher._waiting:
            assert not waiting.done()
        scorer.close()
        with pytest.raises(UnavailableError):
            waiting.result()
        gate.opened.set()
        assert running.result().shape == (4,)  # The last pass had started before `close`.
