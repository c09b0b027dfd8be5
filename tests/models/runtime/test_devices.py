"""Tests of the choice of device and precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from models.prompts.vocabulary import Vocabulary
from models.recommender.factory import build, parse_backbone
from models.runtime import devices
from models.runtime.devices import Machine, UnknownDeviceError, choose_device, choose_dtype, use
from tests.support import tiny_models as tiny

if TYPE_CHECKING:
    from collections.abc import Iterator

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _restore_machine() -> Iterator[None]:
    yield
    use(Machine())


def set_devices(monkeypatch: pytest.MonkeyPatch, **counts: int) -> None:
    """Pretend that the machine has these GPUs, by type."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: counts.get("cuda", 0) > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: counts.get("cuda", 0))
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: counts.get("mps", 0) > 0)


def test_auto_chooses_fastest_device_type(monkeypatch: pytest.MonkeyPatch) -> None:
    set_devices(monkeypatch)
    assert choose_device("auto") == CPU
    set_devices(monkeypatch, mps=1)
    assert choose_device("auto") == torch.device("mps")
    set_devices(monkeypatch, mps=1, cuda=2)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("setting", ["cuda", "cuda:0", "mps", "cpu:3", "xpu", "gpu", ""])
def test_absent_device_is_rejected(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    set_devices(monkeypatch)
    with pytest.raises(UnknownDeviceError, match="Use auto, cpu, cuda"):
        choose_device(setting)


def test_more_processes_than_gpus_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    set_devices(monkeypatch, cuda=2)
    assert Machine(device=torch.device("cuda"), processes=2).processes == 2
    assert Machine(processes=4).device == CPU
    with pytest.raises(UnknownDeviceError, match="has 2 devices for 3 processes"):
        Machine(device=torch.device("cuda"), processes=3)
    for device in (torch.device("cuda", 1), torch.device("mps")):
        with pytest.raises(UnknownDeviceError, match="one device and serves one process"):
            Machine(device=device, processes=2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_named_precision_is_not_measured(dtype: str) -> None:
    devices._seconds_by_dtype.cache_clear()
    assert choose_dtype(dtype, CPU) == dtype
    assert not devices._seconds_by_dtype.cache_info().currsize


def test_auto_precision_is_measured_once() -> None:
    devices._seconds_by_dtype.cache_clear()
    dtype = choose_dtype("auto", CPU)

    measured = devices._seconds_by_dtype(CPU)
    assert set(measured) == set(devices.DTYPES)
    assert all(seconds > 0 for seconds in measured.values())
    assert choose_dtype("auto", CPU) == dtype
    assert devices._seconds_by_dtype.cache_info().misses == 1


@pytest.mark.parametrize(("speedup", "dtype"), [(1.5, "bfloat16"), (1.1, "float32")])
def test_bfloat16_needs_minimum_speedup(
    monkeypatch: pytest.MonkeyPatch, speedup: float, dtype: str
) -> None:
    seconds = {"float32": speedup, "bfloat16": 1.0}
    monkeypatch.setattr(devices, "_seconds_by_dtype", lambda _: seconds)
    assert choose_dtype("auto", CPU) == dtype


def test_unknown_precision_is_rejected() -> None:
    with pytest.raises(ValueError, match="LETHE_DTYPE: 'int8' is not allowed"):
        choose_dtype("int8", CPU)


def test_models_are_built_with_settings_of_machine() -> None:
    vocabulary, config = Vocabulary.from_catalog(tiny.DATA), parse_backbone("compact")
    assert not build(vocabulary, config).model.is_activation_checkpointing
    use(Machine(checkpointing=True))
    assert build(vocabulary, config).model.is_activation_checkpointing
    use(Machine(device=torch.device("meta")))
    assert build(vocabulary, config).device == torch.device("meta")
