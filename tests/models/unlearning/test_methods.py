"""Conformance tests for every unlearning method in the registry."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import pytest
import torch

from models.data.forget_split import ForgetIndices, split_for_forgetting
from models.recommender.base import Recommender
from models.recommender.token_rows import with_rows
from models.training.step import DivergedError
from models.training.trainer import row_losses
from models.unlearning.apa import Apa, ApaConfig
from models.unlearning.badt import BadTeacher, BadTeacherConfig
from models.unlearning.base import NothingToForgetError, Unlearned
from models.unlearning.e2urec import E2URec, E2URecConfig, E2URecLong
from models.unlearning.finetune import FineTune, FineTuneConfig
from models.unlearning.finetuning import LoopConfig
from models.unlearning.neggrad import NegGrad, NegGradConfig
from models.unlearning.neggrad_calibrated import CalibratedNegGrad, CalibratedNegGradConfig
from models.unlearning.npo import Npo, NpoConfig
from models.unlearning.receraser import RecEraser, RecEraserConfig
from models.unlearning.registry import METHODS, UnknownMethodError, get_method
from models.unlearning.scrub import Scrub, ScrubConfig
from models.unlearning.simnpo import SimNpo, SimNpoConfig
from models.unlearning.sisa import Sisa, SisaConfig
from tests.models.conftest import World, nothing
from tests.support.planted_tastes import HOLDOUT, RECIPE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from models.unlearning.base import UnlearningMethod, UnlearningTask

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("name", sorted(METHODS))]

#: Methods with few steps at a higher learning rate; other methods run with their defaults.
_LOOP = LoopConfig(rate_share=0.5, batch_size=64, steps=20)
_SHORT: dict[str, Callable[[], UnlearningMethod]] = {
    "finetune": lambda: FineTune(FineTuneConfig(loop=_LOOP)),
    "neggrad": lambda: NegGrad(NegGradConfig(loop=_LOOP)),
    "neggrad-calibrated": lambda: CalibratedNegGrad(
        CalibratedNegGradConfig(
            loop=replace(_LOOP, rate_share=0.1, steps=100), forget_weight=1.0, check_every=1
        )
    ),
    "badt": lambda: BadTeacher(BadTeacherConfig(loop=_LOOP)),
    "npo": lambda: Npo(NpoConfig(loop=_LOOP)),
    "simnpo": lambda: SimNpo(SimNpoConfig(loop=_LOOP)),
    "scrub": lambda: Scrub(ScrubConfig(passes=0.2)),
    "e2urec": lambda: E2URec(E2URecConfig(augment_steps=20, joint_steps=20)),
    "e2urec-long": lambda: E2URecLong(E2URecConfig(augment_steps=20, joint_steps=30)),
    "sisa": lambda: Sisa(SisaConfig(passes=1)),
    "receraser": lambda: RecEraser(RecEraserConfig(passes=1, steps=30, most_rows=256)),
    "apa": lambda: Apa(ApaConfig(passes=1)),
}
#: Methods that aim at the expected loss increase.
_CALIBRATED = {"e2urec-fast", "neggrad-calibrated"}
_WITH_ADAPTER = {"e2urec", "e2urec-fast", "e2urec-long"}
#: Methods that train members from a release of their own kind, here with a short recipe.
_ENSEMBLES = {"sisa", "receraser", "apa"}
_BRIEF = replace(RECIPE, epochs=1)
#: Methods whose result depends on the parent's weights and on the task's seed.
_FROM_PARENT = set(METHODS) - _ENSEMBLES - {"retrain", "original"}


def make(name: str) -> UnlearningMethod:
    return _SHORT.get(name, METHODS[name])()


@pytest.fixture(scope="module")
def tasks(world: World) -> dict[str, UnlearningTask]:
    """Return the same batch for every method, with a release of the method's root."""
    by_name = {name: world.task() for name in METHODS}
    for name in _ENSEMBLES:
        vocabulary = world.recommender.vocabulary
        root = make(name).train(vocabulary, world.whole, _BRIEF, nothing)
        by_name[name] = replace(world.task(), recommender=root, recipe=_BRIEF)
    return by_name


