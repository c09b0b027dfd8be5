"""The supervision of child processes by `lethe up`."""

from __future__ import annotations

from app.cli.processes import Child
from app.cli.up import Supervised


def test_child_that_keeps_ending_restarts_with_growing_delays() -> None:
    child = Child(name="false", module="this")
    child.start()
    child.process.wait()
    supervised = Supervised(child)
    now, delays = 0.0, []
    for _ in range(6):
        assert "restarting it" in supervised.check(now)
        delays.append((supervised.restart_at or 0.0) - now)
        assert supervised.check(now) == ""  # The delay is not over.
        now += delays[-1]
        supervised.check(now)
        child.process.wait()
    child.kill()
    assert delays == sorted(delays)
    assert delays[0] < delays[-1] == 30.0
