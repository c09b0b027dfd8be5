"""Checkpoints load as they were saved, and every kind of damage is detected."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.checkpoints.checkpoint import load, read_weights, save
from models.checkpoints.manifest import (
    FORMAT,
    MANIFEST,
    WEIGHTS,
    CheckpointError,
    read_manifest,
    sha256_file,
)
from models.recommender.trainable import free_weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.data.forget_split import ForgetSplit
    from models.data.interactions import Interactions
    from models.recommender.base import Recommender


@pytest.fixture(scope="module")
def saved(trained: Recommender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("release") / "one"
    save(trained, directory, method="train", extra={"note": "planted"})
    return directory


@pytest.fixture
def release(saved: Path, tmp_path: Path) -> Path:
    """A release that the test may damage."""
    return shutil.copytree(saved, tmp_path / "release")


def rewrite_manifest(directory: Path, **changes: Any) -> None:
    """Change the manifest and recompute all digests, as an attacker could."""
    content = json.loads((directory / MANIFEST).read_text())
    del content["digest"]
    content |= {"weights_sha256": sha256_file(directory / WEIGHTS), **changes}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    content["digest"] = hashlib.sha256(canonical).hexdigest()
    (directory / MANIFEST).write_text(json.dumps(content))


def edit_weights(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = {name: tensor.clone() for name, tensor in load_file(directory / WEIGHTS).items()}
    change(state)
    (directory / WEIGHTS).unlink()
    save_file(state, directory / WEIGHTS)


def swap(state: dict[str, torch.Tensor], first: str, second: str) -> None:
    assert state[first].shape == state[second].shape
    state[first], state[second] = state[second], state[first]


def test_a_loaded_release_has_the_logits_of_the_saved_one(
    saved: Path, trained: Recommender, planted: Interactions, prepared: ForgetSplit
) -> None:
    loaded = load(saved)

    prompts = trained.prompt.samples(prepared.parts.test, planted)
    assert torch.equal(loaded.logits(prompts), trained.logits(prompts))
    assert loaded.vocabulary == trained.vocabulary
    assert loaded.config == trained.config


def test_every_tensor_is_loaded_exactly(saved: Path, trained: Recommender) -> None:
    expected = trained.model.state_dict()

    loaded_state = load(saved).model.state_dict()

    assert loaded_state.keys() == expected.keys()
    assert all(torch.equal(loaded_state[name], tensor) for name, tensor in expected.items())


def test_a_loaded_release_is_not_trainable(saved: Path) -> None:
    model = load(saved).model

    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def is_mapped(directory: Path) -> bool:
    return str(directory / WEIGHTS) in Path("/proc/self/maps").read_text()


def private_kilobytes(directory: Path) -> int:
    """Return the size of the pages of the mapped file that this process has copied."""
    smaps = Path("/proc/self/smaps").read_text()
    mapping = smaps[smaps.index(str(directory / WEIGHTS)) :]
    (copied,) = re.findall(r"^Anonymous: +(\d+) kB", mapping, re.MULTILINE)[:1]
    return int(copied)


def test_a_mapped_release_has_the_same_logits_until_it_is_freed(
    release: Path, trained: Recommender, planted: Interactions, prepared: ForgetSplit
) -> None:
    prompts = trained.prompt.samples(prepared.parts.test, planted)
    plain = load(release)
    assert not is_mapped(release)
    mapped = load(release, mapped=True)
    assert is_mapped(release)
    # The head stays tied to the embedding, and nothing is trainable.
    weights = [mapped.model.get_input_embeddings().weight, mapped.model.lm_head.weight]
    assert weights[0] is weights[1]
    assert not any(parameter.requires_grad for parameter in mapped.model.parameters())
    del weights
    (release / WEIGHTS).unlink()
    assert torch.equal(mapped.logits(prompts), plain.logits(prompts))
    assert private_kilobytes(release) == 0  # No copies: all processes share the pages.
    free_weights(mapped)
    assert not is_mapped(release)


def test_a_write_to_a_mapped_release_does_not_change_the_file(release: Path) -> None:
    before = sha256_file(release / WEIGHTS)
    mapped = load(release, mapped=True)
    with torch.no_grad():
        mapped.model.get_input_embeddings().weight.zero_()
    assert private_kilobytes(release) > 0
    assert sha256_file(release / WEIGHTS) == before
    assert load(release).model.get_input_embeddings().weight.any()


def test_the_manifest_records_the_arguments_of_save(trained: Recommender, tmp_path: Path) -> None:
    written = save(trained, tmp_path, method="exact", parent="ab" * 32, extra={"rows": [1, 2]})

    manifest = read_manifest(tmp_path)

    assert manifest == written
    assert (manifest.method, manifest.parent, manifest.extra) == (
        "exact",
        "ab" * 32,
        {"rows": [1, 2]},
    )
    assert manifest.weights_digest == hashlib.sha256((tmp_path / WEIGHTS).read_bytes()).hexdigest()
    assert manifest.content["format"] == FORMAT


def test_the_digest_covers_weights_and_manifest(
    saved: Path, trained: Recommender, tmp_path: Path
) -> None:
    original = read_manifest(saved).digest

    same = save(trained, tmp_path / "same", method="train", extra={"note": "planted"})
    other_note = save(trained, tmp_path / "note", method="train", extra={"note": "else"})
    changed = load(saved)
    with torch.no_grad():
        next(iter(changed.model.parameters()))[100] += 1e-4
    other_weights = save(changed, tmp_path / "weights", method="train", extra={"note": "planted"})

    assert same.digest == original
    assert len({original, other_note.digest, other_weights.digest}) == 3


def test_a_flipped_bit_in_the_weights_is_refused(release: Path) -> None:
    content = bytearray((release / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (release / WEIGHTS).write_bytes(content)

    with pytest.raises(CheckpointError, match="damaged"):
        load(release)
    with pytest.raises(CheckpointError, match="damaged"):
        read_weights(release)


def test_truncated_weights_are_refused(release: Path) -> None:
    content = (release / WEIGHTS).read_bytes()
    (release / WEIGHTS).write_bytes(content[: len(content) // 2])

    with pytest.raises(CheckpointError, match="damaged"):
        load(release)


def test_missing_weights_are_refused(release: Path) -> None:
    (release / WEIGHTS).unlink()

    with pytest.raises(CheckpointError, match="missing"):
        load(release)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"null", b"{}", b"\xff\xfe\x00"])
def test_an_unreadable_manifest_is_refused(release: Path, content: bytes) -> None:
    (release / MANIFEST).write_bytes(content)

    with pytest.raises(CheckpointError, match="cannot be read"):
        load(release)


@pytest.mark.parametrize("field", ["method", "parent", "extra", "golden", "backbone", "format"])
def test_a_changed_manifest_is_refused(release: Path, field: str) -> None:
    content = json.loads((release / MANIFEST).read_text())
    content[field] = "else"
    (release / MANIFEST).write_text(json.dumps(content))

    with pytest.raises(CheckpointError, match="does not match its digest"):
        read_manifest(release)


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load(tmp_path / "nowhere")


def test_another_format_is_refused(release: Path) -> None:
    rewrite_manifest(release, format=FORMAT + 1)

    with pytest.raises(CheckpointError, match=f"has format {FORMAT + 1}"):
        load(release)


def test_another_backbone_is_refused(release: Path) -> None:
    rewrite_manifest(release, backbone={"kind": "gpt"})

    with pytest.raises(CheckpointError, match="does not fit"):
        load(release)


def test_weights_of_another_vocabulary_are_refused(release: Path) -> None:
    vocabulary = dict(read_manifest(release).content["vocabulary"])
    rewrite_manifest(release, vocabulary={**vocabulary, "slots": vocabulary["slots"] + 1})

    with pytest.raises(CheckpointError, match="do not fit"):
        load(release)


@pytest.mark.parametrize("name", ["model.norm.weight", "model.embed_tokens.weight"])
def test_a_missing_tensor_is_refused(release: Path, name: str) -> None:
    edit_weights(release, lambda state: state.__delitem__(name))
    rewrite_manifest(release)

    with pytest.raises(CheckpointError, match="missing or superfluous"):
        load(release)


def test_a_superfluous_tensor_is_refused(release: Path) -> None:
    edit_weights(release, lambda state: state.update(stowaway=torch.zeros(3)))
    rewrite_manifest(release)

    with pytest.raises(CheckpointError, match="missing or superfluous"):
        load(release)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("model.layers.0.self_attn.v_proj.weight", "model.layers.0.self_attn.o_proj.weight"),
        ("model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"),
        ("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.gate_proj.weight"),
    ],
)
def test_golden_prompts_detect_swapped_tensors(release: Path, first: str, second: str) -> None:
    """Digests and shapes are consistent; only the logits differ."""
    edit_weights(release, lambda state: swap(state, first, second))
    rewrite_manifest(release)
    read_weights(release)

    with pytest.raises(CheckpointError, match="golden prompts"):
        load(release)


def test_golden_prompts_detect_weights_that_are_not_numbers(release: Path) -> None:
    edit_weights(release, lambda state: state["model.norm.weight"].fill_(float("nan")))
    rewrite_manifest(release)

    with pytest.raises(CheckpointError, match="golden prompts"):
        load(release)


def test_a_rewritten_but_unchanged_release_loads(release: Path) -> None:
    """Rewriting the manifest does not break a release by itself."""
    digest = read_manifest(release).digest
    edit_weights(release, lambda _: None)
    rewrite_manifest(release)

    load(release)

    assert read_manifest(release).digest == digest
