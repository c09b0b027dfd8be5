"""The benchmark of scoring measures ways that all give the same answer."""

from __future__ import annotations

import argparse

from benchmarks.scoring import measure, table


def test_a_small_run_says_what_it_compared() -> None:
    arguments = argparse.Namespace(
        backbone="compact",
        data="data/ml-latest-small",
        candidates=4,
        repetitions=1,
        threads=[2],
        seed=0,
    )

    found = measure(arguments)

    assert found["largest_difference"] < 1e-5
    # BOS, ten ratings and CANDIDATE are shared; an item, its genres and ANSWER are not.
    assert found["prefix_tokens"] == 22
    assert 2 <= found["candidate_tokens"] <= 5
    assert found["ratios"]["naive"].keys() >= {"padded", "reuse", "reader", "kept", "scored"}
    assert found["requests_per_second"]["2"]["one_step"] > 0
    assert "2 threads" in table(found)
