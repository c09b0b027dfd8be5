"""Test that the audit encodes prompts with each model's own vocabulary."""

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
#: The catalog of the old release: without genres, so that the item tokens of both releases differ.
OLD_CATALOG = replace(
    DATA, items=tuple(ItemRecord(id=item.id, title=item.title) for item in DATA.items)
)


def test_models_with_different_vocabularies_use_their_own_tokens() -> None:
    old = Recommender(Vocabulary.from_catalog(OLD_CATALOG), BACKBONE)
    new = Recommender(Vocabulary.from_catalog(DATA), BACKBONE)
    assert old.vocabulary.first_item != new.vocabulary.first_item
    prepared = split_for_forgetting(DATA, ForgetIndices(users=frozenset({1})), HOLDOUT)
    test = prepared.parts.test

    def measure(recommender: Recommender) -> dict[str, float]:
        prompts = recommender.prompt.samples(test, prepared.retained)
        test_margins = margins(recommender, prompts).numpy().astype(np.float64)
        return utility(test.label.astype(np.float64), test_margins)

    figures = audit_exact(old, new, prepared).figures["utility"]
    assert figures == {"before": measure(old), "after": measure(new)}
