"""Roll out a deletion's release while gateway processes hang, die or cannot load it."""

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
from tests.faults.conftest import Installation, close, fill, make_installation
from tests.support.file_learner import FileLearner
from tests.support.processes import PATIENCE_SECONDS, wait_until
from worker.learner import Artifact, DataSnapshot, Verdict
from worker.loop import run_once

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.cli.processes import Child
    from app.storage.engine import Database
    from models.runtime.progress import Progress

pytestmark = pytest.mark.slow

#: One gateway process each, on a port of its own.
BEHAVIORS = ("healthy", "hangs", "dies", "cannot load")


class UntrainedLearner(FileLearner):
    """Saves releases with different random weights, without training, that a gateway can load."""

    _seeds = count()

    def train(
        self,
        snapshot: DataSnapshot,
        into: Path,
        _backbone: str | Path,
        report: Progress,
        *,
        renewal_seed: int | None = None,  # noqa: ARG002 - the signature of the learner
    ) -> Artifact:
        report(1.0)
        config = CompactConfig(
            hidden_size=16, layers=1, heads=2, intermediate_size=32, init_std=0.5
        ).seeded(next(self._seeds))
        recommender = Recommender(Vocabulary.from_catalog(snapshot.data), config)
        manifest = checkpoints.save(recommender, into, method="retrain")
        return Artifact(directory=into, digest=manifest.digest, method="retrain", needs_merge=False)

    def unlearn(
        self, snapshot: DataSnapshot, parent: Path, into: Path, *, strength: int, report: Progress
    ) -> Artifact:
        del strength
        return self.train(snapshot, into, parent, report)

    def must_retrain(self, _snapshot: DataSnapshot, _parent: Path) -> bool:
        return False

    def unmeasured_kinds(self, _snapshot: DataSnapshot, _parent: Path) -> tuple[str, ...]:
        return ()

    def has_training_rows(self, _snapshot: DataSnapshot, _parent: Path) -> bool:
        return True

    def count_known_rows(self, snapshot: DataSnapshot, _parent: Path) -> dict[str, int | None]:
        return dict.fromkeys(snapshot.requests)

    def audit(
        self,
        _snapshot: DataSnapshot,
        _parent: Path,
        _candidate: Path,
        *,
        exact: bool,
        report: Progress,
    ) -> Verdict:
        report(1.0)
        return Verdict(outcome=Outcome.PASSED, figures={"exact": exact})


@dataclass
class Replica:
    """A gateway process and its API."""

    child: Child
    url: str

    @property
    def pid(self) -> int:
        return self.child.process.pid

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", trust_env=False, timeout=PATIENCE_SECONDS)

    def release(self) -> str | None:
        """Return the id of the release that answers, or None if the gateway does not answer."""
        answer = self.get("/recommend/u1?exclude_seen=false")
        release: str | None = answer.json()["release"] if answer.status_code == 200 else None
        return release

    def maps(self, release: str) -> bool:
        """Return whether the process maps any page of this release's weights."""
        maps = Path(f"/proc/{self.pid}/maps").read_text().splitlines()
        return any(f"/{release}." in line and "/weights" in line for line in maps)


@pytest.fixture
def untrained(sqlite_database: Database, tmp_path: Path) -> Iterator[Installation]:
    """Provide an installation with leases short for a test but long enough for a busy machine."""
    installation = make_installation(
        sqlite_database,
        tmp_path,
        real=True,
        # The healthy replica must keep its lease while the machine stands still.
        LETHE_REPLICA_TTL="30",
        LETHE_REPLICA_MARGIN="0.5",
        # Longer than a replica's lease, so that dead replicas expire before any replica is fenced.
        LETHE_ROLLOUT_TIMEOUT="35",
    )
    learner = UntrainedLearner(installation.settings)
    installation.context = replace(installation.context, learner=learner)
    fill(installation.context)
    installation.train()
    yield installation
    close(installation)


