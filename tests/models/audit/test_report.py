"""Test the audit on trained models: no change and overshoot fail, forgetting does not."""

from __future__ import annotations

import copy
import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional

from models.audit import answers
from models.audit.judgment import FEW_LEFT_OUT
from models.audit.outcomes import FAILED, INCONCLUSIVE, PASSED
from models.audit.person_calibration import PersonCalibration
from models.audit.report import AuditReport, audit, audit_exact
from models.checkpoints import adapter as adapters
from models.data.forget_split import ForgetIndices, are_forgotten, split_for_forgetting
from models.recommender.base import Recommender
from models.training.trainer import fit, live_margins, row_margins
from models.unlearning.registry import get_method
from tests.models.conftest import World, nothing
from tests.support.planted_tastes import HOLDOUT, RECIPE

if TYPE_CHECKING:
    from pathlib import Path

    from models.data.interactions import Interactions
    from models.data.samples import Samples

pytestmark = pytest.mark.slow


def clone(world: World) -> Recommender:
    parent = world.recommender
    return Recommender(parent.vocabulary, parent.config, copy.deepcopy(parent.model))


def judge(world: World, candidate: Recommender) -> AuditReport:
    return audit(world.recommender, candidate, world.batch, world.calibration.persons)


@pytest.fixture(scope="module")
def release(world: World, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """Return the default method's release: its adapter saved, loaded and merged."""
    directory: Path = tmp_path_factory.mktemp("adapter")
    method = get_method("e2urec-fast")
    result = method.unlearn(world.task(), nothing)
    adapters.save(
        result.recommender, directory, result.adapter, method=method.name, parent="p", extra={}
    )
    return adapters.merge(world.recommender, "p", directory)


def overshoot(world: World, steps: int = 20) -> Recommender:
    """Return a copy after gradient ascent on the forget rows alone."""
    candidate = clone(world)
    candidate.model.requires_grad_(requires_grad=True)
    prompts = candidate.prompt.samples(world.batch.forget, world.data)
    labels = torch.from_numpy(world.batch.forget.label)
    optimizer = torch.optim.Adam(candidate.model.parameters(), lr=2e-3)
    for _ in range(steps):
        loss = -functional.binary_cross_entropy_with_logits(
            live_margins(candidate, prompts), labels
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return candidate


def test_the_expected_loss_increase_is_measurable(world: World) -> None:
    loss_increase = world.expected["user"]
    assert loss_increase.mean > 2 * loss_increase.error


def test_the_unchanged_parent_fails(world: World) -> None:
    report = judge(world, clone(world))
    assert report.outcome == FAILED
    assert "nothing was unlearned" in report.figures["reason"]
    assert not report.figures["passed"]
    assert report.figures["divergence"]["forget"]["jsd"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_a_small_random_change_of_the_weights_does_not_pass(world: World, seed: int) -> None:
    candidate = clone(world)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in candidate.model.parameters():
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=1e-4)
    report = judge(world, candidate)
    assert report.outcome == FAILED
    assert {verdict.outcome for verdict in report.persons.values()} == {FAILED}


def test_overshoot_fails(world: World) -> None:
    report = judge(world, overshoot(world))
    assert report.outcome == FAILED
    assert report.figures["reason"] == "the loss of the test rows rose as well"
    assert report.figures["test"]["interval"][0] > report.figures["config"]["collateral"]


def test_broken_weights_fail(world: World) -> None:
    candidate = clone(world)
    with torch.no_grad():
        next(candidate.model.parameters()).fill_(math.nan)
    assert judge(world, candidate).outcome == FAILED


def test_the_default_methods_release_does_not_fail(world: World, release: Recommender) -> None:
    report = judge(world, release)
    assert report.outcome in {PASSED, INCONCLUSIVE}, report.figures["reason"]
    forget = report.figures["forget"]
    assert forget["mean"] > 0
    assert forget["interval"][0] > 0
    assert forget["rows"] == len(world.batch.forget)
    loss = {
        when: report.figures["forget_utility"][when]["log_loss"] for when in ("before", "after")
    }
    assert loss["after"] - loss["before"] == pytest.approx(forget["mean"])


def test_exact_retraining_increases_the_loss_as_the_shadow_did(world: World) -> None:
    """The limits must also hold for exact retraining."""
    exact = fit(world.recommender.vocabulary, world.batch, RECIPE, nothing)
    compared = judge(world, exact)
    assert compared.figures["forget"]["mean"] > 0
    assert compared.outcome != FAILED, compared.figures
    report = audit_exact(world.recommender, exact, world.batch)
    assert report.outcome == "exact"
    assert set(report.figures["utility"]) == {"before", "after"}


def test_exact_retraining_is_exempt(world: World) -> None:
    """The exact outcome applies even to a release that the audit would fail."""
    assert audit_exact(world.recommender, clone(world), world.batch).outcome == "exact"


def test_figures_are_json(world: World, release: Recommender) -> None:
    figures: dict[str, Any] = judge(world, release).figures
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


@pytest.mark.parametrize("exact", [False, True])
def test_a_groups_figures_equal_an_audit_of_that_group_alone(
    world: World, release: Recommender, exact: bool
) -> None:
    """Groups may overlap: the last person is in a group of two as well."""
    groups = {
        "first": ForgetIndices(users=frozenset([0])),
        "last": ForgetIndices(users=frozenset([15])),
        "both": ForgetIndices(users=frozenset([0, 15])),
        "one rating": ForgetIndices(pairs=frozenset([(15, int(world.batch.forget.candidate[-1]))])),
    }
    masks = {name: are_forgotten(world.batch.forget, forget) for name, forget in groups.items()}
    if exact:
        report = audit_exact(
            world.recommender, release, world.batch, known=world.batch, groups=masks
        )
    else:
        report = audit(
            world.recommender, release, world.batch, world.calibration.persons, groups=masks
        )
    for name, forget in groups.items():
        alone = split_for_forgetting(world.data, forget, HOLDOUT, world.whole.bounds)
        figures = audit(world.recommender, release, alone, world.calibration.persons).figures[
            "forget"
        ]
        assert report.groups[name]["rows"] == figures["rows"] > 0
        assert report.groups[name]["mean"] == pytest.approx(figures["mean"], abs=1e-6)
        assert report.groups[name]["interval"] == pytest.approx(figures["interval"], abs=1e-6)
    assert report.groups["first"] != report.groups["last"]


def test_groups_change_no_decision_and_may_be_empty(world: World, release: Recommender) -> None:
    masks = {"stranger": are_forgotten(world.batch.forget, ForgetIndices())}
    report = audit(world.recommender, release, world.batch, world.calibration.persons, groups=masks)
    assert report.groups == {"stranger": {"rows": 0}}
    plain = judge(world, release)
    assert (report.outcome, report.figures) == (plain.outcome, plain.figures)


@pytest.mark.parametrize("is_fitted", [False, True])
def test_neighbor_prompts_and_controls_are_asked_only_where_a_person_can_be_judged(
    world: World, release: Recommender, monkeypatch: pytest.MonkeyPatch, is_fitted: bool
) -> None:
    """With a language model, each row is a costly pass through the model."""
    asked = []

    def count_rows(model: Recommender, samples: Samples, data: Interactions) -> Any:
        asked.append(len(samples))
        return row_margins(model, samples, data)

    monkeypatch.setattr(answers, "row_margins", count_rows)
    fitted = world.calibration.persons
    few = PersonCalibration(models={}, people=dict.fromkeys(fitted.people, 9))
    calibration = fitted if is_fitted else few
    report = audit(world.recommender, release, world.batch, calibration)
    forget = len(world.batch.forget)
    if is_fitted:
        assert sum(asked) > 4 * forget
    else:
        assert asked == [forget, forget]
        assert report.figures["reason"] == FEW_LEFT_OUT


def test_the_audit_changes_neither_model(world: World, release: Recommender) -> None:
    models = (world.recommender.model, release.model)
    before = [copy.deepcopy(model.state_dict()) for model in models]
    judge(world, release)
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())
