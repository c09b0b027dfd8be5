"""One trained recommender for all tests here; nobody may change its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch

from models.calibration import ExpectedRise, calibrate
from models.preparation import ForgetIndices, Prepared, prepare
from models.training import fit
from models.unlearning.base import UnlearningTask
from models.vocabulary import Vocabulary
from tests.unit.unlearning.planted import CALIBRATION, COHORT, FORGOTTEN, RECIPE, planted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from models.datasets.interactions import Interactions
    from models.recommender import Recommender


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A release as the product makes it, and the batch that is to be forgotten."""

    data: Interactions
    recommender: Recommender
    expected: dict[str, ExpectedRise]
    #: Split before anything was forgotten, and with the batch taken out.
    whole: Prepared
    batch: Prepared

    def task(self, seed: int = 0) -> UnlearningTask:
        return UnlearningTask(
            recommender=self.recommender,
            prepared=self.batch,
            expected=self.expected,
            recipe=RECIPE,
            seed=seed,
        )


def nothing(fraction: float) -> None:
    """Take the progress and do nothing with it."""


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and sums stay in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def interactions() -> Interactions:
    return planted()


@pytest.fixture(scope="session")
def world(interactions: Interactions) -> World:
    whole = prepare(interactions, ForgetIndices(), COHORT)
    vocabulary = Vocabulary.from_catalogue(interactions)
    recommender = fit(vocabulary, whole, RECIPE, nothing)
    expected = calibrate(
        interactions,
        recommender,
        whole,
        COHORT,
        CALIBRATION,
        lambda rows: fit(vocabulary, rows, RECIPE, nothing),
    )
    recommender.model.requires_grad_(requires_grad=False)
    return World(
        data=interactions,
        recommender=recommender,
        expected=expected,
        whole=whole,
        batch=prepare(interactions, ForgetIndices(users=FORGOTTEN), COHORT, whole.bounds),
    )
