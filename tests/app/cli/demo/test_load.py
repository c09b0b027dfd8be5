"""The rate of the demo's background load."""

from __future__ import annotations

import pytest

from app.cli.demo.load import REQUESTS_PER_SECOND, next_request_at


@pytest.mark.parametrize(
    ("due", "started", "ended", "expected"),
    [
        # At the rate, also after a start that was a little late.
        (10.0, 10.0, 10.01, 10.0 + 1 / REQUESTS_PER_SECOND),
        (10.0, 10.1, 10.11, 10.0 + 1 / REQUESTS_PER_SECOND),
        # A slow answer is followed by a pause of the same length, and no request is caught up.
        (10.0, 10.0, 13.0, 16.0),
        (10.0, 12.0, 12.5, 13.0),
    ],
)
def test_slow_service_is_busy_for_at_most_half_of_the_time(
    due: float, started: float, ended: float, expected: float
) -> None:
    assert next_request_at(due, started, ended) == pytest.approx(expected)
