"""A unit in a process of its own: whatever becomes of it, the command hears of it and goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest

from benchmarks.unlearning.children import make_apart
from benchmarks.unlearning.errors import BenchmarkFailedError, UnitFailedError
from benchmarks.unlearning.schedule import Clock, make_all
from benchmarks.unlearning.setting import Setting, read_json
from benchmarks.unlearning.units import Unit, comparison, needs
from models.backbones.compact import CompactConfig
from models.backbones.packaged import cache_directory, set_cache_directory
from models.training.trainer import TrainConfig
from models.unlearning.registry import get_method
from tests.support.interaction_tables import planted_interactions
from tests.support.misbehaving_units import Broken, Diverging, Endless, Killed, Talking, Telling

if TYPE_CHECKING:
    from pathlib import Path

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


class Heard:
    """A screen that only remembers."""

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
    ("strange", "said"),
    [
        (Diverging, "^The loss became NaN or infinite. Lower the learning rate"),
        (Broken, r"^KeyError: 'weights'$"),
        (Killed, "SIGKILL may mean that the memory ran out"),
    ],
)
def test_what_went_wrong_is_told(strange: type[Unit], said: str, setting: Setting) -> None:
    with pytest.raises(UnitFailedError, match=said):
        make_apart(strange(**run()), setting, lambda _: None)


def test_it_works_on_one_thread_and_leaves_standard_output_alone(
    setting: Setting, capfd: pytest.CaptureFixture[str]
) -> None:
    heard: list[float] = []
    make_apart(Talking(**run()), setting, heard.append)
    assert heard[-1] == 0.25
    assert "greeting" not in capfd.readouterr().out


def test_it_keeps_packaged_backbones_where_the_command_does(
    setting: Setting, tmp_path: Path
) -> None:
    before = cache_directory()
    set_cache_directory(tmp_path / "backbones")
    try:
        make_apart(Telling(**run()), setting, lambda _: None)
    finally:
        set_cache_directory(before)
    assert read_json(setting.out / "told.json") == {"backbones": str(tmp_path / "backbones")}


def test_an_interrupted_command_leaves_no_process_behind(setting: Setting) -> None:
    def stop(fraction: float) -> None:
        if fraction:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_apart(Endless(**run()), setting, stop)
    assert not psutil.pid_exists(int((setting.out / "pid").read_text()))


def test_one_methods_failure_is_kept_and_the_others_go_on(setting: Setting) -> None:
    screen = Heard()
    units = comparison(["original", "npo"], 1, 0)
    units = [Diverging(**run("npo")) if unit.method == "npo" else unit for unit in units]
    failed = make_all(units, setting, screen)
    assert list(failed) == units[-1:]
    kept = read_json(setting.run_place("npo", 0))
    assert kept == {"method": "npo", "seed": 0, "error": failed[units[-1]]}
    assert "NaN" in kept["error"]
    assert not units[-1].finished(setting)  # The next start tries again.
    assert all(unit.finished(setting) for unit in units[:-1])
    assert screen.lines[-1].endswith(kept["error"])
    assert screen.left[0] is None
    assert all(left is not None and left >= 0 for left in screen.left[-5:])

    again = Heard()
    make_all(units, setting, again)
    assert len(again.lines) == 1


def test_what_stands_on_a_failed_unit_fails_with_it(setting: Setting) -> None:
    units = [unit for unit in comparison(["e2urec-fast"], 1, 0) if unit.seed == 0]
    calibration, run = units[-2:]
    place = setting.calibration_place(get_method("e2urec-fast"), 0)
    place.with_name(f"{place.name}.part").mkdir(parents=True)  # It cannot be written.
    failed = make_all(units, setting, Heard())
    assert list(failed) == [calibration, run]
    assert failed[run].startswith("what it stands on failed (e2urec-fast, seed 0: calibration): ")
    assert "IsADirectoryError" in failed[run]


def test_without_retrain_there_is_nothing_to_compare(setting: Setting) -> None:
    units = [Diverging(**run("retrain"))]
    with pytest.raises(BenchmarkFailedError, match=r"retrain, seed 0, failed: .*Without Retrain"):
        make_all(units, setting, Heard())


def test_the_time_left_comes_from_units_of_the_same_kind() -> None:
    one, two, three = (Unit(**run("npo", seed)) for seed in range(3))
    other = Unit(**run("badt", 0))
    clock = Clock([one, two, three, other])
    assert clock.left(one, 0.0, 5.0) is None
    assert clock.left(one, 0.25, 5.0) == pytest.approx(4 * 20 - 5)
    clock.made(one, 10.0)
    assert clock.left(two, 0.0, 4.0) == pytest.approx(6 + 10 + 10)
    clock.made(other, 100.0)
    assert clock.left(two, 0.9, 4.0) == pytest.approx(6 + 10)
    assert clock.left(two, 0.9, 14.0) == pytest.approx(14)  # Slower than before: at least as long.


def test_units_come_after_what_they_stand_on() -> None:
    units = comparison(["original", "e2urec-fast"], 2, 3)
    assert len(units) == len(set(units))
    for place, unit in enumerate(units):
        assert all(needed in units[:place] for needed in needs(unit))
    count = {kind: sum(unit.kind == kind for unit in units) for kind in ("run", "root", "shadow")}
    assert count == {"run": 4 + 2 + 2, "root": 4, "shadow": 3}
    assert {unit.seed for unit in units if unit.kind == "shadow"} == {4, 5, 6}
