"""Conformance of every backbone: padding, prefix caching, checkpoints, manifests, training."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn import functional

from models.backbones.compact import CompactConfig, CompactT5Config, UnknownBackboneError
from models.backbones.errors import BackboneUnavailableError
from models.checkpoints.checkpoint import load, read_weights, save
from models.checkpoints.manifest import CheckpointError
from models.data.forget_split import ForgetIndices, split_for_forgetting
from models.data.samples import build_samples
from models.data.splits import TimeSplit
from models.prompts.prompt_batch import PromptBatch
from models.prompts.scoring_inputs import Candidate, HistoryEvent
from models.prompts.vocabulary import Vocabulary
from models.recommender.factory import backbone_from_manifest, build, parse_backbone
from models.recommender.pretrained import HuggingFaceConfig
from models.training.trainer import TrainConfig, fit, margins
from tests.support import tiny_models as tiny

if TYPE_CHECKING:
    from pathlib import Path

    from models.backbones.compact import BackboneConfig
    from models.recommender.base import Recommender

TOLERANCE = 2e-5
VOCABULARY = Vocabulary.from_catalog(tiny.DATA)
SAMPLES = build_samples(tiny.DATA)
#: The shares of the E2URec paper: smaller validation shares of this data would be too few rows.
PREPARED = split_for_forgetting(
    tiny.DATA,
    ForgetIndices(),
    frozenset(),
    TimeSplit.by_shares(SAMPLES, train=0.6, valid=0.2),
)
every_backbone = pytest.mark.parametrize("kind", tiny.BACKBONES)
others = pytest.mark.parametrize("kind", [*tiny.CAUSAL, *tiny.SEQUENCE])


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BackboneConfig]:
    return {kind: tiny.save(kind, tmp_path_factory.mktemp(kind)) for kind in tiny.BACKBONES}


@pytest.fixture(scope="module")
def recommenders(sources: dict[str, BackboneConfig]) -> dict[str, Recommender]:
    recommenders = {kind: build(VOCABULARY, config) for kind, config in sources.items()}
    for kind in tiny.COMPACT:
        with torch.no_grad():  # Initial weights give nearly the same logits for all prompts.
            for parameter in recommenders[kind].model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    return recommenders


def uneven(recommender: Recommender) -> PromptBatch:
    """Return prompts of 5 to 10 ratings."""
    return recommender.prompt.samples(SAMPLES.take(np.arange(0, 60, 5)), tiny.DATA)


def rows(prompts: PromptBatch) -> list[torch.Tensor]:
    return [tokens[mask.bool()] for tokens, mask in zip(prompts.tokens, prompts.mask, strict=True)]


def padded(row: torch.Tensor, left: int, right: int, filler: int) -> PromptBatch:
    ends = [torch.full((count,), filler) for count in (left, right)]
    present = [torch.zeros(left), torch.ones(len(row)), torch.zeros(right)]
    return PromptBatch(
        tokens=torch.cat([ends[0], row, ends[1]])[None], present=torch.cat(present).bool()[None]
    )


@every_backbone
def test_padding_changes_no_logit(recommenders: dict[str, Recommender], kind: str) -> None:
    """For padding on the left, right or both, with any token id, in batches with longer prompts."""
    recommender = recommenders[kind]
    prompts = uneven(recommender)
    alone = torch.cat([recommender.logits(padded(row, 0, 0, 0)) for row in rows(prompts)])
    assert alone.std(0).min() > 10 * TOLERANCE  # The prompts have different logits.
    assert len(prompts.lengths.unique()) > 1

    torch.testing.assert_close(recommender.logits(prompts), alone, atol=TOLERANCE, rtol=0)
    for left, right, filler in ((4, 0, 0), (0, 4, 0), (3, 2, 7)):
        shifted = PromptBatch.cat(
            [*(padded(row, left, right, filler) for row in rows(prompts)), prompts.take(slice(2))]
        )
        logits = recommender.logits(shifted)[: len(alone)]
        torch.testing.assert_close(logits, alone, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("kind", ["compact-t5", *tiny.SEQUENCE])
def test_encoders_need_the_mask_of_padding(recommenders: dict[str, Recommender], kind: str) -> None:
    """The same padding without a mask changes the logits."""
    recommender = recommenders[kind]
    short, long = sorted(rows(uneven(recommender)), key=len)[:: len(SAMPLES.take(np.arange(11)))]
    gap = len(long) - len(short)
    both = PromptBatch.cat([padded(short, 0, gap, 7), padded(long, 0, 0, 0)])
    unmasked = PromptBatch(tokens=both.tokens, present=torch.ones_like(both.tokens).bool())

    alone = recommender.logits(padded(short, 0, 0, 0))[0]

    torch.testing.assert_close(recommender.logits(both)[0], alone, atol=TOLERANCE, rtol=0)
    assert (recommender.logits(unmasked)[0] - alone).abs().max() > 10 * TOLERANCE


@every_backbone
def test_padded_prompts_have_finite_gradients(
    recommenders: dict[str, Recommender], kind: str
) -> None:
    recommender = recommenders[kind]
    prompts = uneven(recommender)
    shifted = PromptBatch.cat([padded(row, 9, 0, 0) for row in rows(prompts)])

    recommender.answer_logits(shifted).square().sum().backward()

    gradients = [p.grad for p in recommender.model.parameters() if p.grad is not None]
    recommender.model.zero_grad(set_to_none=True)
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_backbone
@pytest.mark.parametrize("count", [1, 2, 40])
def test_scores_are_those_of_whole_prompts(
    recommenders: dict[str, Recommender], kind: str, count: int
) -> None:
    recommender = recommenders[kind]
    history = [HistoryEvent(n, 1 + n % 5, tiny.DATA.items[n].title) for n in range(7)]
    scored_items = [
        Candidate(n % 20, tiny.DATA.items[n % 20].attributes, f"Item {n}" * (1 + n % 3))
        for n in range(count)
    ]

    scores = recommender.score({"group": "a"}, history, scored_items)

    prompts = recommender.prompt.request({"group": "a"}, history, scored_items)
    with torch.no_grad():
        whole = recommender.answer_logits(prompts).softmax(1)[:, 0].numpy()
    np.testing.assert_allclose(scores, whole, atol=TOLERANCE)
    assert scores.dtype == np.float32
    assert recommender.score({}, history, []).shape == (0,)


@pytest.mark.parametrize("kind", ["compact", *tiny.CAUSAL])
def test_causal_models_read_the_prefix_once(
    recommenders: dict[str, Recommender], kind: str
) -> None:
    """A hook counts the tokens of each pass: first the prefix, then the suffixes."""
    recommender = recommenders[kind]
    history = [HistoryEvent(n, 4.0, tiny.DATA.items[n].title) for n in range(9)]
    scored_items = [Candidate(n, {}, f"Item {n}") for n in range(6)]
    prompts = recommender.prompt.request({}, history, scored_items)
    recommender.score({}, history, scored_items)  # The first score verifies the reader.
    token_counts: list[int] = []
    embedding = recommender.model.get_input_embeddings()
    handle = embedding.register_forward_hook(
        lambda _, inputs, __: token_counts.append(inputs[0].numel())
    )
    try:
        recommender.score({}, history, scored_items)
    finally:
        handle.remove()

    shared = prompts.shared_length()
    assert token_counts[0] == shared
    assert len(token_counts) == 2
    assert token_counts[1] <= 6 * (prompts.tokens.shape[1] - shared)
    assert shared > 0.5 * int(prompts.lengths.max())


@pytest.mark.parametrize("kind", ["t5", "bart", "compact-t5"])
def test_an_encoder_decoder_answers_at_its_first_position(
    recommenders: dict[str, Recommender], kind: str
) -> None:
    recommender = recommenders[kind]
    prompts = uneven(recommender).aligned(right=False)
    start = recommender.model.config.decoder_start_token_id

    logits = recommender.logits(prompts)

    with torch.no_grad():
        whole = recommender.model(
            input_ids=prompts.tokens,
            attention_mask=prompts.mask,
            decoder_input_ids=torch.full((len(prompts), 1), start),
        ).logits[:, 0]
    torch.testing.assert_close(
        logits, whole[:, list(recommender.prompt.answers)], atol=TOLERANCE, rtol=0
    )


@every_backbone
def test_a_loaded_release_is_the_saved_one(
    recommenders: dict[str, Recommender], kind: str, tmp_path: Path
) -> None:
    """The weights come from the release, not from the backbone's source."""
    recommender = recommenders[kind]
    changed = recommender.with_model(recommender.model)
    with torch.no_grad():
        next(iter(changed.model.parameters())).mul_(1.5)
    try:
        prompts = uneven(changed)
        save(changed, tmp_path / "release", method="train")
        loaded = load(tmp_path / "release")
        expected, state = changed.logits(prompts), changed.model.state_dict()

        assert type(loaded) is type(recommender)
        assert loaded.config == recommender.config
        torch.testing.assert_close(loaded.logits(uneven(loaded)), expected, atol=1e-6, rtol=0)
        loaded_state = loaded.model.state_dict()
        assert loaded_state.keys() == state.keys()
        assert all(torch.equal(loaded_state[name], tensor) for name, tensor in state.items())
        assert not any(p.requires_grad for p in loaded.model.parameters())
        rows_of = [
            module.weight.data_ptr()
            for module in (
                loaded.model.get_input_embeddings(),
                loaded.model.get_output_embeddings(),
            )
        ]
        assert len(set(rows_of)) == 1  # Input and output embeddings stay tied.
        saved_state = read_weights(tmp_path / "release")
        assert len(saved_state) == len({tensor.data_ptr() for tensor in state.values()})
    finally:
        with torch.no_grad():
            next(iter(recommender.model.parameters())).div_(1.5)


