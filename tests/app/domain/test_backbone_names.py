"""Backbone names are checked without `models`, and `models` accepts the same names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.domain.backbone_names import NAMED, check_backbone, describe_backbone
from app.domain.errors import InvalidInputError
from app.settings import Settings
from models.backbones.compact import UnknownBackboneError
from models.backbones.packaged import PACKAGED
from models.recommender import factory as assembly

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a config.json, below the current directory and the home directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "some" / "model").mkdir(parents=True)
    (tmp_path / "some" / "model" / "config.json").write_text("{}")
    return tmp_path / "some" / "model"


def test_app_and_models_have_the_same_names() -> None:
    assert tuple(NAMED) == assembly.NAMED
    assert set(PACKAGED) <= set(NAMED)
    for name in NAMED:
        assert check_backbone(f" {name} ") == name
        assembly.parse_backbone(name)


@pytest.mark.parametrize("name", ["", "hf", "hf:", "Compact", "llama", "hf:compact", "hf:smollm2"])
def test_unknown_name_is_refused_with_the_known_names(name: str) -> None:
    known = "Known: compact, compact-t5, smollm2, hf:<model id or directory>"
    with pytest.raises(InvalidInputError, match=known):
        check_backbone(name)
    with pytest.raises(UnknownBackboneError, match=known):
        assembly.parse_backbone(name)


@pytest.mark.parametrize(
    "text", ["some/model", "./some/model", "some/../some/model", "~/some/model"]
)
def test_directory_is_stored_as_absolute_path(model: Path, text: str) -> None:
    recorded = check_backbone(f"hf:{text}")

    assert recorded == f"hf:{model}"
    assert check_backbone(recorded) == recorded
    assert assembly.parse_backbone(recorded) == assembly.parse_backbone(f"hf:{text}")


@pytest.mark.parametrize(
    "text",
    ["./nowhere", "/nowhere", "~no-such-user/model", ".", "some", "a" * 300, "/" + "a" * 300],
)
def test_directory_without_model_is_refused(model: Path, text: str) -> None:
    assert model.is_dir()
    with pytest.raises(InvalidInputError, match="holds no language model"):
        check_backbone(f"hf:{text}")


@pytest.mark.parametrize("text", ["google-t5/t5-base", "gpt2", "org/Some_Model-1.5B"])
def test_hub_id_stays_unchanged(text: str) -> None:
    assert check_backbone(f"hf:{text}") == f"hf:{text}"


@pytest.mark.parametrize(
    "text", ["a/b/c", "two words", "org/", "-x", "https://example.org/m", "ä/b"]
)
def test_text_that_is_neither_directory_nor_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="neither a directory nor the id of a model"):
        check_backbone(f"hf:{text}")


def test_description_names_the_model_or_its_format() -> None:
    assert "SmolLM2-135M-Instruct" in describe_backbone("smollm2")
    assert "Hugging Face" in describe_backbone("hf:gpt2")


def test_settings_normalize_the_backbone_name(model: Path) -> None:
    assert Settings(backbone="hf:some/model").backbone == f"hf:{model}"
    with pytest.raises(ValueError, match="There is no backbone 'llama'"):
        Settings(backbone="llama")
