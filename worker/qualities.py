"""How good a first release is, beside what needs no model, and its backbone untuned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.data.metrics import item_mean_margins, user_item_bias_margins, utility
from models.recommender.factory import build
from models.training.trainer import margins

if TYPE_CHECKING:
    from models.data.forget_split import ForgetSplit
    from models.recommender.base import Recommender

Measures = dict[str, dict[str, float]]


def qualities(recommender: Recommender, prepared: ForgetSplit) -> dict[str, Measures]:
    """Measure the model and the baselines on the same validation and test rows.

    Where a public backbone learned in an adapter, `untuned` is that backbone without one.
    """
    measured = {"model": recommender}
    if recommender.config.adapter is not None:
        measured["untuned"] = build(recommender.vocabulary, recommender.config)
    parts, data = prepared.parts, prepared.retained
    found: dict[str, Any] = {}
    for part in ("validation", "test"):
        samples = parts.valid if part == "validation" else parts.test
        answers = {
            name: margins(one, one.prompt.samples(samples, data)).numpy()
            for name, one in measured.items()
        }
        answers["item_mean"] = item_mean_margins(parts.train, samples, len(data.items))
        answers["user_item_bias"] = user_item_bias_margins(
            parts.train, samples, data, prepared.bounds.valid_from
        )
        found[part] = {name: utility(samples.label, one) for name, one in answers.items()}
    return found
