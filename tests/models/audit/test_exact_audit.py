"""An exact retraining may come with another vocabulary: each model is asked in its own tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.audit.report import audit_exact
from models.backbones.compact import CompactConfig
from models.data.forget_split import ForgetIndices, split_for_forgetting
from models.data.interactions import ItemRecord
from models.data.metrics import utility
from models.prompts.vocabulary import Vocabulary
from models.recommender.base import Recommender
from models.training.trainer import margins
from tests.support.interaction_tables import HOLDOUT, planted_interactions

BACKBONE = CompactConfig(hidden_size=16, intermediate_size=32)
DATA = planted_interactions()
#: The catalogue as it was when the old release was trained: a genre less, so every item token of
#: the new release lies one further; and no item's own words are the same.
OLD_CATALOG = replace(
    DATA, items=tuple(ItemRecord(id=item.id, title=item.title) for item in DATA.items)
)


def test_a_retrained_model_is_measured_with_its_own_vocabulary() -> None:
    old = Recommender(Vocabulary.from_catalog(OLD_CATALOG), BACKBONE)
    new = Recommender(Vocabulary.from_catalog(DATA), BACKBONE)
    assert old.vocabulary.first_item != new.vocabulary.first_item
    prepared = split_for_forgetting(DATA, ForgetIndices(users=frozenset({1})), HOLDOUT)
    test = prepared.parts.test

    def by_itself(recommender: Recommender) -> dict[str, float]:
        prompts = recommender.prompt.samples(test, prepared.retained)
        found = margins(recommender, prompts).numpy().astype(np.float64)
        return utility(test.label.astype(np.float64), found)

    figures = audit_exact(old, new, prepared).figures["utility"]
    assert figures == {"before": by_itself(old), "after": by_itself(new)}
