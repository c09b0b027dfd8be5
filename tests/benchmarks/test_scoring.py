"""The scoring benchmark, whose methods must all give the same scores."""

from __future__ import annotations

import argparse

from benchmarks.scoring import measure, table


def test_small_run_has_all_figures() -> None:
    arguments = argparse.Namespace(
        backbone="compact",
        data="data/ml-latest-small",
        candidates=4,
        repetitions=1,
        threads=[2],
        seed=0,
    )

    figures = measure(arguments)

    assert figures["largest_difference"] < 1e-5
    # BOS, ten ratings and CANDIDATE are shared; the item, its genres and ANSWER are not.
    assert figures["prefix_tokens"] == 22
    assert 2 <= figures["candidate_tokens"] <= 5
    assert figures["ratios"]["naive"].keys() >= {"padded", "reuse", "reader", "kept", "scored"}
    assert figures["requests_per_second"]["2"]["one_step"] > 0
    assert "2 threads" in table(figures)
