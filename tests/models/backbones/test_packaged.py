"""Packaged models are converted once, atomically, and are identified by their weights.

Most tests use a package with a tiny model; one slow test converts SmolLM2.
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

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
#: A file size limit between that of the tiny model's configuration and that of its weights.
FILE_SIZE_LIMIT = "60000"


@pytest.fixture
def cache_path(tmp_path: Path) -> Iterator[Path]:
    """The cache directory of this test's conversions."""
    before = packaged.cache_directory()
    packaged.set_cache_directory(tmp_path / "backbones")
    yield tmp_path / "backbones"
    packaged.set_cache_directory(before)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the tiny package, for the module search path."""
    directory = tmp_path_factory.mktemp("packages")
    packages.write(directory)
    return directory


@pytest.fixture
def installed(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(package)
    monkeypatch.setitem(packaged.PACKAGED, packages.NAME, packages.PACKAGE)


@pytest.fixture
def convert(package: Path, cache_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts a converting process, optionally with a file size limit."""

    def start(*limit: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", packages.__name__, str(package), str(cache_path), *limit],
            cwd=ROOT,
            # Without this, writing compiled modules would hit the limit first.
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    return start


def models_in(directory: Path) -> list[str]:
    """Return the directories that contain model weights."""
    return sorted(path.parent.name for path in directory.glob("*/model.safetensors"))


def answers(model: torch.nn.Module, prompts: list[list[int]]) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([model(torch.tensor([prompt])).logits[0, -1] for prompt in prompts])


def assert_same_model(directory: Path, source: Path, texts: list[str]) -> None:
    """Check that conversion and source have the same tokens and bit-identical logits."""
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
    prompts, source_prompts = (
        [tokenizer(text)["input_ids"] for text in texts] for tokenizer in tokenizers
    )
    assert prompts == source_prompts
    logits, expected = (answers(model.eval(), prompts) for model in models)
    assert expected.std(0).min() > 0  # The prompts have different logits.
    assert torch.equal(logits, expected)


@pytest.mark.usefixtures("installed")
def test_a_conversion_has_the_logits_of_its_source(cache_path: Path, package: Path) -> None:
    directory = packaged.convert_package(packages.NAME)

    assert directory.parent == cache_path
    source = package / packages.PACKAGE.module / packages.PACKAGE.file
    assert_same_model(directory, source, ["Item 1 (4 stars)", "Yes. No.", "tell me"])
    assert packages.PACKAGE.module not in sys.modules


@pytest.mark.usefixtures("installed")
def test_a_second_call_converts_nothing(cache_path: Path) -> None:
    directory = packaged.convert_package(packages.NAME)
    before = (directory / "model.safetensors").stat()

    assert packaged.convert_package(packages.NAME) == directory
    assert (directory / "model.safetensors").stat() == before
    assert models_in(cache_path) == [directory.name]


#: A script in which importing torch fails as if torch were not installed.
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from pathlib import Path
from models.backbones import packaged
packages, directory, name, module, file = sys.argv[1:]
sys.path.append(packages)
packaged.PACKAGED[name] = packaged.Package(module=module, file=file, install="", size=1)
packaged.set_cache_directory(Path(directory))
print(packaged.convert_package(name))
"""


@pytest.mark.usefixtures("installed")
def test_a_process_without_torch_finds_a_finished_conversion(
    cache_path: Path, package: Path
) -> None:
    """A gateway in front of an engine reads the tokenizer of a worker's conversion."""
    directory = packaged.convert_package(packages.NAME)
    result = subprocess.run(
        [
            *(sys.executable, "-c", WITHOUT_TORCH, str(package), str(cache_path)),
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
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_conversion_is_converted_again(cache_path: Path, file: str, damage: str) -> None:
    directory = packaged.convert_package(packages.NAME)
    path = directory / file
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        half = len(content) // 2
        path.write_bytes(content[:half] + (b"\x7f" + content[half + 1 :]) * (damage == "changed"))

    assert packaged.convert_package(packages.NAME) == directory
    assert path.read_bytes() == content
    assert models_in(cache_path) == [directory.name]


@pytest.mark.usefixtures("installed")
def test_a_changed_source_file_gets_its_own_conversion(
    cache_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = packaged.convert_package(packages.NAME)
    packages.write(tmp_path, seed=1)
    monkeypatch.syspath_prepend(tmp_path)

    second = packaged.convert_package(packages.NAME)

    assert models_in(cache_path) == sorted([first.name, second.name])


@pytest.mark.usefixtures("installed")
def test_a_process_killed_while_it_writes_leaves_no_model(
    cache_path: Path, convert: Callable[..., subprocess.Popen[str]]
) -> None:
    killed = convert(FILE_SIZE_LIMIT, "kill")
    killed.communicate()

    assert killed.returncode == -signal.SIGXFSZ
    assert models_in(cache_path) == []
    [partial] = cache_path.glob("*.part")
    packaged.convert_package(packages.NAME)
    assert len(models_in(cache_path)) == 1
    assert not partial.exists()


def test_a_full_disk_raises_with_the_required_space(
    cache_path: Path, convert: Callable[..., subprocess.Popen[str]]
) -> None:
    output, _ = convert(FILE_SIZE_LIMIT, "fail").communicate()

    assert f"cannot be written to {cache_path}" in output
    assert "Free 1 MB in this directory" in output
    assert [path.suffix for path in cache_path.iterdir()] == [".lock"]


@pytest.mark.usefixtures("installed")
def test_concurrent_processes_convert_once(
    cache_path: Path, convert: Callable[..., subprocess.Popen[str]]
) -> None:
    both = [convert(), convert()]
    outputs = [process.communicate()[0].strip() for process in both]

    [name] = models_in(cache_path)
    assert outputs == [str(cache_path / name)] * 2
    before = (cache_path / name / "model.safetensors").stat()
    assert packaged.convert_package(packages.NAME) == cache_path / name
    assert (cache_path / name / "model.safetensors").stat() == before


def test_a_missing_package_raises_with_the_install_command(
    cache_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(packaged.PACKAGED, packages.NAME, packages.PACKAGE)

    with pytest.raises(BackboneUnavailableError, match=r"make setup.*pip install tiny") as caught:
        packaged.convert_package(packages.NAME)

    assert "tiny_language_model" in str(caught.value)
    assert not cache_path.exists()


def test_smollm2_has_the_logits_of_its_package() -> None:
    """The conversion takes a minute, so that this test uses the cache of the machine."""
    package = packaged.PACKAGED["smollm2"]
    spec = find_spec(package.module)
    assert spec is not None, "make setup installs it"
    [place] = spec.submodule_search_locations or []

    recommender = build(Vocabulary.from_catalog(tiny.DATA), parse_backbone("smollm2"))

    model = packaged.convert_package("smollm2")
    texts = ["The capital of France is", "Will the user like Alien? Answer yes or no."]
    assert_same_model(model, Path(place) / package.file, texts)
    manifest = recommender.config.manifest()
    assert manifest["name"] == "smollm2"
    written = json.loads((model / packaged.CONVERSION).read_text())
    assert manifest["source_sha256"] == written["weights"]
    assert "quantization_config" not in json.loads((model / "config.json").read_text())
    assert str(model.parent) not in json.dumps(manifest)
