"""The scorer answers like its model: with the cache, without it, and for several people at once."""

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
from app.serving.scorers.base import ScoringRequest
from app.serving.scorers.request_batching import RequestBatcher
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


def request(user: int, count: int = 30) -> ScoringRequest:
    """Return a request of a person with a history of their own, of a length of its own."""
    history = [HistoryEvent(n, 1 + (n + user) % 5, f"Item {n + user}") for n in range(2 + user % 7)]
    titles = [f"Item {n} " * (1 + (n + user) % 4) for n in range(count)]
    return ScoringRequest(
        user_id=f"user {user}",
        attributes={"gender": "FM"[user % 2]},
        history=history,
        candidates=[Candidate(n, {}, title) for n, title in enumerate(titles)],
    )


def alone(recommender: Recommender, asked: ScoringRequest) -> np.ndarray:
    return recommender.score(asked.attributes, asked.history, asked.candidates)


@pytest.fixture
def scorer(recommender: Recommender) -> Iterator[TorchScorer]:
    made = TorchScorer(recommender, POLICY)
    yield made
    made.close()


@pytest.fixture
def widths(recommender: Recommender) -> list[tuple[int, ...]]:
    """The shapes of what the model reads, from the first request on."""
    recommender.reader()
    read: list[tuple[int, ...]] = []
    embedding: torch.nn.Module = recommender.model.get_input_embeddings()
    embedding.register_forward_hook(lambda _, given, __: read.append(tuple(given[0].shape)))
    return read