@pytest.fixture
def release_with_source(sources: dict[str, BackboneConfig], tmp_path: Path) -> tuple[Path, Path]:
    """The source of a model, which is needed for its tokenizer, and a release."""
    source = shutil.copytree(sources["llama"].name, tmp_path / "source")
    config = parse_backbone(f"hf:{source}")
    save(build(VOCABULARY, config), tmp_path / "release", method="train")
    return source, tmp_path / "release"


def test_a_changed_tokenizer_is_refused(release_with_source: tuple[Path, Path]) -> None:
    source, release = release_with_source
    load(release)
    tokenizer = tiny.byte_pairs()
    tokenizer.backend_tokenizer.normalizer = tiny.lower_case()
    tokenizer.save_pretrained(source)

    with pytest.raises(CheckpointError, match=r"tokenizer .* has changed"):
        load(release)


def test_a_missing_source_is_refused(release_with_source: tuple[Path, Path]) -> None:
    source, release = release_with_source
    shutil.rmtree(source)

    with pytest.raises(CheckpointError, match=r"no backbone.*there is no such directory"):
        load(release)


def test_names_of_backbones_are_parsed(tmp_path: Path) -> None:
    assert parse_backbone(" compact ") == CompactConfig()
    assert parse_backbone("compact-t5") == CompactT5Config()
    assert parse_backbone("smollm2") == HuggingFaceConfig(name="smollm2")
    assert parse_backbone("hf:google-t5/t5-base") == HuggingFaceConfig(name="google-t5/t5-base")
    assert parse_backbone(f"hf:{tmp_path}/./x/..") == HuggingFaceConfig(name=str(tmp_path))


