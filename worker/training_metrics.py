"""Measure a newly trained release: its quality beside baselines, its rows and its size."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from models.data.metrics import item_mean_margins, user_item_bias_margins, utility
from models.recommender.factory import build
from models.recommender.trainable import own_state
from models.training.step import memory_report
from models.training.trainer import margins

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.audit.calibration import ExpectedLossIncrease
    from models.data.forget_split import ForgetSplit
    from models.recommender.base import Recommender


def training_metrics(
    recommender: Recommender,
    split: ForgetSplit,
    expected: Mapping[str, ExpectedLossIncrease],
) -> dict[str, Any]:
    """Return what the release's row shows of its training."""
    parts = split.parts
    return {
        **_quality(recommender, split),
        "rows": {
            "train": len(parts.train),
            "valid": len(parts.valid),
            "test": len(parts.test),
            "holdout": len(parts.holdout),
        },
        "expected_rise": {kind: asdict(increase) for kind, increase in expected.items()},
        "parameters": sum(p.numel() for p in recommender.model.parameters()),
        "trained_parameters": sum(t.numel() for t in own_state(recommender).values()),
        **memory_report(recommender),
    }


def _quality(recommender: Recommender, split: ForgetSplit) -> dict[str, Any]:
    """Measure the model and the baselines on the same validation and test rows.

    If the release is an adapter on a public backbone, `untuned` is the backbone without adapter.
    """
    models = {"model": recommender}
    if recommender.config.adapter is not None:
        models["untuned"] = build(recommender.vocabulary, recommender.config)
    parts, data = split.parts, split.retained
    quality: dict[str, Any] = {}
    for part, samples in (("validation", parts.valid), ("test", parts.test)):
        margins_by_predictor = {
            name: margins(model, model.prompt.samples(samples, data)).numpy()
            for name, model in models.items()
        }
        margins_by_predictor["item_mean"] = item_mean_margins(parts.train, samples, len(data.items))
        margins_by_predictor["user_item_bias"] = user_item_bias_margins(
            parts.train, samples, data, split.bounds.valid_from
        )
        quality[part] = {
            name: utility(samples.label, predicted)
            for name, predicted in margins_by_predictor.items()
        }
    return quality
