"""Units in separate processes, and the schedule around failing units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest

from benchmarks.unlearning.children import make_in_process
from benchmarks.unlearning.errors import BenchmarkFailedError, UnitFailedError
from benchmarks.unlearning.names import RETRAIN
from benchmarks.unlearning.schedule import TimeEstimate, make_all
from benchmarks.unlearning.setting import Setting, read_json, write_json
from benchmarks.unlearning.units import Unit, comparison_units, required_units
from models.backbones.compact import CompactConfig
from models.backbones.packaged import cache_directory, set_cache_directory
from models.training.trainer import TrainConfig
from models.unlearning.registry import get_method
from tests.support.interaction_tables import planted_interactions
from tests.support.misbehaving_units import (
    BackboneDirectory,
    Broken,
    Diverging,
    Endless,
    Killed,
    Printing,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

SMALL = TrainConfig(
    backbone=CompactConfig(hidden_size=16, layers=1, heads=2, intermediate_size=16),
    epochs=1,
    validations=0,
)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(
        data=planted_interactions(users=60),
        protocol="paper",
        forget_seed=0,
        recipe=SMALL,
        out=tmp_path / "out",
    )


class RecordingScreen:
    """Progress display that records its calls."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.left: list[float | None] = []

    def at(self, _text: str, _spent: float, left: float | None) -> None:
        self.left.append(left)

    def tell(self, text: str) -> None:
        self.lines.append(text)


def run(method: str = "npo", seed: int = 0) -> dict[str, object]:
    return {"kind": "run", "method": method, "seed": seed}


@pytest.mark.parametrize(
    ("unit_class", "message"),
    [
        (Diverging, "^The loss became NaN or infinite. Lower the learning rate"),
        (Broken, r"^KeyError: 'weights'$"),
        (Killed, "ended by SIGKILL, which may mean that the memory ran out"),
    ],
)
def test_failure_in_the_process_is_raised_with_its_cause(
    unit_class: type[Unit], message: str, setting: Setting
) -> None:
    with pytest.raises(UnitFailedError, match=message):
        make_in_process(unit_class(**run()), setting, lambda _: None)


def test_process_has_one_thread_and_no_standard_output(
    setting: Setting, capfd: pytest.CaptureFixture[str]
) -> None:
    fractions: list[float] = []
    make_in_process(Printing(**run()), setting, fractions.append)
    assert fractions[-1] == 0.25
    assert "greeting" not in capfd.readouterr().out


def test_process_uses_the_commands_backbone_directory(setting: Setting, tmp_path: Path) -> None:
    previous = cache_directory()
    set_cache_directory(tmp_path / "backbones")
    try:
        make_in_process(BackboneDirectory(**run()), setting, lambda _: None)
    finally:
        set_cache_directory(previous)
    assert read_json(setting.out / "directory.json") == {"backbones": str(tmp_path / "backbones")}


def test_interrupt_ends_the_process(setting: Setting) -> None:
    def stop(fraction: float) -> None:
        if fraction:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_in_process(Endless(**run()), setting, stop)
    assert not psutil.pid_exists(int((setting.out / "pid").read_text()))


def test_failure_of_a_method_is_saved_and_other_units_go_on(setting: Setting) -> None:
    screen = RecordingScreen()
    units = comparison_units(["original", "npo"], 1, 0)
    units = [Diverging(**run("npo")) if unit.method == "npo" else unit for unit in units]
    failed = make_all(units, setting, screen)
    assert list(failed) == units[-1:]
    saved = read_json(setting.run_path("npo", 0))
    assert saved == {"method": "npo", "seed": 0, "error": failed[units[-1]]}
    assert "NaN" in saved["error"]
    assert not units[-1].is_finished(setting)  # The next start repeats the run.
    assert all(unit.is_finished(setting) for unit in units[:-1])
    assert screen.lines[-1].endswith(saved["error"])
    assert screen.left[0] is None
    assert all(left is not None and left >= 0 for left in screen.left[-5:])

    again = RecordingScreen()
    make_all(units, setting, again)
    assert len(again.lines) == 1


