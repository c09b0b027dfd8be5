"""Compact prompts: tokens are as documented, and padding and caching change no score."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from models.data.interactions import Interactions, ItemRecord, UserRecord
from models.data.samples import HISTORY_LENGTH, build_samples
from models.prompts.compact_prompt import ATTRIBUTE_PLACES, CompactPrompt, PromptBatch
from models.prompts.scoring_inputs import Candidate, HistoryEvent
from models.prompts.vocabulary import (
    ANSWER,
    BOS,
    CANDIDATE,
    PAD,
    UNKNOWN_ATTRIBUTE,
    UNKNOWN_ITEM,
    Vocabulary,
)
from tests.support.interaction_tables import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.data.forget_split import ForgetSplit
    from models.recommender.base import Recommender

#: The order of float32 sums may differ.
TOLERANCE = 1e-5
ATTRIBUTES = {"occupation": "job1"}


def events(count: int) -> list[HistoryEvent]:
    return [HistoryEvent(item_index=7 * n % 140, rating=(1 + n % 10) / 2) for n in range(count)]


def candidates(item_indices: Sequence[int]) -> list[Candidate]:
    """Make candidates with zero, one, two, and more than ATTRIBUTE_PLACES genres."""
    genres = [(), ("Comedy",), ("Drama", "War"), ("Comedy", "Drama", "War", "Comedy")]
    return [Candidate(item_index, {"genre": genres[item_index % 4]}) for item_index in item_indices]


def full_prompts(
    vocabulary: Vocabulary,
    attributes: dict[str, str],
    history: Sequence[HistoryEvent],
    scored_items: Sequence[Candidate],
) -> PromptBatch:
    """Concatenate prefix and suffix of each candidate, without a cache."""
    prompt = CompactPrompt(vocabulary)
    prefix = prompt.prefix(attributes, [(event.item_index, event.rating) for event in history])
    suffix = prompt.suffixes(
        [(candidate.item_index, candidate.attributes) for candidate in scored_items]
    )
    return PromptBatch(tokens=torch.cat([prefix.expand(len(scored_items), -1), suffix], dim=1))


def assert_scores_are_the_full_logits(
    recommender: Recommender,
    attributes: dict[str, str],
    history: Sequence[HistoryEvent],
    scored_items: Sequence[Candidate],
) -> None:
    expected = recommender.logits(
        full_prompts(recommender.vocabulary, attributes, history, scored_items)
    ).softmax(1)[:, 0]

    scores = recommender.score(attributes, history, scored_items)

    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected.numpy(), atol=TOLERANCE)


def test_a_sample_has_the_documented_tokens() -> None:
    items = tuple(
        ItemRecord(id=f"i{n}", title="", attributes={"genre": ("Comedy",)}) for n in range(6)
    )
    data = Interactions(
        users=tuple(UserRecord(id=f"u{n}", attributes={"sex": "F"}) for n in range(12)),
        items=items,
        user=np.repeat(np.arange(12, dtype=np.int32), 6),
        item=np.tile(np.arange(6, dtype=np.int32), 12),
        rating=np.full(72, 4.5, np.float32),
        timestamp=np.tile(np.arange(6, dtype=np.int64), 12),
    )
    vocabulary = Vocabulary.from_catalog(data)

    tokens = CompactPrompt(vocabulary).samples(build_samples(data), data).tokens

    history = [token for n in range(5) for token in (vocabulary.item(n), 16)]
    assert tokens[0].tolist() == [
        BOS,
        vocabulary.attribute("sex", "F"),
        *[PAD] * 10,
        *history,
        CANDIDATE,
        vocabulary.item(5),
        vocabulary.attribute("genre", "Comedy"),
        PAD,
        PAD,
        ANSWER,
    ]
    assert len(tokens) == 12


def test_prompts_contain_only_tokens_of_the_vocabulary(
    trained: Recommender, planted: Interactions
) -> None:
    tokens = trained.prompt.samples(build_samples(planted), planted).tokens

    assert tokens.min() >= 0
    assert tokens.max() < trained.vocabulary.size
    assert not torch.isin(tokens, torch.tensor([UNKNOWN_ITEM, UNKNOWN_ATTRIBUTE])).any()


def test_positions_count_real_tokens_only() -> None:
    prompts = PromptBatch(tokens=torch.tensor([[1, 0, 9, 0, 3], [0, 0, 1, 9, 3]]))

    assert prompts.mask.tolist() == [[1, 0, 1, 0, 1], [0, 0, 1, 1, 1]]
    assert prompts.positions.tolist() == [[0, 0, 1, 1, 2], [0, 0, 0, 1, 2]]


def test_a_changed_item_gets_a_new_suffix(trained: Recommender) -> None:
    """Also if the same attributes object is changed in place, and beyond the vocabulary."""
    vocabulary, prompt = trained.vocabulary, CompactPrompt(trained.vocabulary)
    genres = {"genre": ["Comedy"]}

    def suffix(item_index: int) -> list[int]:
        row: list[int] = prompt.suffixes([(item_index, genres)])[0].tolist()
        return row

    for item_index, item in ((3, vocabulary.item(3)), (vocabulary.item_capacity + 5, UNKNOWN_ITEM)):
        for values in (["Comedy"], ["Comedy"], ["Drama", "War"], [], ["Comedy"]):
            genres["genre"][:] = values
            places = [*(vocabulary.attribute("genre", value) for value in values), PAD, PAD, PAD]
            assert suffix(item_index) == [CANDIDATE, item, *places[:ATTRIBUTE_PLACES], ANSWER]
    assert set(prompt._suffix_cache) == {3}
    assert prompt.suffixes([]).shape == (0, ATTRIBUTE_PLACES + 3)


def test_padded_and_unpadded_prompts_give_the_same_logits(
    trained: Recommender, planted: Interactions, prepared: ForgetSplit
) -> None:
    few_samples = prepared.parts.train.take(np.flatnonzero(prepared.parts.train.earlier < 10)[:40])
    padded = trained.prompt.samples(few_samples, planted)
    assert (padded.tokens == PAD).any(dim=1).all()

    logits = trained.logits(padded)

    for row, tokens in enumerate(padded.tokens):
        alone = trained.logits(PromptBatch(tokens=tokens[tokens != PAD][None]))
        torch.testing.assert_close(alone[0], logits[row], atol=TOLERANCE, rtol=0)


def test_the_batch_size_changes_no_logit(trained: Recommender, planted: Interactions) -> None:
    prompts = trained.prompt.samples(build_samples(planted.take(planted.user < 3)), planted)

    whole, pieces = trained.logits(prompts), trained.logits(prompts, batch_size=7)

    assert whole.shape == (len(prompts), 2)
    torch.testing.assert_close(whole, pieces, atol=TOLERANCE, rtol=0)
    assert trained.logits(prompts.take(torch.arange(0))).shape == (0, 2)


def test_logits_restore_the_training_mode(trained: Recommender) -> None:
    prompts = full_prompts(trained.vocabulary, {}, events(3), candidates([1]))
    trained.model.train()
    try:
        trained.logits(prompts)
        assert trained.model.training
    finally:
        trained.model.eval()
    trained.logits(prompts)
    assert not trained.model.training


@pytest.mark.parametrize("length", range(13))
def test_scores_are_the_logits_of_full_prompts(trained: Recommender, length: int) -> None:
    scored_items = candidates(range(0, 60, 3))

    assert_scores_are_the_full_logits(trained, ATTRIBUTES, events(length), scored_items)


@pytest.mark.parametrize("attributes", [{}, {"occupation": "astronaut"}, {"height": "tall"}])
def test_scores_allow_unknown_user_attributes(
    trained: Recommender, attributes: dict[str, str]
) -> None:
    assert_scores_are_the_full_logits(trained, attributes, events(6), candidates([1, 2, 3]))


def test_scores_allow_unknown_item_indices_and_genres(trained: Recommender) -> None:
    beyond = trained.vocabulary.item_capacity + 5
    history = [HistoryEvent(beyond, 4.0), *events(3)]
    scored_items = [
        Candidate(beyond, {"genre": ("Comedy",)}),
        Candidate(beyond + 1, {"genre": ("Comedy",)}),
        Candidate(3, {"genre": ("Western",), "studio": ("A24",)}),
        Candidate(-1, {}),
    ]

    scores = trained.score(ATTRIBUTES, history, scored_items)

    assert scores[0] == pytest.approx(scores[1], abs=1e-6)  # Unknown items share one token.
    assert np.isfinite(scores).all()
    assert_scores_are_the_full_logits(trained, ATTRIBUTES, history, scored_items)


def test_only_the_last_ten_ratings_count(trained: Recommender) -> None:
    long, scored_items = events(25), candidates([1, 2, 3])

    whole = trained.score(ATTRIBUTES, long, scored_items)

    np.testing.assert_array_equal(
        whole, trained.score(ATTRIBUTES, long[-HISTORY_LENGTH:], scored_items)
    )
    shorter = trained.score(ATTRIBUTES, long[-HISTORY_LENGTH + 1 :], scored_items)
    assert np.abs(whole - shorter).max() > TOLERANCE


def test_a_request_and_a_sample_have_the_same_score(
    trained: Recommender, planted: Interactions, prepared: ForgetSplit
) -> None:
    """Requests (item indices and stars) and samples (arrays) give the same prompt."""
    samples = prepared.parts.test.take(np.arange(20))
    expected = trained.logits(trained.prompt.samples(samples, planted)).softmax(1)[:, 0].numpy()

    for row, probability in enumerate(expected):
        history = [
            HistoryEvent(int(item_index), half_stars / 2)
            for item_index, half_stars in zip(
                samples.history[row], samples.history_rating[row], strict=True
            )
            if item_index >= 0
        ]
        item_index = int(samples.candidate[row])
        score = trained.score(
            planted.users[samples.user[row]].attributes,
            history,
            [Candidate(item_index, planted.items[item_index].attributes)],
        )
        assert score[0] == pytest.approx(probability, abs=TOLERANCE)


def test_a_score_does_not_depend_on_the_other_candidates(trained: Recommender) -> None:
    scored_items = candidates(range(40))

    batched = trained.score(ATTRIBUTES, events(8), scored_items)

    backwards = trained.score(ATTRIBUTES, events(8), scored_items[::-1])[::-1]
    alone = [trained.score(ATTRIBUTES, events(8), [candidate])[0] for candidate in scored_items]
    np.testing.assert_allclose(batched, backwards, atol=TOLERANCE)
    np.testing.assert_allclose(batched, alone, atol=TOLERANCE)


def test_no_candidates_have_no_scores(trained: Recommender) -> None:
    assert trained.score({}, events(3), []).shape == (0,)


def test_suffixes_have_at_most_attribute_places_attributes(trained: Recommender) -> None:
    suffix = trained.prompt.suffixes([(3, {"genre": ("Comedy", "Drama", "War", "Comedy")})])

    assert suffix.shape == (1, 3 + ATTRIBUTE_PLACES)
    assert suffix[0, -1] == ANSWER


def test_a_history_of_liked_dramas_raises_scores_of_dramas(trained: Recommender) -> None:
    """Items with odd indices are dramas."""
    dramas = [Candidate(item_index, {"genre": ("Drama",)}) for item_index in range(21, 61, 2)]
    disliked = [HistoryEvent(n, 1.5 if n % 2 else 4.5) for n in range(10)]
    liked = [HistoryEvent(n, 4.5) for n in range(10)]

    gain = trained.score(ATTRIBUTES, liked, dramas) - trained.score(ATTRIBUTES, disliked, dramas)

    assert gain.min() > 0.1


def test_concurrent_scores_are_the_serial_ones(trained: Recommender) -> None:
    requests = [
        (events(length % 13), candidates(range(length, length + 15))) for length in range(40)
    ]
    serial = [
        trained.score(ATTRIBUTES, history, scored_items) for history, scored_items in requests
    ]

    with ThreadPoolExecutor(8) as pool:
        threaded = list(
            pool.map(lambda request: trained.score(ATTRIBUTES, request[0], request[1]), requests)
        )

    for expected, scores in zip(serial, threaded, strict=True):
        np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize(("raters", "is_known"), [(9, False), (10, True)])
def test_item_attribute_value_from_few_users_rows_gets_no_token(
    raters: int, is_known: bool
) -> None:
    """The manifest lists all values, so a rare value would outlive the users who brought it."""
    rated = table(((user, user % 2, 4.0, 1) for user in range(raters)), raters, 3)
    items = [
        replace(item, from_ratings=True, attributes={"author": ("Le Guin",)})
        for item in rated.items[:2]
    ]
    listed = replace(rated.items[2], attributes={"author": ("Kroeber",)})
    vocabulary = Vocabulary.from_catalog(replace(rated, items=(*items, listed)))
    assert ("author:Le Guin" in vocabulary.values) is is_known
    assert "author:Kroeber" in vocabulary.values
