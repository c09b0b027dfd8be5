"""`python -m benchmarks.students`: one line per group of people, and bad input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks import students
from tests.benchmarks.unlearning.test_command import write_movielens

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_the_table_has_a_line_per_group_of_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_movielens(tmp_path / "data")
    arguments = ["--data", str(data), "--out", str(tmp_path / "out"), "--people", "2"]
    assert students.main(arguments) == 0
    header, _, *lines = capsys.readouterr().out.splitlines()
    assert header.startswith("| rows | people | size |")
    assert lines
    for line in lines:
        _, rows, people, size, *_ = [cell.strip() for cell in line.split("|")]
        assert rows.startswith("from ")
        assert int(people) <= 2
        assert 0 <= float(size) < 2


def test_the_draw_of_the_tables_chooses_nothing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        students.main(["--data", "x", "--out", str(tmp_path), "--forget-seed", "0"])
    assert ended.value.code == 2


def test_missing_data_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert students.main(["--data", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "none" in capsys.readouterr().err