@pytest.fixture
def replicas(untrained: Installation, tmp_path: Path) -> Iterator[dict[str, Replica]]:
    """Start one gateway per behavior; all of them serve the first release."""
    # The gateway that cannot load has a copy of the store, without later releases.
    stale_store = tmp_path / "stale store"
    shutil.copytree(untrained.settings.artifacts_root, stale_store)
    replicas: dict[str, Replica] = {}
    with Children() as children:
        for behavior in BEHAVIORS:
            with listening("127.0.0.1", 0) as held:
                child = gateway(held, log=tmp_path / f"{behavior}.log")
                own = {"LETHE_ARTIFACTS_URL": str(stale_store)} if "load" in behavior else {}
                child.environment = {**untrained.environment, **child.environment, **own}
                children.start(child)
                host, port = held.getsockname()
            replicas[behavior] = Replica(child, f"http://{host}:{port}")
        wait_until(lambda: all(map(is_ready, replicas.values())), "a replica is not ready")
        yield replicas
        os.kill(replicas["hangs"].pid, signal.SIGCONT)


def is_ready(replica: Replica) -> bool:
    if replica.child.exit_status() is not None:
        pytest.fail(f"a gateway ended: {replica.child.log.read_text()}")
    try:
        return replica.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


class RecommendationQuery(threading.Thread):
    """A query to a replica, in a thread that waits for the answer."""

    def __init__(self, replica: Replica) -> None:
        super().__init__(daemon=True)
        self.answer: httpx.Response | None = None
        self._replica = replica
        self.start()

    def run(self) -> None:
        self.answer = self._replica.get("/recommend/u1?exclude_seen=false")


def listed(replica: Replica) -> dict[str, dict[str, Any]]:
    """Return the replicas in `GET /releases`, by id."""
    return {row["id"]: row for row in replica.get("/releases").json()["replicas"]}


def test_failing_replicas_are_fenced_before_deletion_completes(
    untrained: Installation, replicas: dict[str, Replica]
) -> None:
    before = {behavior: replica.release() for behavior, replica in replicas.items()}
    (old,) = set(before.values())
    assert old is not None
    assert all(replica.maps(old) for replica in replicas.values())
    with untrained.context.uow_factory(write=False) as uow:
        id_of_pid = {row.pid: row.id for row in uow.replicas.all()}
    ids = {behavior: id_of_pid[replica.pid] for behavior, replica in replicas.items()}
    healthy, hung = replicas["healthy"], replicas["hangs"]
    margin = untrained.settings.replica_margin
    serving: dict[Stage, dict[str, str | None]] = {}
    maps_old_at_deletion: list[bool] = []

    def record(stage: Stage) -> None:
        with untrained.context.uow_factory(write=False) as uow:
            serving[stage] = {row.id: row.serving for row in uow.replicas.live(margin)}
        if stage is Stage.DELETE_ROWS:
            maps_old_at_deletion.append(healthy.maps(old))

    request_id = untrained.forget()
    os.kill(hung.pid, signal.SIGSTOP)
    replicas["dies"].child.kill()
    query = RecommendationQuery(hung)
    assert run_once(untrained.context, on_stage=record)

    # When rows are deleted, no replica can answer from the old release any more, and a replica
    # that has confirmed the new release maps no page of the old one.
    untrained.check_forgotten(request_id)
    new = untrained.request(request_id).release
    serving_at_deletion = serving[Stage.DELETE_ROWS]
    assert set(ids.values()) <= set(serving[Stage.SNAPSHOT])
    assert serving_at_deletion.pop(ids["healthy"]) == new
    assert not serving_at_deletion.keys() & set(ids.values())
    assert set(serving_at_deletion.values()) <= {None}
    assert maps_old_at_deletion == [False]

    rows = listed(healthy)
    assert {behavior: rows[id_]["lease"] for behavior, id_ in ids.items()} == {
        "healthy": "valid",
        "hangs": "expired",
        "dies": "expired",
        "cannot load": "fenced",
    }
    assert new in (rows[ids["cannot load"]]["problem"] or "")
    assert replicas["cannot load"].release() is None

    # The suspended gateway wakes with the old weights in memory, and must not answer from them.
    assert query.answer is None
    os.kill(hung.pid, signal.SIGCONT)
    query.join()
    assert query.answer is not None
    assert query.answer.status_code == 503 or query.answer.json()["release"] == new
    wait_until(lambda: hung.release() == new, "the gateway does not come back")
    wait_until(lambda: not hung.maps(old), "the gateway keeps the old weights")
    new_rows = [row for id_, row in listed(healthy).items() if id_ not in ids.values()]
    assert new in {row["serving"] for row in new_rows if row["lease"] == "valid"}
