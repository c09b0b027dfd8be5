"""Compare exact releases with trainings on data that never had the erased rows, byte for byte."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from app.settings import Settings
from models.backbones.compact import CompactConfig
from models.checkpoints import manifest as manifests
from models.data.forget_split import ForgetIndices
from models.data.interactions import Interactions, ItemRecord
from models.data.splits import RowLimits
from models.unlearning.apa import Apa, ApaConfig
from models.unlearning.receraser import RecEraser, RecEraserConfig
from models.unlearning.retrain import Retrain
from models.unlearning.sisa import Sisa, SisaConfig
from tests.support import tiny_models as tiny
from tests.support.planted_tastes import CALIBRATION, RECIPE, planted
from tests.worker.test_trainer_on_adapters import small_recipe
from worker.errors import UnlearningFailedError
from worker.learner import DataSnapshot, ForgetSet
from worker.trainer import ModelLearner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from models.unlearning.base import UnlearningMethod
    from worker.learner import Artifact

pytestmark = pytest.mark.slow

USERS = 50
HOLDOUT = frozenset(f"u{number}" for number in range(45, 50))
PERSON = "u3"
#: The last items of the catalog.
ERASED_ITEMS = frozenset(f"i{number}" for number in range(112, 120))
FORGET_PERSON = ForgetSet(users=frozenset([PERSON]))
FORGET_ITEMS = ForgetSet(items=ERASED_ITEMS)
#: An early rating by the person, as ids and as indices.
FORGET_RATING = ForgetSet(pairs=frozenset([(PERSON, "i78")]))
RATED = ForgetIndices(pairs=frozenset([(3, 78)]))
BRIEF = replace(
    RECIPE,
    epochs=1,
    backbone=CompactConfig(hidden_size=16, layers=1, heads=2, intermediate_size=32, init_std=0.1),
)
METHODS = (
    Sisa(SisaConfig(passes=1)),
    RecEraser(RecEraserConfig(steps=30, most_rows=256)),
    Apa(ApaConfig(passes=1)),
    Retrain(),
)


def nothing(fraction: float) -> None:
    """Ignore the progress."""


def world() -> Interactions:
    """Return data in which the person and the items leave traces besides their rows.

    The person is the tenth user of a region, a number that gives the region a token. The last item
    is the only one of its author. Without either of them, the time bounds are others.
    """
    data = planted()
    data = data.take(data.user < USERS)
    users = [
        replace(user, attributes={**user.attributes, **({"region": "north"} if n < 10 else {})})
        for n, user in enumerate(data.users[:USERS])
    ]
    items = list(data.items)
    items[-1] = replace(items[-1], attributes={**items[-1].attributes, "author": ("Unique",)})
    return replace(data, users=tuple(users), items=tuple(items))


def never_had_person(data: Interactions) -> Interactions:
    """Return the data as if the person had never existed: users get other indices."""
    index = next(n for n, user in enumerate(data.users) if user.id == PERSON)
    rest = data.take(data.user != index)
    return replace(
        rest,
        users=tuple(user for user in data.users if user.id != PERSON),
        user=np.where(rest.user > index, rest.user - 1, rest.user).astype(np.int32),
    )


def never_had_items(data: Interactions) -> Interactions:
    """Return the data as if the indices of the items had never been used."""
    indices = [n for n, item in enumerate(data.items) if item.id in ERASED_ITEMS]
    items = list(data.items)
    for index in indices:
        items[index] = ItemRecord(id=f"\0unused {index}", title="")
    return replace(data.take(~np.isin(data.item, indices)), items=tuple(items))


def never_had_rating(data: Interactions) -> Interactions:
    """Return the data without the one rating that a request names."""
    return data.take(~RATED.rows(data))


def snapshot(data: Interactions, forget: ForgetSet, job_id: str = "job") -> DataSnapshot:
    return DataSnapshot(version=1, data=data, forget=forget, holdout=HOLDOUT, job_id=job_id)


def make_learner(method: UnlearningMethod | None = None) -> ModelLearner:
    learner = ModelLearner(
        Settings(method="e2urec-fast", seed=0), lambda _backbone: BRIEF, CALIBRATION
    )
    learner._method = method or learner._method
    return learner


def content(artifact: Artifact) -> dict[str, Any]:
    """Return the whole manifest, which has the digest of the weights, but for the method's name."""
    manifest = manifests.read_manifest(artifact.directory)
    return {name: value for name, value in manifest.content.items() if name != "method"}