@pytest.fixture
def compact() -> Iterator[TorchScorer]:
    """The embedded default with weights whose answers differ, read without transformers."""
    recommender = build(Vocabulary.from_catalog(tiny.DATA), parse_backbone("compact"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in recommender.model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.15, generator=generator)
    made = TorchScorer(recommender, POLICY)
    assert isinstance(made._reader, CompactReader)
    yield made
    made.close()


class Gate:
    """Holds the model back at the passes that `held` names, until it is opened."""

    def __init__(self, recommender: Recommender, held: Callable[[torch.Size], bool]) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self.held = held
        recommender.reader()
        embedding: torch.nn.Module = recommender.model.get_input_embeddings()
        embedding.register_forward_pre_hook(self)

    def __call__(self, _: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        if self.held(given[0].shape):
            self.reached.set()
            assert self.opened.wait(30)


def test_a_hit_gives_the_scores_of_a_miss(
    scorer: TorchScorer, recommender: Recommender, widths: list[tuple[int, ...]]
) -> None:
    asked = request(3)
    missed = scorer.score(asked)
    first, widths[:] = list(widths), []

    hit = scorer.score(asked)

    assert widths == first[1:]  # The history was not read again.
    np.testing.assert_allclose(hit, missed, atol=1e-6)
    np.testing.assert_allclose(hit, alone(recommender, asked), atol=TOLERANCE)


def test_other_candidates_hit_as_well(scorer: TorchScorer, recommender: Recommender) -> None:
    """One candidate shares all of its own title with itself: what was kept is longer then."""
    for count in (1, 30, 1, 2, 30):
        asked = request(3, count)
        np.testing.assert_allclose(scorer.score(asked), alone(recommender, asked), atol=TOLERANCE)
    assert len(scorer._cache) == 1


def test_without_a_limit_nothing_is_kept(recommender: Recommender) -> None:
    policy = ScoringPolicy(prefix_cache_bytes=0, step_tokens=512, steps_at_once=1)
    scorer = TorchScorer(recommender, policy)

    scores = scorer.score(request(3))

    np.testing.assert_allclose(scores, alone(recommender, request(3)), atol=TOLERANCE)
    assert len(scorer._cache) == 0


def test_nobody_to_score_is_no_score(scorer: TorchScorer) -> None:
    assert scorer.score(request(3, 0)).shape == (0,)


def test_forgetting_drops_a_persons_states_at_once(scorer: TorchScorer) -> None:
    scorer.score(request(3))
    scorer.score(request(4))
    held = weakref.ref(scorer._cache._kept["user 3"].states[0][0])

    scorer.forget("user 3")

    assert held() is None
    assert list(scorer._cache._kept) == ["user 4"]


@pytest.mark.parametrize("late", [False, True])
def test_a_score_under_way_puts_nothing_back(
    scorer: TorchScorer, recommender: Recommender, late: bool
) -> None:
    """The person is forgotten while the history is read, or while the candidates are."""
    asked = request(3)
    shared = recommender.prompt.request(
        asked.attributes, asked.history, asked.candidates
    ).shared_length()
    gate = Gate(recommender, lambda shape: (shape[1] != shared) == late)
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(scorer.score, asked)
        assert gate.reached.wait(30)
        scorer.forget("user 3")
        gate.opened.set()
        scores = running.result()

    assert len(scorer._cache) == 0
    np.testing.assert_allclose(scores, alone(recommender, asked), atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["compact", "llama", "gpt2", "t5"])
def test_several_requests_are_answered_like_each_alone(kind: str, tmp_path: Path) -> None:
    """Several people, one whose history is known, no candidates, and variations of a history."""
    made = build(Vocabulary.from_catalog(tiny.DATA), tiny.save(kind, tmp_path))
    scorer = TorchScorer(made, POLICY)
    scorer.score(request(4))
    whole = request(6, 9)
    left_out = [
        replace(whole, history=[*whole.history[:n], *whole.history[n + 1 :]], keep=False)
        for n in range(len(whole.history))
    ]
    asked = [request(1), request(4, 7), request(2, 0), *left_out, request(5, 300)]

    found = scorer.score_all(asked)

    for scores, each in zip(found, asked, strict=True):
        np.testing.assert_allclose(scores, alone(made, each), atol=TOLERANCE)
    assert scorer.score_all([]) == []


def test_what_is_not_to_be_kept_is_neither_kept_nor_used(compact: TorchScorer) -> None:
    """A kept state is spoilt on purpose: whoever used it would answer something else."""
    right = compact.score(request(3))
    with torch.inference_mode():
        for pair in compact._cache._kept["user 3"].states:
            for each in pair:
                each.mul_(-3)
    spoilt = compact.score(request(3))

    alone_again = compact.score(replace(request(3), keep=False))
    compact.score(replace(request(4), keep=False))

    assert np.abs(spoilt - right).max() > 1e-3
    np.testing.assert_allclose(alone_again, right, atol=1e-6)
    assert list(compact._cache._kept) == ["user 3"]


def test_compact_keeps_a_persons_states_until_they_are_forgotten(compact: TorchScorer) -> None:
    missed = compact.score(request(3))
    compact.score(request(4))
    states = compact._cache._kept["user 3"].states
    held = [weakref.ref(each) for pair in states for each in pair]
    del states

    np.testing.assert_allclose(compact.score(request(3)), missed, atol=1e-6)
    compact.forget("user 3")

    assert [each() for each in held] == [None] * 4
    assert list(compact._cache._kept) == ["user 4"]


def test_closing_frees_compact_and_every_state() -> None:
    made = build(Vocabulary.from_catalog(tiny.DATA), parse_backbone("compact"))
    scorer = TorchScorer(made, POLICY)
    scorer.score(request(3))
    held = [
        weakref.ref(made.model),
        weakref.ref(scorer._reader),
        weakref.ref(scorer._cache._kept["user 3"].states[0][0]),
    ]
    del made

    scorer.close()

    gc.collect()
    assert [each() for each in held] == [None, None, None]
    with pytest.raises(NoReleaseError):
        scorer.score(request(3))


def test_compact_under_load_answers_as_each_alone(compact: TorchScorer) -> None:
    asked = [request(number % 9, 1 + number * 7 % 40) for number in range(60)]
    expected = [alone(compact.recommender, each) for each in asked]

    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(compact.score, asked))

    for scores, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(scores, wanted, atol=1e-5)


def test_closing_frees_the_weights_and_every_state(source: Path) -> None:
    made = build(Vocabulary.from_catalog(tiny.DATA), parse_backbone(f"hf:{source}"))
    scorer = TorchScorer(made, POLICY)
    scorer.score(request(3))
    held = [weakref.ref(made.model), weakref.ref(scorer._cache._kept["user 3"].states[0][0])]
    del made

    scorer.close()

    gc.collect()
    assert [each() for each in held] == [None, None]
    with pytest.raises(NoReleaseError):
        scorer.score(request(3))


def test_those_who_wait_go_through_the_model_together(
    scorer: TorchScorer, recommender: Recommender, widths: list[tuple[int, ...]]
) -> None:
    """While one person's pass is held back two others come: their rows make one pass."""
    waiting = [request(user, 4) for user in (1, 2)]
    for asked in waiting:
        scorer.score(asked)  # So that only candidates are left to read.
    gate = Gate(recommender, lambda _: not gate.reached.is_set())
    with ThreadPoolExecutor(3) as threads:
        running = [threads.submit(scorer.score, request(3, 4))]
        assert gate.reached.wait(30)
        widths.clear()
        running += [threads.submit(scorer.score, asked) for asked in waiting]
        while len(scorer._steps._waiting) < 2:
            assert not running[1].done()
        gate.opened.set()
        found = [each.result() for each in running]

    assert max(shape[0] for shape in widths) > 1
    for scores, asked in zip(found, [request(3, 4), *waiting], strict=True):
        np.testing.assert_allclose(scores, alone(recommender, asked), atol=TOLERANCE)


@pytest.mark.parametrize("at_once", [1, 3])
def test_answers_under_load_are_those_of_each_alone(recommender: Recommender, at_once: int) -> None:
    policy = ScoringPolicy(prefix_cache_bytes=2**16, step_tokens=700, steps_at_once=at_once)
    scorer = TorchScorer(recommender, policy)
    asked = [request(number % 9, 1 + number * 7 % 40) for number in range(60)]
    expected = [alone(recommender, each) for each in asked]

    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(scorer.score, asked))

    for scores, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(scores, wanted, atol=TOLERANCE)
    assert scorer._cache.nbytes <= 2**16


