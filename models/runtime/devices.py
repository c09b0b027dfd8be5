"""The machine that models are built on: its device, its precision, and how many processes train.

Set once per process, before models are built. Precision is measured; nothing here knows prompts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Final

import torch
from transformers import LlamaConfig, LlamaModel

if TYPE_CHECKING:
    from collections.abc import Mapping

AUTO: Final = "auto"
DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: bfloat16 has 8 bits of precision; only a clear gain is worth the rest.
CLEARLY: Final = 1.2
#: The measured block: as wide as a language model of 135 M parameters, on 8 prompts.
_BLOCK: Final = LlamaConfig(
    vocab_size=8,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=1,
    num_attention_heads=9,
    num_key_value_heads=3,
)
_PROMPTS, _TOKENS, _STEPS = 8, 64, 3


class UnknownDeviceError(ValueError):
    """A device cannot be used here."""

    def __init__(self, wanted: str, reason: str) -> None:
        """Say why, and what to give instead."""
        super().__init__(f"LETHE_DEVICE: {wanted!r} {reason}. Give auto, cpu, cuda, cuda:1 or mps.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where models are built and trained.

    With `checkpointing`, language models compute their activations again instead of keeping them
    from the start, and not only once memory ran out. More than one process trains on as many GPUs,
    or on the CPU. Raises UnknownDeviceError where there are not so many.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    processes: int = 1
    checkpointing: bool = False

    def __post_init__(self) -> None:
        """Check that every process has a device of its own."""
        if self.processes == 1 or self.device.type == "cpu":
            return
        if str(self.device) != "cuda":
            raise UnknownDeviceError(str(self.device), "is one device, for one process")
        if self.processes > torch.cuda.device_count():
            reason = f"has {torch.cuda.device_count()} devices for {self.processes} processes"
            raise UnknownDeviceError("cuda", reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """The `dtype` of a language model, and the seconds per step that it was chosen by."""

    dtype: str
    seconds: Mapping[str, float] = field(default_factory=dict)


class _Used:
    machine: Machine = Machine()


def use(machine: Machine) -> None:
    """Build and train all models of this process there from now on."""
    _Used.machine = machine


def machine() -> Machine:
    """Return where this process builds and trains; one process on the CPU by default."""
    return _Used.machine


def choose_device(wanted: str) -> torch.device:
    """Return the device that a setting names; `auto` is a GPU where there is one.

    Raises UnknownDeviceError.
    """
    there = _there()
    if wanted == AUTO:
        return torch.device(next(iter(there)))
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise UnknownDeviceError(wanted, "is no device") from error
    if (device.index or 0) >= there.get(device.type, 0):
        raise UnknownDeviceError(wanted, "is not on this machine")
    return device


def choose_dtype(wanted: str, device: torch.device) -> Precision:
    """Return the precision that a setting names; `auto` is the measured one, once per process.

    bfloat16 is chosen where a step is clearly faster with it. Raises ValueError.
    """
    if wanted != AUTO:
        if wanted not in DTYPES:
            raise ValueError(f"LETHE_DTYPE: {wanted!r} is none of {[AUTO, *DTYPES]}")
        return Precision(dtype=wanted)
    seconds = _measured(device)
    faster = seconds["float32"] >= CLEARLY * seconds["bfloat16"]
    return Precision(dtype="bfloat16" if faster else "float32", seconds=dict(seconds))


def _there() -> dict[str, int]:
    """Return the kinds of device of this machine, best first, and how many there are of each."""
    counts = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    return {kind: count for kind, count in counts.items() if count}


@cache
def _measured(device: torch.device) -> dict[str, float]:
    """Return the seconds of the fastest step of a frozen block, forward and backward, by dtype."""
    return {name: _seconds(device, dtype) for name, dtype in DTYPES.items()}


def _seconds(device: torch.device, dtype: torch.dtype) -> float:
    with torch.random.fork_rng(devices=[]):
        block = LlamaModel(_BLOCK).to(device, dtype).requires_grad_(requires_grad=False)
        given = torch.randn(_PROMPTS, _TOKENS, _BLOCK.hidden_size).to(device, dtype)
    given.requires_grad_()
    taken = []
    for _ in range(_STEPS + 1):  # The first one only warms up.
        started = time.perf_counter()
        found = block(inputs_embeds=given, use_cache=False).last_hidden_state.float().sum()
        (gradient,) = torch.autograd.grad(found, given)
        gradient.float().sum().item()  # Waits until a GPU has come so far.
        taken.append(time.perf_counter() - started)
    return min(taken[1:])