def test_unit_fails_if_a_required_unit_failed(setting: Setting) -> None:
    units = [unit for unit in comparison_units(["e2urec-fast"], 1, 0) if unit.seed == 0]
    calibration, run = units[-2:]
    path = setting.calibration_path(get_method("e2urec-fast"), 0)
    path.with_name(f"{path.name}.part").mkdir(parents=True)  # The file cannot be written.
    failed = make_all(units, setting, RecordingScreen())
    assert list(failed) == [calibration, run]
    assert failed[run].startswith("a required unit failed (e2urec-fast, seed 0: calibration): ")
    assert "IsADirectoryError" in failed[run]


def test_a_calibration_of_an_earlier_version_is_made_again(setting: Setting) -> None:
    """Runs of an output directory from before the memorization would end with a KeyError."""
    calibration = next(
        unit for unit in comparison_units(["e2urec-fast"], 1, 0) if unit.kind == "calibration"
    )
    path = setting.calibration_path(get_method("e2urec-fast"), calibration.seed)
    write_json(path, {"seconds": 1.0, "expected": {}, "persons": {}})
    assert not calibration.is_finished(setting)
    write_json(path, {"seconds": 1.0, "expected": {}, "memorization": {}, "persons": {}})
    assert calibration.is_finished(setting)


def test_failure_of_retrain_fails_the_benchmark(setting: Setting) -> None:
    units = [Diverging(**run("retrain"))]
    with pytest.raises(BenchmarkFailedError, match=r"retrain, seed 0, failed: .*needs all Retrain"):
        make_all(units, setting, RecordingScreen())


def test_time_estimate_uses_units_of_the_same_kind() -> None:
    one, two, three = (Unit(**run("npo", seed)) for seed in range(3))
    other = Unit(**run("badt", 0))
    estimate = TimeEstimate([one, two, three, other])
    assert estimate.seconds_left(one, 0.0, 5.0) is None
    assert estimate.seconds_left(one, 0.25, 5.0) == pytest.approx(4 * 20 - 5)
    estimate.finish(one, 10.0)
    assert estimate.seconds_left(two, 0.0, 4.0) == pytest.approx(6 + 10 + 10)
    estimate.finish(other, 100.0)
    assert estimate.seconds_left(two, 0.9, 4.0) == pytest.approx(6 + 10)
    assert estimate.seconds_left(two, 0.9, 14.0) == pytest.approx(14)  # Slower than before.


def test_units_come_after_their_required_units() -> None:
    units = comparison_units(["original", "e2urec-fast"], 2, 3)
    assert len(units) == len(set(units))
    for position, unit in enumerate(units):
        assert all(required in units[:position] for required in required_units(unit))
    count = {kind: sum(unit.kind == kind for unit in units) for kind in ("run", "root", "shadow")}
    assert count == {"run": 4 + 2 + 2, "root": 4, "shadow": 3}
    assert {unit.seed for unit in units if unit.kind == "shadow"} == {4, 5, 6}


def test_methods_may_have_more_seeds_than_others() -> None:
    units = comparison_units(["original", "npo"], 2, 3, 4, {"original": 5})
    seeds: dict[tuple[str, str], list[int]] = {}
    for unit in units:
        seeds.setdefault((unit.kind, unit.method), []).append(unit.seed)
    assert seeds["run", "original"] == [0, 1, 2, 3, 4]
    assert seeds["run", "npo"] == [0, 1]
    # Every seed of a method has a Retrain run, and the shadow models have further seeds.
    assert seeds["run", RETRAIN] == [0, 1, 2, 3, 4]
    assert seeds["shadow", RETRAIN] == [5, 6, 7]
    for unit in units:
        assert all(units.index(required) < units.index(unit) for required in required_units(unit))
