"""Audit batches of several requests with real models: each request has figures of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from app.domain.requests import Outcome
from app.settings import Settings
from models.unlearning.finetuning import LoopConfig
from models.unlearning.neggrad import NegGrad, NegGradConfig
from tests.support.planted_tastes import CALIBRATION, RECIPE, planted
from worker.learner import DataSnapshot, ForgetSet, RequestFigures
from worker.trainer import ModelLearner

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from worker.learner import Verdict

pytestmark = pytest.mark.slow

USERS = 60
HOLDOUT = frozenset(f"u{number}" for number in range(50, 60))
DATA = planted()
DATA = DATA.take(DATA.user < USERS)
#: All ratings of this person are in the validation period.
LATE = "u7"
#: The items of u4, oldest first.
ITEMS_OF_U4 = [DATA.items[index].id for index in DATA.item[DATA.user == 4].tolist()]


def nothing(fraction: float) -> None:
    """Ignore the progress."""


def users(*ids: str) -> ForgetSet:
    return ForgetSet(users=frozenset(ids))


def snapshot(requests: Mapping[str, ForgetSet]) -> DataSnapshot:
    """Return the snapshot of a batch, in which LATE has rated in the validation period only."""
    timestamp = DATA.timestamp.copy()
    late = np.flatnonzero(DATA.user == int(LATE[1:]))
    timestamp[late] = 1_935_000 + np.arange(len(late))
    return DataSnapshot(
        version=1,
        data=replace(DATA, timestamp=timestamp),
        forget=ForgetSet(
            users=frozenset(user for forget in requests.values() for user in forget.users),
            pairs=frozenset(pair for forget in requests.values() for pair in forget.pairs),
            items=frozenset(item for forget in requests.values() for item in forget.items),
        ),
        holdout=HOLDOUT,
        job_id="job",
        requests=requests,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Releases:
    """A trained release, and one that moved away from it."""

    learner: ModelLearner
    parent: Path
    candidate: Path

    def audit(self, requests: Mapping[str, ForgetSet], *, exact: bool = False) -> Verdict:
        return self.learner.audit(
            snapshot(requests), self.parent, self.candidate, exact=exact, report=nothing
        )


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    root = tmp_path_factory.mktemp("releases")
    recipe = replace(RECIPE, epochs=2)
    learner = ModelLearner(Settings(seed=0), lambda _backbone: recipe, CALIBRATION)
    learner._method = NegGrad(NegGradConfig(loop=LoopConfig(steps=5)))
    learner.train(snapshot({}), root / "parent", "compact", nothing)
    batch = snapshot({"r": users("u0", "u1", "u2")})
    left = learner.unlearn(batch, root / "parent", root / "left", strength=0, report=nothing)
    learner.merge(root / "parent", left.directory, root / "candidate")
    return Releases(learner=learner, parent=root / "parent", candidate=root / "candidate")


@pytest.mark.parametrize("exact", [False, True])
def test_each_person_has_the_figures_of_an_audit_of_that_person_alone(
    releases: Releases, exact: bool
) -> None:
    batch = {"first": users("u0"), "second": users("u1")}
    by_request = releases.audit(batch, exact=exact).by_request
    for request_id, forget in batch.items():
        alone = releases.audit({request_id: forget}, exact=exact).by_request[request_id].forget
        figures = by_request[request_id].forget
        assert figures["rows"] == alone["rows"] > 0
        assert figures["mean"] == pytest.approx(alone["mean"], abs=1e-6)
        assert figures["interval"] == pytest.approx(alone["interval"], abs=1e-6)
    assert by_request["first"].forget["mean"] != by_request["second"].forget["mean"]


def test_person_without_rows_in_the_weights_is_not_applicable(releases: Releases) -> None:
    """Neither a holdout user nor an unknown user has rows in the weights."""
    batch = {"known": users("u0"), "holdout": users("u55"), "unknown": users("stranger")}
    verdict = releases.audit(batch)
    assert verdict.by_request["known"].forget["rows"] > 0
    known = verdict.by_request["known"]
    assert known.outcome(Outcome.PASSED).value == known.forget["verdict"]["outcome"]
    assert known.outcome(Outcome.EXACT) is Outcome.EXACT
    assert verdict.by_request["unknown"] == RequestFigures()
    assert verdict.by_request["unknown"].outcome(Outcome.PASSED) is Outcome.NOT_APPLICABLE
    assert verdict.by_request["holdout"].forget == {"rows": 0}


def test_person_with_validation_rows_only_was_not_measured(releases: Releases) -> None:
    """Such rows selected the checkpoint, so that `not_applicable` would claim too much."""
    figures = releases.audit({"known": users("u0"), "late": users(LATE)}).by_request["late"]
    assert figures.forget == {"rows": 0}
    assert figures.validation_rows > 0
    assert figures.outcome(Outcome.PASSED) is Outcome.INCONCLUSIVE
    assert figures.outcome(Outcome.EXACT) is Outcome.EXACT


def test_requests_of_one_person_for_a_rating_and_for_everything(releases: Releases) -> None:
    batch = {
        "rating": ForgetSet(pairs=frozenset([("u4", ITEMS_OF_U4[10])])),
        "person": users("u4"),
    }
    verdict = releases.audit(batch)
    rating, person = verdict.by_request["rating"].forget, verdict.by_request["person"].forget
    # The rating is a candidate once, and is in the history of the next ten ratings.
    assert rating["rows"] == 11
    assert person["rows"] == verdict.figures["forget"]["rows"] > rating["rows"]
    assert rating["mean"] != person["mean"]


def test_item_request_has_the_rows_of_all_its_raters(releases: Releases) -> None:
    batch = {"item": ForgetSet(items=frozenset([ITEMS_OF_U4[0]])), "person": users("u4")}
    verdict = releases.audit(batch)
    item, person = verdict.by_request["item"].forget, verdict.by_request["person"].forget
    pooled = verdict.figures["forget"]["rows"]
    assert 0 < item["rows"] < pooled
    assert pooled < item["rows"] + person["rows"]  # u4 rated the item: these rows count for both.


def test_exact_retraining_is_exact_for_each_request(releases: Releases) -> None:
    batch = {"first": users("u0"), "second": users("u1"), "unknown": users("stranger")}
    verdict = releases.audit(batch, exact=True)
    outcomes = {
        request_id: figures.outcome(verdict.outcome)
        for request_id, figures in verdict.by_request.items()
    }
    assert outcomes == {
        "first": Outcome.EXACT,
        "second": Outcome.EXACT,
        "unknown": Outcome.NOT_APPLICABLE,
    }
