"""Gateway processes that hang, die or cannot load while a deletion's release rolls out."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from app.cli.launch import gateway, listening
from app.cli.processes import Children
from app.domain.jobs import Stage
from app.domain.requests import Outcome
from models.backbones.compact import CompactConfig
from models.checkpoints import checkpoint as checkpoints
from models.prompts.vocabulary import Vocabulary
from models.recommender.base import Recommender
from tests.faults.conftest import Installation, fill, make_installation
from tests.support.file_learner import FileLearner
from tests.support.processes import wait_until
from worker.learner import Artifact, DataSnapshot, Verdict
from worker.loop import run_once

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.cli.processes import Child
    from app.storage.engine import Database
    from worker.learner import Report

#: How they will fare; each is a process of its own, on a port of its own.
BEHAVIORS = ("healthy", "hangs", "dies", "cannot load")


class UntrainedLearner(FileLearner):
    """Makes releases that a gateway can load, each with other weights, in no time."""

    _seeds = count()

    def train(
        self, snapshot: DataSnapshot, into: Path, _backbone: str | Path, report: Report
    ) -> Artifact:
        report(1.0)
        config = CompactConfig(
            hidden_size=16, layers=1, heads=2, intermediate_size=32, init_std=0.5
        ).seeded(next(self._seeds))
        recommender = Recommender(Vocabulary.from_catalog(snapshot.data), config)
        manifest = checkpoints.save(recommender, into, method="retrain")
        return Artifact(directory=into, digest=manifest.digest, method="retrain", needs_merge=False)

    def unlearn(
        self, snapshot: DataSnapshot, parent: Path, into: Path, *, strength: int, report: Report
    ) -> Artifact:
        del strength
        return self.train(snapshot, into, parent, report)

    def has_training_rows(self, _snapshot: DataSnapshot, _parent: Path) -> bool:
        return True

    def audit(
        self,
        _snapshot: DataSnapshot,
        _parent: Path,
        _candidate: Path,
        *,
        exact: bool,
        report: Report,
    ) -> Verdict:
        report(1.0)
        return Verdict(outcome=Outcome.PASSED, figures={"exact": exact})


@dataclass
class Replica:
    """A gateway process and what may be asked of it."""

    child: Child
    url: str

    @property
    def pid(self) -> int:
        return self.child.process.pid

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", trust_env=False, timeout=60)

    def release(self) -> str | None:
        """Return the release that it answers from; None where it does not answer."""
        answer = self.get("/recommend/u1?exclude_seen=false")
        found: str | None = answer.json()["release"] if answer.status_code == 200 else None
        return found

    def maps(self, release: str) -> bool:
        """Say whether the process has any page of this release's weights."""
        return f"{release}/weights" in Path(f"/proc/{self.pid}/maps").read_text()


@pytest.fixture
def untrained(sqlite_database: Database, tmp_path: Path) -> Iterator[Installation]:
    """An installation whose leases are short, but not so short that a busy machine breaks them."""
    made = make_installation(
        sqlite_database,
        tmp_path,
        real=True,
        LETHE_REPLICA_TTL="4",
        LETHE_REPLICA_MARGIN="0.5",
        # Longer than it takes a lease to run out: who is gone has expired before anybody is fenced.
        LETHE_ROLLOUT_TIMEOUT="5",
    )
    made.context = replace(made.context, learner=UntrainedLearner(made.settings))
    fill(made.context)
    made.train()
    yield made
    made.context.close()


