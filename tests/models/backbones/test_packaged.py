"""Models that come in packages: converted once, whole or not at all, and known by their weights.

The machinery is tried on a tiny package; the real one is converted once, on this file's process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.backbones import packaged
from models.backbones.errors import BackboneUnavailableError
from models.prompts.vocabulary import Vocabulary
from models.recommender.factory import build, parse_backbone
from tests.support import model_packages as packages
from tests.support import tiny_models as tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[3]
#: Less than the tiny model's weights, more than its configuration.
TOO_FEW_BYTES = "60000"


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Path]:
    """Where this test's conversions are kept."""
    before = packaged.cache_directory()
    packaged.set_cache_directory(tmp_path / "backbones")
    yield tmp_path / "backbones"
    packaged.set_cache_directory(before)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the tiny package in it, to be found by whoever looks for packages there."""
    directory = tmp_path_factory.mktemp("packages")
    packages.write(directory)
    return directory


@pytest.fixture
def installed(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(package)
    monkeypatch.setitem(packaged.PACKAGED, packages.NAME, packages.PACKAGE)


@pytest.fixture
def convert(package: Path, kept: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start a process that converts, with a limit to what it can write if one is given."""

    def start(*limit: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", packages.__name__, str(package), str(kept), *limit],
            cwd=ROOT,
            # Compiled modules are written as well, and would meet the limit first.
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    return start


def models_in(directory: Path) -> list[str]:
    """Return what could be taken for a model."""
    return sorted(path.parent.name for path in directory.glob("*/model.safetensors"))


def answers(model: torch.nn.Module, prompts: list[list[int]]) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([model(torch.tensor([prompt])).logits[0, -1] for prompt in prompts])


def assert_same_model(directory: Path, source: Path, texts: list[str]) -> None:
    """The conversion's answers are those of the file that it was made from, to the last bit."""
    tokenizers = [
        AutoTokenizer.from_pretrained(directory),
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name),
    ]
    models = [
        AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32),
        AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32
        ),
    ]
    prompts, wanted = ([made(text)["input_ids"] for text in texts] for made in tokenizers)
    assert prompts == wanted
    found, expected = (answers(model.eval(), prompts) for model in models)
    assert expected.std(0).min() > 0  # They answer differently to different prompts.
    assert torch.equal(found, expected)


@pytest.mark.usefixtures("installed")
def test_a_conversion_answers_as_its_file_does(kept: Path, package: Path) -> None:
    directory = packaged.converted(packages.NAME)

    assert directory.parent == kept
    source = package / packages.PACKAGE.module / packages.PACKAGE.file
    assert_same_model(directory, source, ["Item 1 (4 stars)", "Yes. No.", "tell me"])
    assert packages.PACKAGE.module not in sys.modules


@pytest.mark.usefixtures("installed")
def test_it_is_converted_once(kept: Path) -> None:
    directory = packaged.converted(packages.NAME)
    before = (directory / "model.safetensors").stat()

    assert packaged.converted(packages.NAME) == directory
    assert (directory / "model.safetensors").stat() == before
    assert models_in(kept) == [directory.name]


#: What Python says of a module that is not installed, it says of torch.
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from pathlib import Path
from models.backbones import packaged
packages, directory, name, module, file = sys.argv[1:]
sys.path.append(packages)
packaged.PACKAGED[name] = packaged.Package(module=module, file=file, install="", size=1)
packaged.set_cache_directory(Path(directory))
print(packaged.converted(name))
"""


@pytest.mark.usefixtures("installed")
def test_a_process_without_torch_knows_a_conversion_again(kept: Path, package: Path) -> None:
    """A gateway before an engine reads the tokenizer of what a worker has converted."""
    directory = packaged.converted(packages.NAME)
    result = subprocess.run(
        [
            *(sys.executable, "-c", WITHOUT_TORCH, str(package), str(kept)),
            *(packages.NAME, packages.PACKAGE.module, packages.PACKAGE.file),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.splitlines()[-1] == str(directory)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", packaged.CONVERSION])
@pytest.mark.parametrize("harm", ["changed", "cut", "gone"])
def test_what_is_damaged_is_converted_again(kept: Path, file: str, harm: str) -> None:
    directory = packaged.converted(packages.NAME)
    path = directory / file
    content = path.read_bytes()
    path.unlink()
    if harm != "gone":
        half = len(content) // 2
        path.write_bytes(content[:half] + (b"\x7f" + content[half + 1 :]) * (harm == "changed"))

    assert packaged.converted(packages.NAME) == directory
    assert path.read_bytes() == content
    assert models_in(kept) == [directory.name]


@pytest.mark.usefixtures("installed")
def test_another_file_is_another_model(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = packaged.converted(packages.NAME)
    packages.write(tmp_path, seed=1)
    monkeypatch.syspath_prepend(tmp_path)

    second = packaged.converted(packages.NAME)

    assert models_in(kept) == sorted([first.name, second.name])


@pytest.mark.usefixtures("installed")
def test_a_process_killed_while_it_writes_leaves_no_model(
    kept: Path, convert: Callable[..., subprocess.Popen[str]]
) -> None:
    killed = convert(TOO_FEW_BYTES, "kill")
    killed.communicate()

    assert killed.returncode == -signal.SIGXFSZ
    assert models_in(kept) == []
    [left] = kept.glob("*.part")
    packaged.converted(packages.NAME)
    assert len(models_in(kept)) == 1
    assert not left.exists()


def test_a_full_disk_says_what_to_do(
    kept: Path, convert: Callable[..., subprocess.Popen[str]]
) -> None:
    said, _ = convert(TOO_FEW_BYTES, "fail").communicate()

    assert f"cannot be written to {kept}" in said
    assert "Make room for 1 MB there" in said
    assert [path.suffix for path in kept.iterdir()] == [".lock"]


@pytest.mark.usefixtures("installed")
def test_processes_that_come_at_once_convert_once(
    kept: Path, convert: Callable[..., subprocess.Popen[str]]
) -> None:
    both = [convert(), convert()]
    said = [process.communicate()[0].strip() for process in both]

    [name] = models_in(kept)
    assert said == [str(kept / name)] * 2
    before = (kept / name / "model.safetensors").stat()
    assert packaged.converted(packages.NAME) == kept / name
    assert (kept / name / "model.safetensors").stat() == before


def test_a_missing_package_says_how_to_get_it(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packaged.PACKAGED, packages.NAME, packages.PACKAGE)

    with pytest.raises(BackboneUnavailableError, match=r"make setup.*pip install tiny") as caught:
        packaged.converted(packages.NAME)

    assert "tiny_language_model" in str(caught.value)
    assert not kept.exists()


@pytest.mark.slow
def test_smollm2_answers_as_its_package_does(kept: Path) -> None:
    package = packaged.PACKAGED["smollm2"]
    found = find_spec(package.module)
    assert found is not None, "make setup installs it"
    [place] = found.submodule_search_locations or []

    recommender = build(Vocabulary.from_catalog(tiny.DATA), parse_backbone("smollm2"))

    [name] = models_in(kept)
    texts = ["The capital of France is", "Will the user like Alien? Answer yes or no."]
    assert_same_model(kept / name, Path(place) / package.file, texts)
    manifest = recommender.config.manifest()
    assert manifest["name"] == "smollm2"
    written = json.loads((kept / name / packaged.CONVERSION).read_text())
    assert manifest["source_sha256"] == written["weights"]
    assert "quantization_config" not in json.loads((kept / name / "config.json").read_text())
    assert str(kept) not in json.dumps(manifest)
