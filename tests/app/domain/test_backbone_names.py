"""The names of backbones are checked without the machine learning, which means the same by them."""

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
    """A directory that looks like a model, beside which the command is given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "some" / "model").mkdir(parents=True)
    (tmp_path / "some" / "model" / "config.json").write_text("{}")
    return tmp_path / "some" / "model"


def test_both_sides_have_the_same_list() -> None:
    assert tuple(NAMED) == assembly.NAMED
    assert set(PACKAGED) <= set(NAMED)
    for name in NAMED:
        assert check_backbone(f" {name} ") == name
        assembly.parse_backbone(name)


@pytest.mark.parametrize("name", ["", "hf", "hf:", "Compact", "llama", "hf:compact", "hf:smollm2"])
def test_both_sides_refuse_the_same_and_say_what_there_is(name: str) -> None:
    known = "Known: compact, compact-t5, smollm2, hf:<model id or directory>"
    with pytest.raises(InvalidInputError, match=known):
        check_backbone(name)
    with pytest.raises(UnknownBackboneError, match=known):
        assembly.parse_backbone(name)


@pytest.mark.parametrize(
    "given", ["some/model", "./some/model", "some/../some/model", "~/some/model"]
)
def test_a_directory_is_recorded_by_its_absolute_path(model: Path, given: str) -> None:
    recorded = check_backbone(f"hf:{given}")

    assert recorded == f"hf:{model}"
    assert check_backbone(recorded) == recorded
    assert assembly.parse_backbone(recorded) == assembly.parse_backbone(f"hf:{given}")


@pytest.mark.parametrize(
    "given",
    ["./nowhere", "/nowhere", "~nobody-at-all/model", ".", "some", "a" * 300, "/" + "a" * 300],
)
def test_a_directory_without_a_model_is_refused(model: Path, given: str) -> None:
    assert model.is_dir()
    with pytest.raises(InvalidInputError, match="holds no language model"):
        check_backbone(f"hf:{given}")


@pytest.mark.parametrize("given", ["google-t5/t5-base", "gpt2", "org/Some_Model-1.5B"])
def test_an_id_of_the_hub_stays_as_it_is(given: str) -> None:
    assert check_backbone(f"hf:{given}") == f"hf:{given}"


@pytest.mark.parametrize(
    "given", ["a/b/c", "two words", "org/", "-x", "https://example.org/m", "ä/b"]
)
def test_what_is_neither_is_refused(given: str) -> None:
    with pytest.raises(InvalidInputError, match="neither a directory nor the id of a model"):
        check_backbone(f"hf:{given}")


def test_people_are_told_what_each_is() -> None:
    assert "SmolLM2-135M-Instruct" in describe_backbone("smollm2")
    assert "Hugging Face" in describe_backbone("hf:gpt2")


def test_settings_hold_the_name_as_it_is_recorded(model: Path) -> None:
    assert Settings(backbone="hf:some/model").backbone == f"hf:{model}"
    with pytest.raises(ValueError, match="There is no backbone 'llama'"):
        Settings(backbone="llama")
