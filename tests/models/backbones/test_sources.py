"""Models are located in directories and the hub's cache, and changed weights are refused."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.backbones.sources import SourceChangedError, locate
from models.backbones.weight_files import weights_sha256
from models.checkpoints.checkpoint import load, save
from models.checkpoints.manifest import CheckpointError
from models.prompts.vocabulary import Vocabulary
from models.recommender.factory import backbone_from_manifest, build, parse_backbone
from models.recommender.pretrained import HuggingFaceConfig
from tests.support import tiny_models as tiny

if TYPE_CHECKING:
    from pathlib import Path

VOCABULARY = Vocabulary.from_catalog(tiny.DATA)
COMMIT = "0" * 40


@pytest.fixture
def source(tmp_path: Path) -> Path:
    tiny.save("llama", tmp_path / "source")
    return tmp_path / "source"


def test_the_config_of_a_built_recommender_has_the_weights_digest(source: Path) -> None:
    named = parse_backbone(f"hf:{source}")

    config = build(VOCABULARY, named).config

    assert isinstance(config, HuggingFaceConfig)
    assert config == replace(named, source_sha256=weights_sha256(source))
    assert backbone_from_manifest(config.manifest()) == config


def test_changed_weights_are_refused(source: Path, tmp_path: Path) -> None:
    """A change of one number in one tensor is detected at load time."""
    recommender = build(VOCABULARY, parse_backbone(f"hf:{source}"))
    save(recommender, tmp_path / "release", method="train")
    load(tmp_path / "release")
    weights = source / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"][0] += 1e-6
    save_file(tensors, weights, {"format": "pt"})

    with pytest.raises(SourceChangedError, match=r"weights have changed.*train again"):
        build(VOCABULARY, recommender.config)
    with pytest.raises(CheckpointError, match="weights have changed"):
        load(tmp_path / "release")
    assert build(VOCABULARY, parse_backbone(f"hf:{source}")).config != recommender.config


def test_the_digest_is_of_the_tensors_alone(source: Path) -> None:
    """The same weights in two files, or with other metadata, have the same digest."""
    before = weights_sha256(source)
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    names = sorted(tensors)
    for number, part in enumerate((names[:5], names[5:])):
        held = {name: tensors[name] for name in part}
        save_file(held, source / f"model-{number}.safetensors", {"made_by": "another version"})

    assert weights_sha256(source) == before


@pytest.mark.parametrize("change", ["name", "type", "shape", "value"])
def test_a_changed_name_type_shape_or_value_changes_the_digest(tmp_path: Path, change: str) -> None:
    tensor = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
    others = {
        "name": {"b": tensor},
        "type": {"a": tensor.view(torch.float16)},
        "shape": {"a": tensor.reshape(3, 2)},
        "value": {"a": tensor.neg()},
    }
    digests = []
    for index, held in enumerate(({"a": tensor}, others[change])):
        (tmp_path / str(index)).mkdir()
        save_file(held, tmp_path / str(index) / "model.safetensors")
        digests.append(weights_sha256(tmp_path / str(index)))

    assert len(set(digests)) == 2


def test_a_cached_model_of_the_hub_needs_no_network(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache" / "models--example--tiny"
    shutil.copytree(source, cache / "snapshots" / COMMIT)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache.parent))

    recommender = build(VOCABULARY, parse_backbone("hf:example/tiny"))

    assert locate("example/tiny").directory == cache / "snapshots" / COMMIT
    assert recommender.config.manifest()["name"] == "example/tiny"
    assert recommender.config.manifest()["source_sha256"] == weights_sha256(source)


def test_only_the_cached_commit_is_requested_from_the_hub(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authors may have a new version, and a gateway may have cached only the tokenizer."""
    requested_paths: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested_paths.append(self.path)
            self.send_error(501)  # Unlike 503, 501 is not retried.

        def log_message(self, *_: object) -> None:
            pass

    cache = tmp_path / "cache" / "models--example--tiny"
    shutil.copytree(source, cache / "snapshots" / COMMIT)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(COMMIT)
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{hub.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache.parent))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        located = locate("example/tiny")
        hub.shutdown()

    assert located.directory == cache / "snapshots" / COMMIT
    model_paths = [path for path in requested_paths if "example/tiny" in path]
    assert model_paths
    assert all(COMMIT in path for path in model_paths)