@pytest.mark.parametrize("name", ["", "hf", "hf:", "Compact", "t5", "llama", "hf:smollm2"])
def test_an_unknown_backbone_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownBackboneError, match="compact, compact-t5, smollm2, hf:<model id"):
        parse_backbone(name)


@every_backbone
def test_settings_are_rebuilt_from_the_manifest(
    sources: dict[str, BackboneConfig], kind: str
) -> None:
    config = sources[kind].seeded(7)

    assert config.seed == 7
    assert backbone_from_manifest(config.manifest()) == config


def test_a_manifest_of_another_kind_is_refused() -> None:
    with pytest.raises(UnknownBackboneError):
        backbone_from_manifest({"kind": "gpt"})


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("*", "config.json"),
        ("config.json", "config.json"),
        ("*.safetensors", "safetensors"),
        ("tokenizer*", "tokenizer"),
    ],
)
def test_a_missing_file_raises_with_advice(
    sources: dict[str, BackboneConfig], tmp_path: Path, missing: str, reason: str
) -> None:
    source = shutil.copytree(sources["llama"].name, tmp_path / "source")
    for path in source.glob(missing):
        path.unlink()

    with pytest.raises(BackboneUnavailableError, match=rf"{reason}.*Give a directory with"):
        build(VOCABULARY, parse_backbone(f"hf:{source}"))