@pytest.mark.parametrize("kind", ["compact", "gpt2", "t5"])
def test_every_kind_of_model_is_scored(kind: str, tmp_path: Path) -> None:
    made = build(Vocabulary.from_catalog(tiny.DATA), tiny.save(kind, tmp_path))
    scorer = TorchScorer(made, POLICY)
    asked = [request(user, 9) for user in range(6)]

    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(scorer.score, asked))

    for scores, each in zip(found, asked, strict=True):
        np.testing.assert_allclose(scores, alone(made, each), atol=TOLERANCE)


def test_an_error_reaches_only_whom_it_concerns(
    scorer: TorchScorer, recommender: Recommender
) -> None:
    """One of two who share a pass cannot be answered; the other one is."""
    good, bad = request(1, 4), request(2, 4)
    for asked in (good, bad):
        scorer.score(asked)
    kept = scorer._cache._kept["user 2"]
    broken = (kept.states[0][0][..., :1], kept.states[0][1])  # Of another size than its heads.
    object.__setattr__(kept, "states", (broken, *kept.states[1:]))
    gate = Gate(recommender, lambda _: not gate.reached.is_set())
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(scorer.score, request(3, 4))
        assert gate.reached.wait(30)
        running = [threads.submit(scorer.score, asked) for asked in (good, bad)]
        while len(scorer._steps._waiting) < 2:
            assert not running[0].done()
        gate.opened.set()
        scores = running[0].result()
        with pytest.raises(RuntimeError):
            running[1].result()
        first.result()

    np.testing.assert_allclose(scores, alone(recommender, good), atol=TOLERANCE)


def test_closing_sends_away_who_waits_for_a_pass_alone() -> None:
    steps, begun, go = RequestBatcher(tokens=1, at_once=1), threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return go.wait(30)

    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(steps.alone, work)
        assert begun.wait(30)
        waiting = threads.submit(steps.alone, work)
        steps.close()
        with pytest.raises(UnavailableError):
            waiting.result()
        go.set()
        assert running.result()


def test_closing_sends_away_who_waits(scorer: TorchScorer, recommender: Recommender) -> None:
    for user in (1, 2):
        scorer.score(request(user, 4))
    gate = Gate(recommender, lambda _: not gate.reached.is_set())
    with ThreadPoolExecutor(3) as threads:
        running = threads.submit(scorer.score, request(1, 4))
        assert gate.reached.wait(30)
        waiting = threads.submit(scorer.score, request(2, 4))
        while not scorer._steps._waiting:
            assert not waiting.done()
        scorer.close()
        with pytest.raises(UnavailableError):
            waiting.result()
        gate.opened.set()
        assert running.result().shape == (4,)  # Its last pass had begun.
