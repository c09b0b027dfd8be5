"""Directories of ratings without times, and the data set with planted memorization."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.planted_memorization import CONTRARY, planted_memorization, write
from benchmarks.ratings_without_times import draw_times, read_ratings
from benchmarks.unlearning.protocols import apply_protocol
from models.datasets.errors import DataSetError

if TYPE_CHECKING:
    from pathlib import Path

    from models.data.interactions import Interactions


def write_books(folder: Path, ratings: str = "7,2,10\n7,1,1\n5,2,6\n") -> Path:
    folder.mkdir()
    (folder / "ratings.csv").write_text(f"user_id,book_id,rating\n{ratings}")
    (folder / "books.csv").write_text(
        "book_id,isbn,title,author,year\n"
        '1,06,"Decision, or Not",Carlo D\'Este,1991\n'
        "2,03,Mummies,,1999\n"
    )
    return folder


def test_ratings_of_ten_become_half_stars(tmp_path: Path) -> None:
    data = read_ratings(write_books(tmp_path / "books"))
    assert [user.id for user in data.users] == ["5", "7"]
    assert [item.title for item in data.items] == ["Decision, or Not", "Mummies"]
    assert data.items[0].attributes == {"author": ("Carlo D'Este",)}
    assert data.items[1].attributes == {}
    rows = set(zip(data.user.tolist(), data.item.tolist(), data.rating.tolist(), strict=True))
    assert rows == {(1, 1, 5.0), (1, 0, 0.5), (0, 1, 3.0)}


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        ("7,2,11\n", "outside 1 to 10"),
        ("7,2,0\n", "outside 1 to 10"),
        ("7,2,x\n", "whole numbers"),
        ("7,3,5\n", "Item 3 of"),
        ("", "has no ratings"),
    ],
)
def test_invalid_ratings_are_refused(tmp_path: Path, ratings: str, message: str) -> None:
    with pytest.raises(DataSetError, match=message):
        read_ratings(write_books(tmp_path / "books", ratings))


def test_missing_catalog_and_other_directories_are_refused(tmp_path: Path) -> None:
    folder = write_books(tmp_path / "books")
    (folder / "books.csv").unlink()
    with pytest.raises(DataSetError, match="no catalog"):
        read_ratings(folder)
    with pytest.raises(DataSetError, match="holds no format that is known"):
        read_ratings(tmp_path)


def test_drawn_times_let_some_users_come_late() -> None:
    user = np.repeat(np.arange(300), 20)
    times = draw_times(user)
    assert np.array_equal(times, draw_times(user))
    late = np.quantile(times, 0.6)
    first = np.array([times[user == number].min() for number in range(300)])
    assert 0.2 < (first > late).mean() < 0.5
    assert len(set(np.argsort(times[user == 0]).tolist())) == 20


def consensus(data: Interactions) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each rating agrees with the other people, and whether its user is contrary."""
    likes = data.rating > 3
    count = np.bincount(data.item, minlength=len(data.items))
    liked = np.bincount(data.item, weights=likes, minlength=len(data.items))
    others = (liked[data.item] - likes) / np.maximum(count[data.item] - 1, 1)
    agrees = likes == (others > 0.5)
    contrary = np.array([user.id.startswith("contrary") for user in data.users])
    return agrees[count[data.item] > 10], contrary[data.user][count[data.item] > 10]


def test_contrary_people_agree_with_the_consensus_by_chance_only() -> None:
    data = planted_memorization(400, 3)
    agrees, contrary = consensus(data)
    assert agrees[~contrary].mean() > 0.9
    assert agrees[contrary].mean() == pytest.approx(0.5, abs=0.05)
    share = np.mean([user.id.startswith("contrary") for user in data.users])
    assert share == pytest.approx(CONTRARY, abs=0.01)


def test_history_does_not_predict_where_a_person_is_contrary() -> None:
    data = planted_memorization(400, 3)
    agrees, contrary = consensus(data)
    own = agrees[contrary].astype(float)
    assert np.corrcoef(own[:-1], own[1:])[0, 1] == pytest.approx(0, abs=0.08)


def test_planted_data_depend_on_size_and_seed_only() -> None:
    first, again, other = (planted_memorization(60, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.rating, again.rating)
    assert not np.array_equal(first.rating[:500], other.rating[:500])
    assert len(planted_memorization(120, 1).users) == 120
    with pytest.raises(ValueError, match="at least 20 users"):
        planted_memorization(19, 0)


def test_written_data_are_read_and_can_be_split(tmp_path: Path) -> None:
    data = planted_memorization(100, 0)
    write(data, tmp_path)
    read = read_ratings(tmp_path)
    assert len(read) == len(data)
    assert {user.id for user in read.users} == {user.id for user in data.users}
    case = apply_protocol(read, "paper", 0)
    assert len(case.batch.forget) > 100
    # Some users come after the training period, so that the audit has holdout users.
    assert set(case.batch.parts.valid.user) - set(case.whole.parts.train.user)