def test_damaged_weights_cannot_be_loaded(
    sources: dict[str, BackboneConfig], tmp_path: Path
) -> None:
    source = shutil.copytree(sources["t5"].name, tmp_path / "source")
    (source / "model.safetensors").write_bytes(b"not weights")

    with pytest.raises(BackboneUnavailableError, match="Give a directory"):
        build(VOCABULARY, parse_backbone(f"hf:{source}"))


def test_a_missing_directory_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(BackboneUnavailableError, match="there is no such directory"):
        build(VOCABULARY, parse_backbone(f"hf:{tmp_path}/nowhere"))


def test_an_unreachable_hub_raises_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(BackboneUnavailableError, match="Give a directory"):
        build(VOCABULARY, parse_backbone("hf:example/missing-model"))


def test_an_unknown_precision_cannot_be_loaded(sources: dict[str, BackboneConfig]) -> None:
    with pytest.raises(BackboneUnavailableError, match="int3 is none of"):
        build(VOCABULARY, replace(sources["llama"], dtype="int3"))


@pytest.mark.parametrize("kind", ["compact", "compact-t5"])
def test_initial_weights_depend_on_the_seed_alone(kind: str) -> None:
    config = parse_backbone(kind)
    before = torch.get_rng_state()
    first, again, other = (
        build(VOCABULARY, config.seeded(seed)).model.state_dict() for seed in (1, 1, 2)
    )

    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    embedding = build(VOCABULARY, config.seeded(1)).model.get_input_embeddings().weight
    assert embedding.shape == (VOCABULARY.size, config.hidden_size)
    assert sum(not torch.equal(tensor, other[name]) for name, tensor in first.items()) > 5


SHORT = TrainConfig(batch_size=16, epochs=1, warmup_steps=3, validations=0)
RECIPES = {
    "compact-t5": replace(SHORT, learning_rate=3e-3, epochs=6),
    "llama": replace(SHORT, learning_rate=3e-3, epochs=8),
    "t5": replace(SHORT, learning_rate=5e-3),
}


@pytest.mark.parametrize("kind", ["compact-t5", "llama"])
def test_training_lowers_the_loss(sources: dict[str, BackboneConfig], kind: str) -> None:
    recipe = replace(RECIPES[kind], backbone=sources[kind])
    train = PREPARED.parts.train
    labels = torch.from_numpy(train.label)

    def loss(recommender: Recommender) -> float:
        train_margins = margins(recommender, recommender.prompt.samples(train, tiny.DATA))
        return functional.binary_cross_entropy_with_logits(train_margins, labels).item()

    constant = functional.binary_cross_entropy(labels.mean().expand_as(labels), labels).item()
    trained = fit(VOCABULARY, PREPARED, recipe, lambda _: None)

    assert loss(trained) < constant - 0.03
    assert loss(trained) < loss(build(VOCABULARY, sources[kind]))


def test_dropout_depends_on_the_seed_alone(sources: dict[str, BackboneConfig]) -> None:
    recipe = replace(RECIPES["t5"], backbone=sources["t5"])
    torch.rand(3)  # Earlier draws from the global generator must not matter.
    before = torch.get_rng_state()
    first = fit(VOCABULARY, PREPARED, recipe, lambda _: None).model.state_dict()

    assert torch.equal(before, torch.get_rng_state())
    torch.rand(5)
    again = fit(VOCABULARY, PREPARED, recipe, lambda _: None).model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
