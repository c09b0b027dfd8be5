"""Test ensembles: unlearning equals training without the batch, and answers are averages."""

from __future__ import annotations

import copy
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from models.audit.relearning import RelearnConfig, relearn_steps
from models.backbones.compact import CompactConfig
from models.checkpoints import checkpoint as checkpoints
from models.data.forget_split import ForgetIndices, split_for_forgetting
from models.prompts.prompt_batch import PromptBatch
from models.prompts.scoring_inputs import Candidate, HistoryEvent
from models.prompts.vocabulary import Vocabulary
from models.recommender.adapter_ensemble import (
    AdapterEnsemble,
    MixedEmbedding,
    MixedLinear,
    Routing,
)
from models.recommender.ensemble import Attention, EnsembleConfig, OutputEnsemble
from models.recommender.factory import backbone_from_manifest, build
from models.recommender.token_rows import reset_rows
from models.unlearning.apa import Apa, ApaConfig
from models.unlearning.base import UnlearningTask
from models.unlearning.receraser import RecEraser, RecEraserConfig
from models.unlearning.sharding import balanced, by_hash, prices, shard_fingerprint, tastes
from models.unlearning.sisa import Sisa, SisaConfig
from tests.models.conftest import nothing
from tests.support.planted_tastes import HOLDOUT, RECIPE, planted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from models.data.forget_split import ForgetSplit
    from models.recommender.base import Recommender
    from models.recommender.ensemble import Ensemble
    from models.training.trainer import TrainConfig
    from models.unlearning.ensemble import ShardedMethod

pytestmark = pytest.mark.slow