@pytest.fixture
def replicas(untrained: Installation, tmp_path: Path) -> Iterator[dict[str, Replica]]:
    """One process for each behaviour, all answering from the first release."""
    # Where one cannot load, its machine has lost sight of what is published from now on.
    elsewhere = tmp_path / "another mount"
    shutil.copytree(untrained.settings.artifacts_root, elsewhere)
    found: dict[str, Replica] = {}
    with Children() as children:
        for behavior in BEHAVIORS:
            with listening("127.0.0.1", 0) as held:
                child = gateway(held, log=tmp_path / f"{behavior}.log")
                own = {"LETHE_ARTIFACTS_URL": str(elsewhere)} if "load" in behavior else {}
                child.environment = {**untrained.environment, **child.environment, **own}
                children.start(child)
                host, port = held.getsockname()
            found[behavior] = Replica(child, f"http://{host}:{port}")
        for one in found.values():
            wait_until(lambda one=one: is_ready(one), "a replica is not ready")  # type: ignore[misc] # mypy knows no types of such defaults
        yield found
        os.kill(found["hangs"].pid, signal.SIGCONT)


def is_ready(replica: Replica) -> bool:
    if replica.child.exit_status() is not None:
        pytest.fail(f"a gateway ended: {replica.child.log.read_text()}")
    try:
        return replica.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


class RecommendationQuery(threading.Thread):
    """A question that is put to a replica, and answered whenever it can."""

    def __init__(self, replica: Replica) -> None:
        super().__init__()
        self.answer: httpx.Response | None = None
        self._replica = replica
        self.start()

    def run(self) -> None:
        self.answer = self._replica.get("/recommend/u1?exclude_seen=false")


def listed(replica: Replica) -> dict[str, dict[str, Any]]:
    """Return what `GET /releases` says of each replica, by its id."""
    return {one["id"]: one for one in replica.get("/releases").json()["replicas"]}


def test_whoever_cannot_follow_is_counted_out_before_the_deletion_completes(
    untrained: Installation, replicas: dict[str, Replica]
) -> None:
    before = {one: replica.release() for one, replica in replicas.items()}
    (old,) = set(before.values())
    assert old is not None
    assert all(replica.maps(old) for replica in replicas.values())
    with untrained.context.uow_factory(write=False) as uow:
        name_of = {row.pid: row.id for row in uow.replicas.all()}
    ids = {one: name_of[replica.pid] for one, replica in replicas.items()}
    healthy, hung = replicas["healthy"], replicas["hangs"]
    margin = untrained.settings.replica_margin
    seen: dict[Stage, dict[str, str | None]] = {}
    held: list[bool] = []

    def look(stage: Stage) -> None:
        with untrained.context.uow_factory(write=False) as uow:
            seen[stage] = {row.id: row.serving for row in uow.replicas.live(margin)}
        if stage is Stage.DELETE_ROWS:
            held.append(healthy.maps(old))

    request_id = untrained.forget()
    os.kill(hung.pid, signal.SIGSTOP)
    replicas["dies"].child.kill()
    query = RecommendationQuery(hung)
    assert run_once(untrained.context, on_stage=look)

    # Nothing is deleted or shredded while anybody could still answer from the old release, and
    # whoever has confirmed the new one has not a page of the old one left.
    untrained.check_forgotten(request_id)
    new = untrained.request(request_id).release
    counted = seen[Stage.DELETE_ROWS]
    assert set(ids.values()) <= set(seen[Stage.SNAPSHOT])
    assert counted.pop(ids["healthy"]) == new
    assert not counted.keys() & set(ids.values())
    assert set(counted.values()) <= {None}
    assert held == [False]

    rows = listed(healthy)
    assert {one: rows[name]["lease"] for one, name in ids.items()} == {
        "healthy": "valid",
        "hangs": "expired",
        "dies": "expired",
        "cannot load": "fenced",
    }
    assert new in (rows[ids["cannot load"]]["problem"] or "")
    assert replicas["cannot load"].release() is None

    # It wakes up with the old weights in memory, and says nothing that it made of them.
    assert query.answer is None
    os.kill(hung.pid, signal.SIGCONT)
    query.join()
    assert query.answer is not None
    assert query.answer.status_code == 503 or query.answer.json()["release"] == new
    wait_until(lambda: hung.release() == new, "it does not come back")
    wait_until(lambda: not hung.maps(old), "it keeps the old weights")
    again = [row for name, row in listed(healthy).items() if name not in ids.values()]
    assert new in {row["serving"] for row in again if row["lease"] == "valid"}
