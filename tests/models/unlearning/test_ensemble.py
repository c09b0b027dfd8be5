"""Ensembles: unlearning is bit for bit a training without the person, and answers are averages."""

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
from models.data.forget_split import ForgetIndices, prepare
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

    from models.data.forget_split import Prepared
    from models.recommender.base import Recommender
    from models.recommender.ensemble import Ensemble
    from models.training.trainer import TrainConfig
    from models.unlearning.ensemble import ShardedMethod

DATA = planted()
DATA = DATA.take((DATA.user < 30) | (DATA.user >= 145))
WHOLE = prepare(DATA, ForgetIndices(), HOLDOUT)
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
    """One method and its first release."""

    method: ShardedMethod
    root: Ensemble

    def task(self, batch: Prepared, recipe: TrainConfig = BRIEF) -> UnlearningTask:
        return UnlearningTask(recommender=self.root, prepared=batch, expected={}, recipe=recipe)


@pytest.fixture(scope="module")
def roots() -> dict[str, Ensemble]:
    made = {}
    for name, method in METHODS.items():
        made[name] = method.train(VOCABULARY, WHOLE, BRIEF, nothing)
    return made  # type: ignore[return-value] # every method here trains an ensemble


@pytest.fixture(params=sorted(METHODS))
def case(request: pytest.FixtureRequest, roots: dict[str, Ensemble]) -> Case:
    return Case(method=METHODS[request.param], root=roots[request.param])


def without(forget: ForgetIndices) -> Prepared:
    return prepare(DATA, forget, HOLDOUT, WHOLE.bounds)


def same(one: Recommender, other: Recommender) -> bool:
    first, second = one.model.state_dict(), other.model.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def prompts_of(recommender: Recommender, count: int = 40) -> PromptBatch:
    return recommender.prompt.samples(WHOLE.parts.test.take(np.arange(count)), DATA)


@pytest.mark.parametrize("kind", sorted(BATCHES))
def test_unlearning_is_bit_for_bit_a_training_without_the_batch(case: Case, kind: str) -> None:
    batch = without(BATCHES[kind])
    found = case.method.unlearn(case.task(batch), nothing)
    never = case.method.train(VOCABULARY, batch, BRIEF, nothing)
    assert found.adapter is None
    assert same(found.recommender, never)
    assert found.recommender.config == never.config
    assert not same(found.recommender, case.root)


def test_a_group_of_users_is_trained_again_alone(roots: dict[str, Ensemble]) -> None:
    method, root = METHODS["receraser"], roots["receraser"]
    groups = method.partition(VOCABULARY, WHOLE, BRIEF)
    user = WHOLE.parts.train.user

    def moves_nobody(person: int) -> bool:
        rest = method.partition(VOCABULARY, without(_one(person)), BRIEF)
        return np.array_equal(rest, groups[user != person])

    alone = [person for person in range(15) if moves_nobody(person)]
    assert len(alone) >= 5  # Even where one in thirty leaves.
    (own,) = np.unique(groups[user == alone[0]])
    task = Case(method=method, root=root).task(without(_one(alone[0])))
    found = method.unlearn(task, nothing)
    assert found.metrics["shards_retrained"] == [own]
    assert isinstance(found.recommender, OutputEnsemble)
    for shard in range(4):
        kept = equal(found.recommender.shard_state(shard), root.shard_state(shard))
        assert kept == (shard != own)
    everything = sum(p.numel() for p in root.model.parameters())
    assert 0 < found.metrics["trainable_parameters"] < everything / 2


def _one(person: int) -> ForgetIndices:
    return ForgetIndices(users=frozenset([person]))


