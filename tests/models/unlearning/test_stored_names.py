"""Names of settings in shard fingerprints, certificates and results."""

from __future__ import annotations

from models.unlearning.e2urec_fast import E2URecFastConfig
from models.unlearning.registry import get_method


def test_configurations_keep_their_stored_names() -> None:
    """Shard fingerprints cover these values, and results.json and certificates show them."""
    stored = {name: get_method(name).config.manifest() for name in ("sisa", "receraser")} | {
        "e2urec-fast": E2URecFastConfig().manifest()
    }

    assert stored["sisa"] == {"shards": 4, "passes": 2}
    assert list(stored["receraser"].items())[:2] == [("shards", 4), ("passes", 1)]
    assert stored["receraser"].keys() == {
        *("shards", "passes", "steps", "batch_size", "learning_rate", "most_rows", "looks")
    }
    assert {"look_at", "drive"} < stored["e2urec-fast"].keys()
    assert not {"overshoot_factor", "evaluation_rows"} & stored["e2urec-fast"].keys()