DATA = planted()
DATA = DATA.take((DATA.user < 30) | (DATA.user >= 145))
WHOLE = split_for_forgetting(DATA, ForgetIndices(), HOLDOUT)
VOCABULARY = Vocabulary.from_catalog(DATA)
BRIEF = replace(
    RECIPE,
    epochs=1,
    backbone=CompactConfig(hidden_size=16, layers=1, heads=2, intermediate_size=32, init_std=0.1),
)
METHODS: dict[str, ShardedMethod] = {
    "sisa": Sisa(SisaConfig(passes=1)),
    "receraser": RecEraser(RecEraserConfig(passes=1, steps=40, evaluations=2, most_rows=256)),
    "apa": Apa(ApaConfig(passes=1)),
}
PAIR = (3, int(DATA.item[DATA.user == 3][10]))
BATCHES = {
    "user": ForgetIndices(users=frozenset([3])),
    "pair": ForgetIndices(pairs=frozenset([PAIR])),
    "item": ForgetIndices(items=frozenset([5])),
}
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A method and its first release."""

    method: ShardedMethod
    root: Ensemble

    def task(self, batch: ForgetSplit, recipe: TrainConfig = BRIEF) -> UnlearningTask:
        return UnlearningTask(
            recommender=self.root, prepared=batch, expected={}, memorization={}, recipe=recipe
        )


@pytest.fixture(scope="module")
def roots() -> dict[str, Ensemble]:
    return {
        name: method.train(VOCABULARY, WHOLE, BRIEF, nothing)  # type: ignore[misc] # an ensemble
        for name, method in METHODS.items()
    }


@pytest.fixture(params=sorted(METHODS))
def case(request: pytest.FixtureRequest, roots: dict[str, Ensemble]) -> Case:
    return Case(method=METHODS[request.param], root=roots[request.param])


def without(forget: ForgetIndices) -> ForgetSplit:
    return split_for_forgetting(DATA, forget, HOLDOUT, WHOLE.bounds)


def same(first: Recommender, second: Recommender) -> bool:
    ours, theirs = first.model.state_dict(), second.model.state_dict()
    return ours.keys() == theirs.keys() and equal(ours, theirs)


def equal(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def prompts_of(recommender: Recommender, count: int = 40) -> PromptBatch:
    return recommender.prompt.samples(WHOLE.parts.test.take(np.arange(count)), DATA)


@pytest.mark.parametrize("kind", sorted(BATCHES))
def test_unlearning_equals_training_without_the_batch(case: Case, kind: str) -> None:
    batch = without(BATCHES[kind])
    result = case.method.unlearn(case.task(batch), nothing)
    never = case.method.train(VOCABULARY, batch, BRIEF, nothing)
    assert result.adapter is None
    assert same(result.recommender, never)
    assert result.recommender.config == never.config
    assert not same(result.recommender, case.root)


def test_only_the_changed_group_of_users_is_retrained(roots: dict[str, Ensemble]) -> None:
    method, root = METHODS["receraser"], roots["receraser"]
    groups = method.partition(VOCABULARY, WHOLE, BRIEF)
    user = WHOLE.parts.train.user

    def keeps_other_groups(leaving: int) -> bool:
        rest = method.partition(VOCABULARY, without(_one_user(leaving)), BRIEF)
        return np.array_equal(rest, groups[user != leaving])

    candidates = [index for index in range(15) if keeps_other_groups(index)]
    assert len(candidates) >= 5  # Although one in thirty users leaves.
    (own,) = np.unique(groups[user == candidates[0]])
    task = Case(method=method, root=root).task(without(_one_user(candidates[0])))
    result = method.unlearn(task, nothing)
    assert result.metrics["shards_retrained"] == [own]
    assert isinstance(result.recommender, OutputEnsemble)
    for shard in range(4):
        kept = equal(result.recommender.shard_state(shard), root.shard_state(shard))
        assert kept == (shard != own)
    all_parameters = sum(p.numel() for p in root.model.parameters())
    assert 0 < result.metrics["trainable_parameters"] < all_parameters / 2


def _one_user(user: int) -> ForgetIndices:
    return ForgetIndices(users=frozenset([user]))


@pytest.mark.parametrize("name", ["receraser", "apa"])
def test_validation_rows_are_forgotten_without_retraining_a_shard(
    roots: dict[str, Ensemble], name: str
) -> None:
    """Validation rows are in no shard, but the aggregation used them."""
    valid = WHOLE.parts.valid
    pairs = frozenset(zip(valid.user.tolist(), valid.candidate.tolist(), strict=True))
    batch = without(ForgetIndices(pairs=frozenset(sorted(pairs)[::2])))
    assert not len(batch.forget)
    assert batch.forget_valid
    case = Case(method=METHODS[name], root=roots[name])
    result = case.method.unlearn(case.task(batch), nothing)
    assert result.metrics["shards_retrained"] == []
    assert same(result.recommender, case.method.train(VOCABULARY, batch, BRIEF, nothing))
    if name == "apa":  # The attention's best state can be the same without these rows.
        assert not same(result.recommender, case.root)


def test_a_shard_with_only_a_changed_history_is_retrained(roots: dict[str, Ensemble]) -> None:
    """The forgotten rating is a candidate in one shard and in histories of other shards."""
    task = Case(method=METHODS["sisa"], root=roots["sisa"]).task(without(BATCHES["pair"]))
    shard_of = by_hash(task.prepared.forget, DATA, BRIEF.seed, 4)
    assert set(shard_of[task.prepared.forget.candidate == PAIR[1]]) != set(shard_of)
    assert METHODS["sisa"].unlearn(task, nothing).metrics["shards_retrained"] == sorted(
        set(shard_of)
    )


def test_a_member_with_changed_weights_is_retrained(case: Case) -> None:
    tuned = case.root.with_model(copy.deepcopy(case.root.model))
    with torch.no_grad():
        next(iter(tuned.shard_state(0).values())).add_(0.01)
    batch = without(BATCHES["user"])
    task = replace(case.task(batch), recommender=tuned)
    result = case.method.unlearn(task, nothing)
    assert 0 in result.metrics["shards_retrained"]
    assert same(result.recommender, case.method.train(VOCABULARY, batch, BRIEF, nothing))


def test_members_of_another_recipe_or_release_are_retrained(case: Case) -> None:
    batch = without(BATCHES["user"])
    other = case.method.unlearn(case.task(batch, BRIEF.seeded(7)), nothing)
    plain = replace(case.task(batch), recommender=build(VOCABULARY, BRIEF.backbone))
    switched = case.method.unlearn(plain, nothing)
    for result, recipe in ((other, BRIEF.seeded(7)), (switched, BRIEF)):
        assert result.metrics["shards_retrained"] == [0, 1, 2, 3]
        assert same(result.recommender, case.method.train(VOCABULARY, batch, recipe, nothing))


def test_empty_shards_are_ignored(case: Case) -> None:
    train = WHOLE.parts.train
    shard_of = case.method.partition(VOCABULARY, WHOLE, BRIEF)
    one_shard = train.take(shard_of == shard_of[0])
    prepared = replace(WHOLE, parts=replace(WHOLE.parts, train=one_shard))

    class OneShard(type(case.method)):  # type: ignore[misc] # its class is the case's
        def partition(self, *args: object) -> object:
            del args
            return np.full(len(one_shard), 2)

    method = OneShard(case.method.config)
    ensemble = method.train(VOCABULARY, prepared, BRIEF, nothing)
    fingerprints = ensemble.config.shard_fingerprints
    assert [bool(fingerprint) for fingerprint in fingerprints] == [False, False, True, False]
    prompts = prompts_of(ensemble)
    member_logits = (
        ensemble.logits_with(prompts, torch.eye(4)[2].expand(len(prompts), -1))
        if isinstance(ensemble, AdapterEnsemble)
        else ensemble.members[2].logits(prompts)
    )
    assert torch.allclose(ensemble.logits(prompts), member_logits, atol=TOLERANCE)


def test_the_shard_fingerprint_depends_on_padding_and_on_tensors_of_any_precision() -> None:
    tokens, labels = torch.zeros(1, 2, dtype=torch.long), torch.ones(1)
    words = PromptBatch(tokens=tokens, present=torch.ones(1, 2, dtype=torch.bool))
    state = {"weight": torch.ones(2, 3, dtype=torch.bfloat16).T, "scalar": torch.tensor(1.0)}
    shard_fingerprints = {
        shard_fingerprint({}, prompts, labels, state)
        for prompts in (words, PromptBatch(tokens=tokens))
    }
    assert len(shard_fingerprints) == 2
    assert (
        shard_fingerprint({}, words, labels, {**state, "scalar": torch.tensor(2.0)})
        not in shard_fingerprints
    )


def test_no_training_rows_leave_initial_weights(case: Case) -> None:
    no_rows = WHOLE.parts.train.take(np.arange(0))
    empty = replace(WHOLE, parts=replace(WHOLE.parts, train=no_rows))
    ensemble = case.method.train(VOCABULARY, empty, BRIEF, nothing)
    assert torch.isfinite(ensemble.logits(prompts_of(ensemble))).all()
    initial = build(VOCABULARY, case.method.ensemble_config(BRIEF))
    for shard in range(4):
        assert equal(ensemble.shard_state(shard), initial.shard_state(shard))  # type: ignore[attr-defined] # ensembles


def test_sisa_averages_logits(roots: dict[str, Ensemble]) -> None:
    root = roots["sisa"]
    assert isinstance(root, OutputEnsemble)
    prompts = prompts_of(root)
    by_member = [member.logits(prompts) for member in root.members]
    assert torch.allclose(root.logits(prompts), sum(by_member) / 4, atol=TOLERANCE)  # type: ignore[operator] # tensors
    assert not torch.allclose(by_member[0], by_member[1], atol=0.01)


def test_attention_by_hand() -> None:
    attention = Attention(members=2, size=2, width=2, seed=0)
    with torch.no_grad():
        attention.weight.copy_(torch.tensor([[[1.0, 0], [0, 1]], [[2.0, 0], [0, -1]]]))
        attention.bias.copy_(torch.tensor([[0.0, 1], [0, 0]]))
        attention.rate.copy_(torch.tensor([1.0, 10]))
    embedded = torch.tensor([[[3.0, -4], [3, -4]]])
    # First member: relu([3, -4 + 1]) = [3, 0] → 3; second: relu([6, 4]) → 6 + 40.
    assert attention(embedded).tolist() == [[3.0, 46.0]]


def test_attention_starts_with_equal_weights_and_weighs_logits(
    roots: dict[str, Ensemble],
) -> None:
    root = roots["receraser"]
    assert isinstance(root, OutputEnsemble)
    prompts = prompts_of(root)
    weights = root.weights(prompts)
    by_member = torch.stack([member.logits(prompts) for member in root.members])
    by_hand = torch.stack(
        [sum(weights[b, k] * by_member[k, b] for k in range(4)) for b in range(len(prompts))]  # type: ignore[misc] # tensors
    )
    assert torch.allclose(root.logits(prompts), by_hand, atol=TOLERANCE)
    fresh = build(VOCABULARY, root.config)
    assert isinstance(fresh, OutputEnsemble)
    assert torch.equal(fresh.weights(prompts), torch.full((len(prompts), 4), 0.25))


def test_mixed_adapters_equal_a_model_with_summed_parameters(roots: dict[str, Ensemble]) -> None:
    """For every sample, merge the weighted sum of the deltas into a plain model and compare."""
    root = roots["apa"]
    assert isinstance(root, AdapterEnsemble)
    prompts = prompts_of(root, count=3)
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4], [1.0, 0, 0, 0], [0.5, 0, 0.5, 0]])
    with torch.no_grad():
        mixed = root.logits_with(prompts, weights)
    for row in range(3):
        plain = build(VOCABULARY, root.config.member)
        for name, module in root.model.base.named_modules():  # type: ignore[union-attr] # a module
            if isinstance(module, MixedLinear | MixedEmbedding):
                ranked = torch.einsum("k,kir,kro->io", weights[row], _down(module), module.up)
                into = plain.model.get_submodule(name).weight
                with torch.no_grad():
                    into += module.scale * (
                        ranked if isinstance(module, MixedEmbedding) else ranked.T
                    )
        merged = plain.logits(prompts.take(torch.tensor([row])))
        # The base's tied head has no adapter, and Yes and No never occur in a prompt.
        assert torch.allclose(mixed[row], merged[0], atol=TOLERANCE)


def _down(module: MixedLinear | MixedEmbedding) -> torch.Tensor:
    return module.down if isinstance(module, MixedEmbedding) else module.down.transpose(1, 2)


def test_routing_by_hand() -> None:
    routing = Routing(adapters=3, size=2, cells=2, seed=0)
    routing.directions.copy_(torch.tensor([[1.0, 0], [0, 1]]))
    routing.losses.copy_(torch.tensor([[0.4, 0.6, 0.0], [0.6, 0.4, 0.0]]))
    embedded = torch.tensor([[2.0, 0.0]])
    assert routing(embedded, [0, 1]).tolist() == [[0.5, 0.5, 0.0]]
    routing.sharpness.fill_(10.0)
    near = math.e / (math.e + 1)  # softmax of (1, 0)
    first = 0.4 * near + 0.6 * (1 - near)
    weight = 1 / (1 + math.exp(-10 * (1 - 2 * first)))
    assert routing(embedded, [0, 1])[0].tolist() == pytest.approx([weight, 1 - weight, 0])


def test_a_loaded_release_equals_the_saved_release(case: Case, tmp_path: Path) -> None:
    checkpoints.save(case.root, tmp_path / "release", method=case.method.name)
    loaded = checkpoints.load(tmp_path / "release")
    assert type(loaded) is type(case.root)
    assert loaded.config == case.root.config
    assert same(loaded, case.root)
    batch = without(BATCHES["user"])
    from_loaded = case.method.unlearn(replace(case.task(batch), recommender=loaded), nothing)
    from_saved = case.method.unlearn(case.task(batch), nothing)
    assert from_loaded.metrics["shards_retrained"] == from_saved.metrics["shards_retrained"]


def test_a_score_is_the_probability_of_the_whole_prompt(case: Case) -> None:
    history = [HistoryEvent(item_index=n, rating=1 + n % 5) for n in range(7)]
    candidates = [
        Candidate(item_index, {"genre": ("even",) if item_index % 2 else ()})
        for item_index in range(20, 30)
    ]
    prompt = case.root.prompt
    prefix = prompt.prefix({"taste": "odd"}, [(e.item_index, e.rating) for e in history])
    suffix = prompt.suffixes([(c.item_index, c.attributes) for c in candidates])
    tokens = torch.cat([prefix.expand(len(candidates), -1), suffix], dim=1)
    whole = case.root.logits(type(prompts_of(case.root))(tokens=tokens))
    scores = case.root.score({"taste": "odd"}, history, candidates)
    assert np.allclose(scores, whole.softmax(1)[:, 0].numpy(), atol=TOLERANCE)
    assert scores.std() > 0
    assert case.root.score({}, history, []).shape == (0,)


def test_many_threads_can_score_at_once(case: Case) -> None:
    def score(first: int) -> list[float]:
        history = [HistoryEvent(item_index=first + n, rating=1 + n % 5) for n in range(9)]
        candidates = [
            Candidate(item_index, {"genre": ("even",)}) for item_index in range(first, first + 12)
        ]
        scores: list[float] = case.root.score({"taste": "even"}, history, candidates).tolist()
        return scores

    sequential = [score(first) for first in range(40)]
    with ThreadPoolExecutor(8) as pool:
        concurrent = list(pool.map(score, range(40)))
    assert np.allclose(sequential, concurrent, atol=TOLERANCE)


def test_rows_of_unrated_items_are_initial_in_every_member(case: Case) -> None:
    """A reset changes no trained row, and restores changed rows of unrated items."""
    batch = without(ForgetIndices(items=frozenset([5])))
    found = case.method.unlearn(case.task(batch), nothing).recommender
    before = copy.deepcopy(found.model.state_dict())
    row = VOCABULARY.item(5)
    unused = [VOCABULARY.item(index) for index in batch.unused_item_indices().tolist()]
    assert row in unused
    reset_rows(found, unused)
    assert equal(before, found.model.state_dict())
    for table in found.item_tables():
        table[row] += 1.0
    reset_rows(found, unused)
    assert equal(before, found.model.state_dict())


def test_a_relearning_attack_trains_and_leaves_the_release_unchanged(case: Case) -> None:
    before = copy.deepcopy(case.root.model.state_dict())
    rows = WHOLE.parts.holdout.take(np.arange(64))
    prompts = case.root.prompt.samples(rows, DATA)
    config = RelearnConfig(cap=30, learning_rate=1e-2)
    relearned = relearn_steps(case.root, prompts, rows.label, 0.3, config, seed=0)
    assert relearned.after < relearned.before
    assert equal(before, case.root.model.state_dict())


def test_a_users_shards_do_not_depend_on_other_users() -> None:
    others = DATA.take(DATA.user >= 20)
    train = WHOLE.parts.train.take(WHOLE.parts.train.user >= 20)
    # The same users with other indices, as in a later job.
    moved = replace(others, users=others.users[20:], user=(others.user - 20).astype(np.int32))
    later = replace(train, user=(train.user - 20).astype(np.int32))
    assert by_hash(train, DATA, 0, 4).tolist() == by_hash(later, moved, 0, 4).tolist()
    assert by_hash(train, DATA, 0, 4).tolist() != by_hash(train, DATA, 1, 4).tolist()
    features, counts = tastes(DATA, WHOLE.bounds.valid_from, 0)
    after, after_counts = tastes(moved, WHOLE.bounds.valid_from, 0)
    assert np.array_equal(features[20:], after)
    assert np.array_equal(counts[20:], after_counts)


def test_prices_balance_shards_and_rarely_depend_on_one_user() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(2000, 16)) + 0.5
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    weight = generator.integers(1, 50, 2000).astype(float)
    shards = balanced(features, weight, 0, 4)
    shares = np.bincount(shards, weights=weight, minlength=4) / weight.sum()
    assert 0.18 < shares.min() <= shares.max() < 0.32
    scores = features[:, :4]
    # The shares are even without prices.
    assert prices(np.eye(4).repeat(5, axis=0), np.ones(20)).tolist() == [0.0] * 4
    unmoved = [
        np.array_equal(
            prices(np.delete(scores, n, axis=0), np.delete(weight, n)), prices(scores, weight)
        )
        for n in range(10)
    ]
    assert sum(unmoved) >= 8


def test_an_invalid_ensemble_configuration_raises_an_error() -> None:
    config = Sisa().ensemble_config(BRIEF)
    assert backbone_from_manifest(config.manifest()) == config
    for wrong in ({"aggregation": "hope"}, {"shards": 0}, {"seals": ["one"]}):
        with pytest.raises(ValueError, match=r"aggregation|shards"):
            backbone_from_manifest({**config.manifest(), **wrong})
    assert isinstance(config, EnsembleConfig)
    assert config.seeded(3).seed == 3