@pytest.mark.parametrize("name", ["receraser", "apa"])
def test_who_only_weighed_answers_is_forgotten_without_training_a_shard(
    roots: dict[str, Ensemble], name: str
) -> None:
    """People of the cohort are in no shard, but validation rows of theirs weighed the answers."""
    batch = without(ForgetIndices(users=frozenset(range(145, 150))))
    assert not len(batch.forget)
    assert batch.forget_valid
    case = Case(method=METHODS[name], root=roots[name])
    found = case.method.unlearn(case.task(batch), nothing)
    assert found.metrics["shards_retrained"] == []
    assert same(found.recommender, case.method.train(VOCABULARY, batch, BRIEF, nothing))
    if name == "apa":  # The choice of an attention's best state may be the same without them.
        assert not same(found.recommender, case.root)


def test_a_shard_with_only_a_history_changed_is_trained_again(roots: dict[str, Ensemble]) -> None:
    """The forgotten rating is a candidate in one shard and in the histories of others."""
    task = Case(method=METHODS["sisa"], root=roots["sisa"]).task(without(BATCHES["pair"]))
    belongs = by_hash(task.prepared.forget, DATA, BRIEF.seed, 4)
    assert set(belongs[task.prepared.forget.candidate == PAIR[1]]) != set(belongs)
    assert METHODS["sisa"].unlearn(task, nothing).metrics["shards_retrained"] == sorted(
        set(belongs)
    )


def test_a_member_that_somebody_tuned_is_not_kept(case: Case) -> None:
    tuned = case.root.with_model(copy.deepcopy(case.root.model))
    with torch.no_grad():
        next(iter(tuned.shard_state(0).values())).add_(0.01)
    batch = without(BATCHES["user"])
    task = replace(case.task(batch), recommender=tuned)
    found = case.method.unlearn(task, nothing)
    assert 0 in found.metrics["shards_retrained"]
    assert same(found.recommender, case.method.train(VOCABULARY, batch, BRIEF, nothing))


def test_members_of_another_recipe_or_release_are_not_kept(case: Case) -> None:
    batch = without(BATCHES["user"])
    other = case.method.unlearn(case.task(batch, BRIEF.seeded(7)), nothing)
    plain = replace(case.task(batch), recommender=build(VOCABULARY, BRIEF.backbone))
    switched = case.method.unlearn(plain, nothing)
    for found, recipe in ((other, BRIEF.seeded(7)), (switched, BRIEF)):
        assert found.metrics["shards_retrained"] == [0, 1, 2, 3]
        assert same(found.recommender, case.method.train(VOCABULARY, batch, recipe, nothing))


def test_empty_shards_are_left_out(case: Case) -> None:
    train = WHOLE.parts.train
    belongs = case.method.partition(VOCABULARY, WHOLE, BRIEF)
    few = replace(WHOLE, parts=replace(WHOLE.parts, train=train.take(belongs == belongs[0])))

    class OneShard(type(case.method)):  # type: ignore[misc] # its class is the case's
        def partition(self, *args: object) -> object:
            del args
            return np.full(len(few.parts.train), 2)

    method = OneShard(case.method.config)
    found = method.train(VOCABULARY, few, BRIEF, nothing)
    assert [bool(shard_fingerprint) for shard_fingerprint in found.config.shard_fingerprints] == [
        False,
        False,
        True,
        False,
    ]
    prompts = prompts_of(found)
    alone = (
        found.logits_with(prompts, torch.eye(4)[2].expand(len(prompts), -1))
        if isinstance(found, AdapterEnsemble)
        else found.members[2].logits(prompts)
    )
    assert torch.allclose(found.logits(prompts), alone, atol=TOLERANCE)


def test_a_shard_fingerprint_tells_padding_from_words_and_knows_every_precision() -> None:
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


def test_nobody_at_all_leaves_initial_weights(case: Case) -> None:
    nobody = replace(WHOLE, parts=replace(WHOLE.parts, train=WHOLE.parts.train.take(np.arange(0))))
    found = case.method.train(VOCABULARY, nobody, BRIEF, nothing)
    assert torch.isfinite(found.logits(prompts_of(found))).all()
    initial = build(VOCABULARY, case.method.ensemble_config(BRIEF))
    for shard in range(4):
        assert equal(found.shard_state(shard), initial.shard_state(shard))  # type: ignore[attr-defined] # ensembles