@pytest.fixture(scope="module")
def unlearned(tasks: dict[str, UnlearningTask]) -> dict[str, Unlearned]:
    """Return every method's result, computed once."""
    return {name: make(name).unlearn(task, nothing) for name, task in tasks.items()}


@dataclass(frozen=True)
class Repetition:
    """A second run of a method on the same task, and what the run left behind."""

    result: Unlearned
    fractions: list[float]
    generator_is_unchanged: bool
    parent_is_unchanged: bool


@pytest.fixture(scope="module")
def repeat(tasks: dict[str, UnlearningTask]) -> Callable[[str], Repetition]:
    """Return a function that runs a method once more; its result is computed once."""

    @cache
    def run(name: str) -> Repetition:
        model = tasks[name].recommender.model
        parent, training = copy.deepcopy(model.state_dict()), model.training
        torch.rand(7)  # Other draws from the global generator must not matter.
        generator = torch.get_rng_state()
        fractions: list[float] = []
        result = make(name).unlearn(tasks[name], fractions.append)
        after = model.state_dict()
        return Repetition(
            result=result,
            fractions=fractions,
            generator_is_unchanged=torch.equal(generator, torch.get_rng_state()),
            parent_is_unchanged=model.training == training
            and not any(parameter.requires_grad for parameter in model.parameters())
            and all(torch.equal(parent[key], after[key]) for key in parent),
        )

    return run


def weights(result: Unlearned) -> Mapping[str, torch.Tensor]:
    return result.recommender.model.state_dict()


def test_get_method_returns_the_method_with_the_name(name: str) -> None:
    assert get_method(name).name == name


def test_an_unknown_name_lists_the_known_names(name: str) -> None:
    with pytest.raises(UnknownMethodError, match=name):
        get_method("hope")


def test_the_same_seed_gives_the_same_weights(
    name: str, unlearned: dict[str, Unlearned], repeat: Callable[[str], Repetition]
) -> None:
    first, again = weights(unlearned[name]), weights(repeat(name).result)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert repeat(name).generator_is_unchanged


def test_another_seed_gives_other_weights(
    name: str, tasks: dict[str, UnlearningTask], unlearned: dict[str, Unlearned]
) -> None:
    if name not in _FROM_PARENT:
        return  # The task's seed has no effect.
    first = weights(unlearned[name])
    other = weights(make(name).unlearn(replace(tasks[name], seed=1), nothing))
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_only_the_adapter_trains(
    name: str, tasks: dict[str, UnlearningTask], unlearned: dict[str, Unlearned]
) -> None:
    result, start = unlearned[name], tasks[name].recommender
    parents = start.model.state_dict()
    if name not in _WITH_ADAPTER:
        assert result.adapter is None
        assert weights(result).keys() == parents.keys()
        moved = any(not torch.equal(weights(result)[key], parents[key]) for key in parents)
        assert moved == (name != "original")
        return
    assert result.adapter is not None
    training = [key for key, p in result.recommender.model.named_parameters() if p.requires_grad]
    assert training
    assert all("lora" in key for key in training)
    base = {
        key.removeprefix("base_model.model.").replace(".base_layer", ""): tensor
        for key, tensor in weights(result).items()
        if "lora" not in key
    }
    parent = start if result.rows is None else with_rows(start, result.rows)
    under = parent.model.state_dict()
    assert base.keys() == under.keys()
    assert all(torch.equal(base[key], under[key]) for key in under)


def test_the_result_is_in_evaluation_mode_with_finite_losses(
    name: str, world: World, unlearned: dict[str, Unlearned]
) -> None:
    result = unlearned[name].recommender
    assert not result.model.training
    losses = row_losses(result, world.batch.forget, world.data)
    assert math.isfinite(losses.sum())


