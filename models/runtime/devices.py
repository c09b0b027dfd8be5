"""Choose the device, the precision and the number of training processes.

A process calls `use` once, before it builds models; model and training code reads `machine()`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cache
from typing import Final

import torch
from transformers import LlamaConfig, LlamaModel

AUTO: Final = "auto"
DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: How many times faster a step must be to choose bfloat16, which has only 8 bits of precision.
_MINIMUM_SPEEDUP: Final = 1.2
#: The block that is timed: as wide as a language model of 135 M parameters.
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
    """The configured device does not exist on this machine or cannot be used."""

    def __init__(self, name: str, reason: str) -> None:
        """Build the message from the device's name and the reason, a phrase that follows it."""
        super().__init__(f"LETHE_DEVICE: {name!r} {reason}. Use auto, cpu, cuda, cuda:1 or mps.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The device and the number of processes that build and train models.

    With `checkpointing`, models recompute their activations in every training step; otherwise only
    after memory has run out. Several processes share the CPU, or use one GPU each. Raises
    UnknownDeviceError if there are fewer GPUs than processes.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    processes: int = 1
    checkpointing: bool = False

    def __post_init__(self) -> None:
        """Check that every process has its own GPU."""
        if self.processes == 1 or self.device.type == "cpu":
            return
        if str(self.device) != "cuda":
            raise UnknownDeviceError(str(self.device), "is one device and serves one process")
        if self.processes > torch.cuda.device_count():
            reason = f"has {torch.cuda.device_count()} devices for {self.processes} processes"
            raise UnknownDeviceError("cuda", reason)


class _Process:
    machine: Machine = Machine()


def use(machine: Machine) -> None:
    """Set the machine on which this process builds and trains models from now on."""
    _Process.machine = machine


def machine() -> Machine:
    """Return the machine of this process; by default one process on the CPU."""
    return _Process.machine


def choose_device(setting: str) -> torch.device:
    """Return the device for a value of LETHE_DEVICE; `auto` prefers CUDA, then MPS, then the CPU.

    Raises UnknownDeviceError.
    """
    counts = _device_counts()
    if setting == AUTO:
        return torch.device(next(iter(counts)))
    try:
        device = torch.device(setting)
    except RuntimeError as error:
        raise UnknownDeviceError(setting, "is not the name of a device") from error
    if (device.index or 0) >= counts.get(device.type, 0):
        raise UnknownDeviceError(setting, "is not on this machine")
    return device


def choose_dtype(setting: str, device: torch.device) -> str:
    """Return the name of the dtype of language models for a value of LETHE_DTYPE.

    `auto` chooses bfloat16 if a measured step is at least 1.2 times faster with it. The measurement
    runs once per process and device. Raises ValueError for unknown values.
    """
    if setting != AUTO:
        if setting not in DTYPES:
            allowed = ", ".join([AUTO, *DTYPES])
            raise ValueError(f"LETHE_DTYPE: {setting!r} is not allowed. Use one of: {allowed}.")
        return setting
    seconds = _seconds_by_dtype(device)
    is_faster = seconds["float32"] >= _MINIMUM_SPEEDUP * seconds["bfloat16"]
    return "bfloat16" if is_faster else "float32"


def _device_counts() -> dict[str, int]:
    """Return the number of devices by type, without types that are absent, fastest type first."""
    counts = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    return {kind: count for kind, count in counts.items() if count}


@cache
def _seconds_by_dtype(device: torch.device) -> dict[str, float]:
    return {name: _seconds_per_step(device, dtype) for name, dtype in DTYPES.items()}


def _seconds_per_step(device: torch.device, dtype: torch.dtype) -> float:
    """Return the seconds of the fastest forward and backward pass through a frozen block."""
    with torch.random.fork_rng(devices=[]):
        block = LlamaModel(_BLOCK).to(device, dtype).requires_grad_(requires_grad=False)
        inputs = torch.randn(_PROMPTS, _TOKENS, _BLOCK.hidden_size).to(device, dtype)
    inputs.requires_grad_()
    durations = []
    for _ in range(_STEPS + 1):  # The first step is a warm-up.
        started = time.perf_counter()
        output = block(inputs_embeds=inputs, use_cache=False).last_hidden_state.float().sum()
        (gradient,) = torch.autograd.grad(output, inputs)
        gradient.float().sum().item()  # Waits for the GPU.
        durations.append(time.perf_counter() - started)
    return min(durations[1:])