def test_sisa_averages_logits(roots: dict[str, Ensemble]) -> None:
    root = roots["sisa"]
    assert isinstance(root, OutputEnsemble)
    prompts = prompts_of(root)
    apart = [member.logits(prompts) for member in root.members]
    assert torch.allclose(root.logits(prompts), sum(apart) / 4, atol=TOLERANCE)  # type: ignore[operator] # tensors
    assert not torch.allclose(apart[0], apart[1], atol=0.01)


def test_an_attention_by_hand() -> None:
    attention = Attention(members=2, size=2, width=2, seed=0)
    with torch.no_grad():
        attention.weight.copy_(torch.tensor([[[1.0, 0], [0, 1]], [[2.0, 0], [0, -1]]]))
        attention.bias.copy_(torch.tensor([[0.0, 1], [0, 0]]))
        attention.rate.copy_(torch.tensor([1.0, 10]))
    embedded = torch.tensor([[[3.0, -4], [3, -4]]])
    # First member: relu([3, -4 + 1]) = [3, 0] → 3; second: relu([6, 4]) → 6 + 40.
    assert attention(embedded).tolist() == [[3.0, 46.0]]


def test_an_attention_starts_with_equal_weights_and_then_weighs_logits(
    roots: dict[str, Ensemble],
) -> None:
    root = roots["receraser"]
    assert isinstance(root, OutputEnsemble)
    prompts = prompts_of(root)
    weights = root.weights(prompts)
    apart = torch.stack([member.logits(prompts) for member in root.members])
    by_hand = torch.stack(
        [sum(weights[b, k] * apart[k, b] for k in range(4)) for b in range(len(prompts))]  # type: ignore[misc] # tensors
    )
    assert torch.allclose(root.logits(prompts), by_hand, atol=TOLERANCE)
    fresh = build(VOCABULARY, root.config)
    assert isinstance(fresh, OutputEnsemble)
    assert torch.equal(fresh.weights(prompts), torch.full((len(prompts), 4), 0.25))


def test_mixing_adapters_is_adding_their_parameters(roots: dict[str, Ensemble]) -> None:
    """For every sample, a plain model with the weighted sum of the deltas folded in agrees."""
    root = roots["apa"]
    assert isinstance(root, AdapterEnsemble)
    prompts = prompts_of(root, count=3)
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4], [1.0, 0, 0, 0], [0.5, 0, 0.5, 0]])
    with torch.no_grad():
        together = root.logits_with(prompts, weights)
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
        one = plain.logits(prompts.take(torch.tensor([row])))
        # The tied head of the base is not adapted, and Yes and No are never read as input.
        assert torch.allclose(together[row], one[0], atol=TOLERANCE)


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
    wanted = 1 / (1 + math.exp(-10 * (1 - 2 * first)))
    assert routing(embedded, [0, 1])[0].tolist() == pytest.approx([wanted, 1 - wanted, 0])


def test_what_is_loaded_is_what_was_saved(case: Case, tmp_path: Path) -> None:
    checkpoints.save(case.root, tmp_path / "release", method=case.method.name)
    loaded = checkpoints.load(tmp_path / "release")
    assert type(loaded) is type(case.root)
    assert loaded.config == case.root.config
    assert same(loaded, case.root)
    batch = without(BATCHES["user"])
    kept = case.method.unlearn(replace(case.task(batch), recommender=loaded), nothing)
    straight = case.method.unlearn(case.task(batch), nothing)
    assert kept.metrics["shards_retrained"] == straight.metrics["shards_retrained"]


def test_a_score_is_the_probability_of_the_whole_prompt(case: Case) -> None:
    history = [HistoryEvent(item_index=n, rating=1 + n % 5) for n in range(7)]
    wanted = [
        Candidate(item_index, {"genre": ("even",) if item_index % 2 else ()})
        for item_index in range(20, 30)
    ]
    prompt = case.root.prompt
    prefix = prompt.prefix({"taste": "odd"}, [(e.item_index, e.rating) for e in history])
    suffix = prompt.suffixes([(c.item_index, c.attributes) for c in wanted])
    tokens = torch.cat([prefix.expand(len(wanted), -1), suffix], dim=1)
    whole = case.root.logits(type(prompts_of(case.root))(tokens=tokens))
    found = case.root.score({"taste": "odd"}, history, wanted)
    assert np.allclose(found, whole.softmax(1)[:, 0].numpy(), atol=TOLERANCE)
    assert found.std() > 0
    assert case.root.score({}, history, []).shape == (0,)


