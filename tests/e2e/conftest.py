"""Fixtures: a tiny data set in the MovieLens format, and the command line as a process."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ROOT, Lethe

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 users with 30 ratings each of 60 films; half like comedies, half like dramas."""
    directory = tmp_path_factory.mktemp("tiny")
    chance = random.Random(7)
    genres = ["Comedy" if item % 2 else "Drama" for item in range(60)]
    films = [f"{item},Film {item} (19{item + 20}),{genres[item]}" for item in range(60)]
    (directory / "movies.csv").write_text("\n".join(["movieId,title,genres", *films]))
    rows = []
    for user in range(120):
        start = 1_000_000_000 + user * 10_000
        for position, item in enumerate(chance.sample(range(60), 30)):
            likes = (genres[item] == "Comedy") == (user % 2 == 0)
            rating = chance.choice([4.0, 4.5, 5.0] if likes else [1.0, 2.0, 3.0])
            rows.append(f"{user},{item},{rating},{start + position}")
    (directory / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *rows]))
    return directory


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment with a separate data directory and no other LETHE_ settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LETHE_")}
    return {
        **inherited,
        "LETHE_HOME": str(tmp_path / "home"),
        "LETHE_POLL_SECONDS": "0.1",
        # At a lower priority than the tests beside it, a worker would hardly proceed.
        "LETHE_WORKER_NICE": "0",
        # With few users, a larger share must be left out of training to have holdout users.
        "LETHE_HOLDOUT_SHARE": "0.2",
        # The key draws the holdout users, so that every run has the same models and audits. With
        # this key, the demo's audit does not fail, and a renewal follows.
        "LETHE_HASH_KEY": "another key for tests, number 0",
        # As long as a machine of CI may stand still.
        "LETHE_REPLICA_TTL": "30",
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def lethe(environment: dict[str, str], tmp_path: Path, ctrl_c_is_heard: None) -> Lethe:
    """Return a function that starts `lethe …` in a new session, with output to a file."""

    del ctrl_c_is_heard

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        with (tmp_path / "output.txt").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "app.cli", *arguments],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    return start
