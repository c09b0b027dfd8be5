"""NDCG, recall and exposure against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from models.audit.ranking import hit_share, ndcg, positions

QUERIES = np.array([0, 0, 0, 1, 1, 1])
MARGINS = np.array([3.0, 1.0, 2.0, 5.0, 5.0, 6.0])
RELEVANT = np.array([False, True, True, True, False, False])


def test_equal_scores_count_against_the_relevant_candidate() -> None:
    assert positions(QUERIES, MARGINS, RELEVANT).tolist() == [0, 2, 1, 2, 1, 0]


def test_ndcg_by_hand() -> None:
    # Query 0: relevant at positions 1 and 2; query 1: at position 2, beyond the top 2.
    gain = 1 / np.log2(3)
    values = ndcg(QUERIES, MARGINS, RELEVANT, top=2)
    assert values.tolist() == pytest.approx([gain / (1 + gain), 0])
    whole = ndcg(QUERIES, MARGINS, RELEVANT)
    assert whole.tolist() == pytest.approx([(gain + 0.5) / (1 + gain), 0.5])


def test_hit_share_divides_by_the_possible_hits() -> None:
    assert hit_share(QUERIES, MARGINS, RELEVANT, top=2).tolist() == [0.5, 0]
    assert hit_share(QUERIES, MARGINS, RELEVANT, top=1).tolist() == [0, 0]
    assert hit_share(QUERIES, MARGINS, RELEVANT, top=3).tolist() == [1, 1]


def test_query_without_relevant_candidates_has_no_value() -> None:
    none = np.zeros(6, bool)
    assert np.isnan(ndcg(QUERIES, MARGINS, none)).all()
    assert np.isnan(hit_share(QUERIES, MARGINS, none)).all()
    assert len(ndcg(np.empty(0, int), np.empty(0), np.empty(0, bool))) == 0


def test_random_scores_have_the_expected_exposure() -> None:
    generator = np.random.default_rng(0)
    queries = np.repeat(np.arange(2000), 110)
    marked = np.tile(np.arange(110) < 10, 2000)
    share = hit_share(queries, generator.normal(size=len(queries)), marked).mean()
    assert share == pytest.approx(10 / 110, abs=0.006)
