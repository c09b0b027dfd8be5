"""Answers that deletions overtake are repaired: none is lost, none uses forgotten data."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.catalog import Interaction
from app.domain.errors import GoneError, LetheError, UnavailableError
from app.domain.recommendations import AttributeFilter, RankedBy, RecommendationQuery
from app.services.interactions import add_interactions
from tests.support.gateway_world import ITEMS, USERS, World, ask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from app.serving.recommend.service import RecommendService
    from app.serving.replica.replica import Replica
    from app.serving.scorers.scorer import Scorer, ScoringRequest

OTHERS = USERS[2:]


@dataclass
class InterferingScorer:
    """A scorer that is as slow as `meanwhile`, which runs in each call before its scores return."""

    inner: Scorer
    meanwhile: Callable[[], object] = lambda: None
    requests: list[ScoringRequest] = field(default_factory=list)

    def score_all(self, requests: Sequence[ScoringRequest]) -> list[NDArray[np.float32]]:
        self.requests += requests
        scores = self.inner.score_all(requests)
        self.meanwhile()
        return scores

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def scored_items(self) -> list[list[int]]:
        """Return the item indices of each request."""
        return [[c.item_index for c in request.candidates] for request in self.requests]


@pytest.fixture
def scorer(replica: Replica) -> Iterator[InterferingScorer]:
    with replica.live.capture() as loaded_model:
        interfering = InterferingScorer(loaded_model.scorer)
        loaded_model.scorer = interfering
    return interfering


def once(action: Callable[[], object]) -> Callable[[], None]:
    """Return a function that runs the action in its first call only."""
    actions = iter([action])

    def run() -> None:
        for first in actions:
            first()

    return run


def tier(world: World, service: RecommendService, user_id: str, n: int = ITEMS) -> list[str]:
    """Return the items that the service recommends to a user at present."""
    del world
    return [item.item_id for item in service.answer(ask(user_id, n)).items]


def test_only_new_candidates_are_scored_after_a_deletion(
    world: World, service: RecommendService, scorer: InterferingScorer
) -> None:
    """A tier of 20 items: a forgotten item of the tier makes room for one item."""
    before = tier(world, service, "u1", 20)
    scorer.requests.clear()
    scorer.meanwhile = once(lambda: world.forget(item_id=before[0]))
    answer = service.answer(ask("u1", 20))
    first, *repairs = scorer.scored_items()
    assert [len(repair) for repair in repairs] == [1]
    assert not set(repairs[0]) & set(first)
    assert [item.item_id for item in answer.items] == tier(world, service, "u1", 20)
    scores = world.scores(answer.release, "u1", [item.item_id for item in answer.items])
    assert [item.score for item in answer.items] == pytest.approx(scores, abs=1e-5)


def test_an_answer_that_is_overtaken_again_only_loses_candidates(
    world: World, service: RecommendService, scorer: InterferingScorer
) -> None:
    before = tier(world, service, "u1", 20)
    scorer.requests.clear()
    forgotten = iter(before)
    scorer.meanwhile = lambda: world.forget(item_id=next(forgotten))
    answer = service.answer(ask("u1", 20))
    assert len(scorer.requests) == 2
    named = [item.item_id for item in answer.items]
    assert not {before[0], before[1]} & set(named)
    assert len(named) == 19
    assert [item.rank for item in answer.items] == list(range(1, 20))
    assert answer.tag is None


def test_an_answer_is_repaired_although_the_log_was_pruned_meanwhile(
    world: World, service: RecommendService, scorer: InterferingScorer
) -> None:
    """A batch that explains its answers with a slow model may outlast the kept entries."""
    before = tier(world, service, "u1", 20)

    def forget_and_prune() -> None:
        world.forget(item_id=before[0])
        with world.uow() as uow:
            uow.state.prune_log(uow.state.data_version(), 10_000)

    scorer.meanwhile = once(forget_and_prune)
    answer = service.answer(ask("u1", 20))
    assert before[0] not in {item.item_id for item in answer.items}


def test_forgets_by_others_never_lose_an_answer(
    world: World, service: RecommendService, scorer: InterferingScorer
) -> None:
    """One deletion during each scoring and before each recheck; the asker is never discarded."""
    others = iter(OTHERS)
    items = iter([f"i{n}" for n in range(ITEMS)])

    def forget_next() -> None:
        user_id = next(others, None)
        world.forget(user_id) if user_id else world.forget(item_id=next(items))

    scorer.meanwhile = forget_next
    answer = service.answer(ask("u1", 10), before_recheck=forget_next)
    assert answer.ranked_by is RankedBy.MODEL
    suppressed = open_items(world)
    assert not suppressed & {item.item_id for item in answer.items}
    # At most the first scoring, one repair, and one for each loss of an item of the history.
    assert len(scorer.requests) <= 2 + len(suppressed)


def open_items(world: World) -> set[str]:
    with world.uow(write=False) as uow:
        return uow.requests.open_item_ids()


def test_endless_deletions_end_with_an_answer(
    world: World, service: RecommendService, scorer: InterferingScorer
) -> None:
    """A deletion before every single check: candidates are dropped in the snapshot of the last."""
    with world.uow() as uow:
        uow.people.ensure_users([f"v{n}" for n in range(50)])
        uow.state.bump("interactions", [f"v{n}" for n in range(50)])
    count = itertools.count()
    answer = service.answer(
        ask("u1", 10), before_recheck=lambda: world.forget(f"v{next(count)}") and None
    )
    assert len(answer.items) == 10
    assert next(count) < 20
    assert len(scorer.requests) == 1  # The deletions of users without ratings change no candidate.


def test_an_asker_forgotten_in_any_round_is_gone(world: World, service: RecommendService) -> None:
    rounds = iter([*OTHERS[:3], "u1"])

    def forget_next() -> None:
        for user_id in rounds:
            world.forget(user_id)
            break

    with pytest.raises(GoneError):
        service.answer(ask("u1", 5), before_recheck=forget_next)
    assert next(rounds, None) is None


@pytest.mark.parametrize("overtaken", [0, 1, 2, 3])
def test_a_forgotten_item_of_the_history_is_input_of_no_answer(
    world: World, service: RecommendService, scorer: InterferingScorer, overtaken: int
) -> None:
    """The history is an input of every score: all candidates are scored again."""
    with world.uow(write=False) as uow:
        item_id = uow.people.history("u1")[-1].item_id
    actions = iter([*([lambda u=u: world.forget(u) for u in OTHERS[:overtaken]])])
    last = once(lambda: world.forget(item_id=item_id))

    def forget_next() -> None:
        for action in actions:
            action()
            return
        last()

    answer = service.answer(ask("u1", 10), before_recheck=forget_next)
    index = int(item_id[1:])
    assert all(event.item_index != index for event in scorer.requests[-1].history)
    assert set(scorer.scored_items()[-1]) >= {int(item.item_id[1:]) for item in answer.items}
    assert item_id not in {item.item_id for item in answer.items}
    assert len(answer.items) == 10


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_a_forgotten_rating_of_the_asker_is_input_of_no_answer(
    world: World, service: RecommendService, scorer: InterferingScorer, rounds: int
) -> None:
    with world.uow(write=False) as uow:
        rated = [event.item_id for event in uow.people.history("u1")]
    pairs = iter(rated[:rounds])

    def forget_next() -> None:
        for item_id in pairs:
            world.forget("u1", item_id)
            return

    answer = service.answer(ask("u1", 10), before_recheck=forget_next)
    kept = [int(item_id[1:]) for item_id in rated[rounds:]]
    assert [event.item_index for event in scorer.requests[-1].history] == kept
    scores = world.scores(
        answer.release,
        "u1",
        [item.item_id for item in answer.items],
        history=history_of(world, "u1", rated[rounds:]),
    )
    assert [item.score for item in answer.items] == pytest.approx(scores, abs=1e-5)


def history_of(world: World, user_id: str, item_ids: Sequence[str]) -> list[Interaction]:
    with world.uow(write=False) as uow:
        return [event for event in uow.people.history(user_id) if event.item_id in item_ids]


def test_a_new_rating_during_a_repair_does_not_mix_two_histories(
    world: World, service: RecommendService, scorer: InterferingScorer
) -> None:
    def rate_and_forget() -> None:
        world.forget("u2")
        with world.uow() as uow:
            rating = Interaction(user_id="u1", item_id="i29", rating=1.0, timestamp=5000)
            add_interactions(uow, world.pseudonyms, [rating])

    scorer.meanwhile = once(rate_and_forget)
    answer = service.answer(ask("u1", 10, exclude_seen=False))
    first, second = scorer.requests
    assert len(second.history) == len(first.history) + 1
    assert set(scorer.scored_items()[1]) >= {int(item.item_id[1:]) for item in answer.items}


def test_a_release_that_goes_live_during_a_repair_scores_everything(
    world: World, service: RecommendService, scorer: InterferingScorer
) -> None:
    """Scores of two releases are never mixed."""
    name: list[str] = []

    def forget_and_swap() -> None:
        world.forget("u2")
        name.append(world.roll_out(2))

    scorer.meanwhile = once(lambda: world.forget("u3"))
    answer = service.answer(ask("u1", 10), before_recheck=once(forget_and_swap))
    assert answer.release == name[0]
    expected = world.scores(name[0], "u1", [item.item_id for item in answer.items])
    assert [item.score for item in answer.items] == pytest.approx(expected, abs=1e-5)


def test_explanations_cover_the_repaired_page(world: World, service: RecommendService) -> None:
    best = tier(world, service, "u1", 3)
    rounds = iter(best)

    def forget_next() -> None:
        for item_id in itertools.islice(rounds, 1):
            world.forget(item_id=item_id)

    query = RecommendationQuery(person="u1", n=3, explain=True)
    answer = service.answer(query, before_recheck=forget_next)
    assert answer.items
    assert not set(best) & {item.item_id for item in answer.items}
    assert all(item.because for item in answer.items)


def test_a_batch_loses_only_the_forgotten_askers(world: World, service: RecommendService) -> None:
    rounds = iter(["u2", "u7", "u3", "u6"])

    def forget_next() -> None:
        for user_id in itertools.islice(rounds, 1):
            world.forget(user_id)

    queries = [ask(user_id, 5) for user_id in ("u1", "unknown", "u2", "u3", "u4")]
    answers = service.answer_all(queries, before_recheck=forget_next)
    states = [
        type(answer).__name__ if isinstance(answer, LetheError) else answer.user_id
        for answer in answers
    ]
    assert states == ["u1", "UnknownUserError", "GoneError", "GoneError", "u4"]


def test_given_items_are_repaired(
    world: World, service: RecommendService, scorer: InterferingScorer
) -> None:
    scorer.meanwhile = once(lambda: world.forget(item_id="i4"))
    query = RecommendationQuery(person="u1", n=5, item_ids=("i4", "i5", "i6"))
    answer = service.answer(query)
    assert sorted(item.item_id for item in answer.items) == ["i5", "i6"]
    assert len(scorer.requests) == 1


def test_first_stage_answers_and_similar_items_survive_deletions(
    world: World, service: RecommendService
) -> None:
    """The reads of these answers have no hook, so deletions run beside them."""
    with world.uow() as uow:
        uow.people.ensure_users([f"v{n}" for n in range(60)])
        uow.state.bump("interactions", [f"v{n}" for n in range(60)])
    with ThreadPoolExecutor(1) as other:
        forgets = other.submit(lambda: [world.forget(f"v{n}") for n in range(60)])
        answers = 0
        while not forgets.done() or not answers:
            answer = service.answer_from_first_stage(ask("u1", 5))
            assert (answer.ranked_by, len(answer.items)) == (RankedBy.FIRST_STAGE, 5)
            assert service._answering.similar("i1", 5, AttributeFilter()).item_id == "i1"
            answers += 1
        forgets.result()


def test_many_clients_and_many_forgets_lose_no_answer(
    world: World, service: RecommendService, scorer: InterferingScorer
) -> None:
    """Each scoring waits until further deletions have been accepted, as a slow model would."""
    with world.uow() as uow:
        uow.people.ensure_users([f"v{n}" for n in range(400)])
        for n in range(400):
            uow.people.upsert_interactions(
                [Interaction(user_id=f"v{n}", item_id=f"i{n % 20}", rating=5.0, timestamp=n)],
                uow.state.bump("interactions", [f"v{n}"]),
            )
    people = iter([f"v{n}" for n in range(400)])

    def slow() -> None:
        for user_id in itertools.islice(people, 3):
            world.forget(user_id)

    scorer.meanwhile = slow

    def client(user_id: str) -> list[Any]:
        return [service.answer(ask(user_id, 10)) for _ in range(8)]

    with ThreadPoolExecutor(3) as clients:
        futures = [clients.submit(client, user_id) for user_id in ("u1", "u2", "u3")]
        answers = [answer for future in futures for answer in future.result()]
    assert len(answers) == 24
    assert all(len(answer.items) == 10 for answer in answers)
    assert all(answer.ranked_by is RankedBy.MODEL for answer in answers)


def test_an_answer_is_refused_only_while_its_own_history_is_being_forgotten(
    world: World, service: RecommendService
) -> None:
    with world.uow() as uow:
        version = uow.state.bump("interactions", ["u1"])
        uow.people.upsert_interactions(
            [
                Interaction(user_id="u1", item_id=f"i{n}", rating=4.0, timestamp=n)
                for n in range(25)
            ],
            version,
        )
    count = itertools.count()
    with pytest.raises(UnavailableError):
        service.answer(
            ask("u1", 5), before_recheck=lambda: world.forget("u1", f"i{next(count)}") and None
        )
    assert next(count) < 20