def test_many_threads_may_score_at_once(case: Case) -> None:
    def score(first: int) -> list[float]:
        history = [HistoryEvent(item_index=first + n, rating=1 + n % 5) for n in range(9)]
        wanted = [
            Candidate(item_index, {"genre": ("even",)}) for item_index in range(first, first + 12)
        ]
        found: list[float] = case.root.score({"taste": "even"}, history, wanted).tolist()
        return found

    alone = [score(first) for first in range(40)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(score, range(40)))
    assert np.allclose(alone, together, atol=TOLERANCE)


def test_rows_of_unrated_items_are_initial_in_every_member(case: Case) -> None:
    """A reset changes nothing that was trained, and mends whatever else touched these rows."""
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


def test_a_relearning_attack_reaches_every_member_and_leaves_the_release(case: Case) -> None:
    before = copy.deepcopy(case.root.model.state_dict())
    rows = WHOLE.parts.holdout.take(np.arange(64))
    prompts = case.root.prompt.samples(rows, DATA)
    config = RelearnConfig(cap=30, learning_rate=1e-2)
    found = relearn_steps(case.root, prompts, rows.label, 0.3, config, seed=0)
    assert found.after < found.before
    assert equal(before, case.root.model.state_dict())


def test_shards_do_not_depend_on_who_else_is_there(roots: dict[str, Ensemble]) -> None:
    del roots
    others = DATA.take(DATA.user >= 20)
    train = WHOLE.parts.train.take(WHOLE.parts.train.user >= 20)
    # Other indices, the same people: as in a later job.
    moved = replace(others, users=others.users[20:], user=(others.user - 20).astype(np.int32))
    later = replace(train, user=(train.user - 20).astype(np.int32))
    assert by_hash(train, DATA, 0, 4).tolist() == by_hash(later, moved, 0, 4).tolist()
    assert by_hash(train, DATA, 0, 4).tolist() != by_hash(train, DATA, 1, 4).tolist()
    features, counts = tastes(DATA, WHOLE.bounds.valid_from, 0)
    after, after_counts = tastes(moved, WHOLE.bounds.valid_from, 0)
    assert np.array_equal(features[20:], after)
    assert np.array_equal(counts[20:], after_counts)


def test_prices_balance_and_hardly_depend_on_one_person() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(2000, 16)) + 0.5
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    weight = generator.integers(1, 50, 2000).astype(float)
    found = balanced(features, weight, 0, 4)
    shares = np.bincount(found, weights=weight, minlength=4) / weight.sum()
    assert 0.18 < shares.min() <= shares.max() < 0.32
    scores = features[:, :4]
    # Even shares at once: nobody pays.
    assert prices(np.eye(4).repeat(5, axis=0), np.ones(20)).tolist() == [0.0] * 4
    unmoved = [
        np.array_equal(
            prices(np.delete(scores, n, axis=0), np.delete(weight, n)), prices(scores, weight)
        )
        for n in range(10)
    ]
    assert sum(unmoved) >= 8


def test_an_ensemble_that_cannot_be_is_refused() -> None:
    known = Sisa().ensemble_config(BRIEF)
    assert backbone_from_manifest(known.manifest()) == known
    for wrong in ({"aggregation": "hope"}, {"shards": 0}, {"shard_fingerprints": ["one"]}):
        with pytest.raises(ValueError, match=r"aggregation|shards"):
            backbone_from_manifest({**known.manifest(), **wrong})
    assert isinstance(known, EnsembleConfig)
    assert known.seeded(3).seed == 3