def test_the_parent_is_unchanged_and_progress_stays_between_zero_and_one(
    name: str, repeat: Callable[[str], Repetition]
) -> None:
    fractions = repeat(name).fractions
    assert fractions
    assert fractions == sorted(fractions)
    assert all(0 <= fraction <= 1 for fraction in fractions)
    assert repeat(name).parent_is_unchanged


def test_the_forget_rows_have_the_expected_loss_increase(
    name: str, world: World, unlearned: dict[str, Unlearned]
) -> None:
    if name not in _CALIBRATED:
        return  # Does not use the expected loss increase.
    old = row_losses(world.recommender, world.batch.forget, world.data)
    new = row_losses(unlearned[name].recommender, world.batch.forget, world.data)
    expected = world.expected["user"].mean
    assert expected > 0
    assert 0.5 * expected < (new - old).mean() < 2.0 * expected


@pytest.mark.parametrize("part", ["test", "holdout"])
def test_other_rows_hardly_change(
    name: str, part: str, world: World, unlearned: dict[str, Unlearned]
) -> None:
    if name not in _CALIBRATED:
        return  # Does not use the expected loss increase.
    samples = getattr(world.batch.parts, part)
    old = row_losses(world.recommender, samples, world.batch.retained)
    new = row_losses(unlearned[name].recommender, samples, world.batch.retained)
    assert abs((new - old).mean()) < 0.5 * world.expected["user"].mean


def test_an_empty_batch_raises_an_error(
    name: str, world: World, tasks: dict[str, UnlearningTask]
) -> None:
    empty = split_for_forgetting(world.data, ForgetIndices(), HOLDOUT, world.whole.bounds)
    with pytest.raises(NothingToForgetError):
        make(name).unlearn(replace(tasks[name], prepared=empty), nothing)


def test_holdout_users_are_an_empty_batch(
    name: str, world: World, tasks: dict[str, UnlearningTask]
) -> None:
    forget = ForgetIndices(users=frozenset([min(HOLDOUT)]))
    untrained = split_for_forgetting(world.data, forget, HOLDOUT, world.whole.bounds)
    assert not untrained.forget_valid
    with pytest.raises(NothingToForgetError):
        make(name).unlearn(replace(tasks[name], prepared=untrained), nothing)


def test_the_progress_callback_can_interrupt(name: str, tasks: dict[str, UnlearningTask]) -> None:
    class StopNowError(Exception):
        pass

    def stop(fraction: float) -> None:
        raise StopNowError(fraction)

    parent = tasks[name].recommender
    before = copy.deepcopy(parent.model.state_dict())
    with pytest.raises(StopNowError):
        make(name).unlearn(tasks[name], stop)
    after = parent.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_broken_weights_diverge(name: str, world: World) -> None:
    if name not in _FROM_PARENT:
        return  # Does not start from the parent's weights.
    model = copy.deepcopy(world.recommender.model)
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    broken = Recommender(world.recommender.vocabulary, world.recommender.config, model)
    with pytest.raises(DivergedError):
        make(name).unlearn(replace(world.task(), recommender=broken), nothing)


def test_metrics_count_forget_rows_and_trained_parameters(
    name: str, world: World, unlearned: dict[str, Unlearned]
) -> None:
    metrics = unlearned[name].metrics
    assert metrics["forget_rows"] == len(world.batch.forget)
    model = unlearned[name].recommender.model
    trained = {
        "original": 0,
        "apa": sum(
            p.numel() for key, p in model.named_parameters() if key.endswith((".down", ".up"))
        ),
        **{
            adapted: sum(p.numel() for p in model.parameters() if p.requires_grad)
            for adapted in _WITH_ADAPTER
        },
    }
    whole = sum(p.numel() for p in model.parameters())
    assert metrics["trainable_parameters"] == trained.get(name, whole)
