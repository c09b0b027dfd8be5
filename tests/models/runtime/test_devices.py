"""Devices and precision: what is not there is refused, and what is measured decides."""

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
def _as_before() -> Iterator[None]:
    yield
    use(Machine())


def there(monkeypatch: pytest.MonkeyPatch, **counts: int) -> None:
    """Let the machine have these devices."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: counts.get("cuda", 0) > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: counts.get("cuda", 0))
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: counts.get("mps", 0) > 0)


def test_auto_is_the_best_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    there(monkeypatch)
    assert choose_device("auto") == CPU
    there(monkeypatch, mps=1)
    assert choose_device("auto") == torch.device("mps")
    there(monkeypatch, mps=1, cuda=2)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("wanted", ["cuda", "cuda:0", "mps", "cpu:3", "xpu", "gpu", ""])
def test_what_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    there(monkeypatch)
    with pytest.raises(UnknownDeviceError, match="Give auto, cpu, cuda"):
        choose_device(wanted)


def test_every_process_needs_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    there(monkeypatch, cuda=2)
    assert Machine(device=torch.device("cuda"), processes=2).processes == 2
    assert Machine(processes=4).device == CPU
    with pytest.raises(UnknownDeviceError, match="has 2 devices for 3 processes"):
        Machine(device=torch.device("cuda"), processes=3)
    for one in (torch.device("cuda", 1), torch.device("mps")):
        with pytest.raises(UnknownDeviceError, match="one device, for one process"):
            Machine(device=one, processes=2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_precision_that_was_named_is_not_measured(dtype: str) -> None:
    assert choose_dtype(dtype, CPU).dtype == dtype
    assert not choose_dtype(dtype, CPU).seconds


def test_the_measured_precision_is_reported_and_measured_once() -> None:
    found = choose_dtype("auto", CPU)

    assert set(found.seconds) == set(devices.DTYPES)
    assert all(seconds > 0 for seconds in found.seconds.values())
    assert choose_dtype("auto", CPU) == found


@pytest.mark.parametrize(("faster", "dtype"), [(1.5, "bfloat16"), (1.1, "float32")])
def test_only_a_clear_gain_is_worth_half_the_precision(
    monkeypatch: pytest.MonkeyPatch, faster: float, dtype: str
) -> None:
    seconds = {"float32": faster, "bfloat16": 1.0}
    monkeypatch.setattr(devices, "_measured", lambda _: seconds)
    assert choose_dtype("auto", CPU).dtype == dtype


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="LETHE_DTYPE: 'int8' is none of"):
        choose_dtype("int8", CPU)


def test_models_are_built_as_the_machine_says() -> None:
    vocabulary, config = Vocabulary.from_catalog(tiny.DATA), parse_backbone("compact")
    assert not build(vocabulary, config).model.is_activation_checkpointing
    use(Machine(checkpointing=True))
    assert build(vocabulary, config).model.is_activation_checkpointing
    use(Machine(device=torch.device("meta")))
    assert build(vocabulary, config).device == torch.device("meta")
