"""What every unlearning method must do. A method that is added to the registry is tested here."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from models.preparation import ForgetIndices, prepare
from models.recommender import Recommender
from models.training import DivergedError, row_losses
from models.unlearning.base import NothingToForgetError, Unlearned
from models.unlearning.registry import METHODS, UnknownMethodError, get_method
from tests.unit.unlearning.conftest import World, nothing
from tests.unit.unlearning.planted import COHORT

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.parametrize("name", sorted(METHODS))


@pytest.fixture(scope="module")
def unlearned(world: World) -> dict[str, Unlearned]:
    """What every method made of the same task, run once."""
    return {name: get_method(name).unlearn(world.task(), nothing) for name in METHODS}


def adapter(result: Unlearned) -> Mapping[str, torch.Tensor]:
    parameters = result.recommender.model.named_parameters()
    return {name: tensor for name, tensor in parameters if tensor.requires_grad}


def test_it_is_found_by_its_name(name: str) -> None:
    assert get_method(name).name == name


def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownMethodError, match=name):
        get_method("hope")


def test_the_same_seed_gives_the_same_adapter(
    name: str, world: World, unlearned: dict[str, Unlearned]
) -> None:
    torch.rand(7)  # Whoever drew from the global generator must not matter.
    before = torch.get_rng_state()
    first = adapter(unlearned[name])
    again = adapter(get_method(name).unlearn(world.task(), nothing))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert torch.equal(before, torch.get_rng_state())


def test_another_seed_gives_another_adapter(
    name: str, world: World, unlearned: dict[str, Unlearned]
) -> None:
    torch.get_rng_state()
    first = adapter(unlearned[name])
    other = adapter(get_method(name).unlearn(world.task(seed=1), nothing))
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_only_the_adapter_trains(name: str, world: World, unlearned: dict[str, Unlearned]) -> None:
    result = unlearned[name]
    assert adapter(result)
    assert all("lora" in key for key in adapter(result))
    parents = world.recommender.model.state_dict()
    base = {
        key.removeprefix("base_model.model.").replace(".base_layer", ""): tensor
        for key, tensor in result.recommender.model.state_dict().items()
        if "lora" not in key
    }
    assert base.keys() == parents.keys()
    assert all(torch.equal(base[key], parents[key]) for key in parents)


def test_the_parent_is_untouched_and_progress_stays_between_zero_and_one(
    name: str, world: World
) -> None:
    before = copy.deepcopy(world.recommender.model.state_dict())
    training = world.recommender.model.training
    seen: list[float] = []
    get_method(name).unlearn(world.task(), seen.append)
    assert seen
    assert all(0 <= fraction <= 1 for fraction in seen)
    after = world.recommender.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert world.recommender.model.training == training
    assert not any(p.requires_grad for p in world.recommender.model.parameters())


def test_the_forgotten_rows_loss_rises_as_expected(
    name: str, world: World, unlearned: dict[str, Unlearned]
) -> None:
    old = row_losses(world.recommender, world.batch.forget, world.data)
    new = row_losses(unlearned[name].recommender, world.batch.forget, world.data)
    wanted = world.expected["user"].mean
    assert wanted > 0
    assert 0.5 * wanted < (new - old).mean() < 2.5 * wanted


@pytest.mark.parametrize("part", ["test", "cohort"])
def test_what_is_retained_hardly_moves(
    name: str, part: str, world: World, unlearned: dict[str, Unlearned]
) -> None:
    samples = getattr(world.batch.parts, part)
    old = row_losses(world.recommender, samples, world.batch.retained)
    new = row_losses(unlearned[name].recommender, samples, world.batch.retained)
    assert abs((new - old).mean()) < 0.5 * world.expected["user"].mean


def test_an_empty_batch_is_refused(name: str, world: World) -> None:
    empty = prepare(world.data, ForgetIndices(), COHORT, world.whole.bounds)
    with pytest.raises(NothingToForgetError):
        get_method(name).unlearn(replace(world.task(), prepared=empty), nothing)


def test_people_who_were_never_trained_on_are_an_empty_batch(name: str, world: World) -> None:
    forget = ForgetIndices(users=frozenset([min(COHORT)]))
    strangers = prepare(world.data, forget, COHORT, world.whole.bounds)
    with pytest.raises(NothingToForgetError):
        get_method(name).unlearn(replace(world.task(), prepared=strangers), nothing)


def test_progress_may_interrupt(name: str, world: World) -> None:
    class StopNowError(Exception):
        pass

    def stop(fraction: float) -> None:
        raise StopNowError(fraction)

    before = copy.deepcopy(world.recommender.model.state_dict())
    with pytest.raises(StopNowError):
        get_method(name).unlearn(world.task(), stop)
    after = world.recommender.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_broken_weights_diverge(name: str, world: World) -> None:
    model = copy.deepcopy(world.recommender.model)
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    broken = Recommender(world.recommender.vocabulary, world.recommender.config, model)
    with pytest.raises(DivergedError):
        get_method(name).unlearn(replace(world.task(), recommender=broken), nothing)


def test_it_says_what_it_did(name: str, world: World, unlearned: dict[str, Unlearned]) -> None:
    metrics = unlearned[name].metrics
    assert metrics["forget_rows"] == len(world.batch.forget)
    assert metrics["steps"] > 0
    assert metrics["trainable_parameters"] == sum(
        tensor.numel() for tensor in adapter(unlearned[name]).values()
    )