@pytest.mark.parametrize("kind", ["compact", "compact with limits", "adapter"])
def test_retraining_is_byte_identical_to_a_training_without_the_person(
    kind: str, tmp_path: Path
) -> None:
    """The retraining takes the recipe of its parent, which the person's rows trained."""
    data, backbone, recipes = world(), "compact", lambda _backbone: BRIEF
    if kind == "compact with limits":
        limited = replace(BRIEF, limits=RowLimits(train=500, evaluation=60))
        recipes = lambda _backbone: limited  # noqa: E731 - the same shape as above
    if kind == "adapter":
        tiny.save("llama", tmp_path / "public")
        backbone, recipes = f"hf:{tmp_path / 'public'}", small_recipe
    learner = ModelLearner(Settings(method="e2urec-fast", seed=0), recipes, CALIBRATION)
    parent = learner.train(snapshot(data, ForgetSet()), tmp_path / "p", backbone, nothing)
    renewed = learner.train(
        snapshot(data, FORGET_PERSON), tmp_path / "a", parent.directory, nothing
    )
    never = learner.train(
        snapshot(never_had_person(data), ForgetSet()), tmp_path / "b", backbone, nothing
    )
    assert content(renewed) == content(never)
    assert renewed.digest == never.digest != parent.digest


def test_retraining_has_no_token_of_erased_items(tmp_path: Path) -> None:
    data, learner = world(), make_learner()
    renewed = learner.train(snapshot(data, FORGET_ITEMS), tmp_path / "a", "compact", nothing)
    never = learner.train(
        snapshot(never_had_items(data), ForgetSet()), tmp_path / "b", "compact", nothing
    )
    assert "author:Unique" not in content(renewed)["vocabulary"]["values"]
    assert content(renewed) == content(never)


def test_retraining_has_no_token_for_an_item_that_only_the_person_named(tmp_path: Path) -> None:
    """Such an item has a text from the person's rows, and here one of the last item indices."""
    data, learner = world(), make_learner()
    extra = 80  # More than the spare item tokens hide.
    person = next(n for n, user in enumerate(data.users) if user.id == PERSON)
    named = replace(
        data,
        items=(
            *data.items,
            *(
                ItemRecord(
                    id=f"own{n}", title=f"own{n}", attributes={"shop": ("own",)}, from_ratings=True
                )
                for n in range(extra)
            ),
        ),
        user=np.append(data.user, np.full(extra, person, np.int32)),
        item=np.append(data.item, len(data.items) + np.arange(extra, dtype=np.int32)),
        rating=np.append(data.rating, np.full(extra, 4.0, np.float32)),
        timestamp=np.append(data.timestamp, 1_500_000 + np.arange(extra)),
    )
    renewed = learner.train(snapshot(named, FORGET_PERSON), tmp_path / "a", "compact", nothing)
    never = learner.train(
        snapshot(never_had_person(data), ForgetSet()), tmp_path / "b", "compact", nothing
    )
    assert content(renewed) == content(never)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize(
    ("forget", "without"),
    [
        (FORGET_PERSON, never_had_person),
        (FORGET_ITEMS, never_had_items),
        (FORGET_RATING, never_had_rating),
    ],
    ids=["person", "items", "rating"],
)
def test_exact_methods_inherit_nothing_from_the_parent(
    method: UnlearningMethod,
    forget: ForgetSet,
    without: Callable[[Interactions], Interactions],
    tmp_path: Path,
) -> None:
    """Time bounds, vocabulary, calibration, members and their combination: all are made again."""
    data, learner = world(), make_learner(method)
    parent = learner.train(snapshot(data, ForgetSet(), "first"), tmp_path / "p", "compact", nothing)
    exact = learner.unlearn(
        snapshot(data, forget), parent.directory, tmp_path / "a", strength=0, report=nothing
    )
    assert exact.exact
    assert not exact.needs_merge
    never = learner.train(snapshot(without(data), ForgetSet()), tmp_path / "b", "compact", nothing)
    assert content(exact) == content(never)
    if forget is not FORGET_RATING:  # These leave traces in all choices of the parent.
        assert content(exact)["extra"]["bounds"] != content(parent)["extra"]["bounds"]
        assert content(exact)["vocabulary"] != content(parent)["vocabulary"]


def test_exact_ensemble_keeps_the_members_that_a_new_training_gives_again(tmp_path: Path) -> None:
    data, learner = world(), make_learner(METHODS[1])
    assert RATED.rows(data).any()
    parent = learner.train(snapshot(data, ForgetSet(), "first"), tmp_path / "p", "compact", nothing)
    exact = learner.unlearn(
        snapshot(data, FORGET_RATING), parent.directory, tmp_path / "a", strength=0, report=nothing
    )
    assert 0 < len(exact.metrics["shards_retrained"]) < len(exact.metrics["shards"])


def test_exact_method_without_rows_to_forget_leaves_the_work_to_retraining(tmp_path: Path) -> None:
    """New time bounds may leave the batch no training row although the parent saw one."""
    data, learner = world(), make_learner(Sisa(SisaConfig(passes=1)))
    parent = learner.train(snapshot(data, ForgetSet()), tmp_path / "p", "compact", nothing)
    with pytest.raises(UnlearningFailedError):
        learner.unlearn(
            snapshot(data, ForgetSet(users=frozenset(["u47"]))),
            parent.directory,
            tmp_path / "a",
            strength=0,
            report=nothing,
        )
