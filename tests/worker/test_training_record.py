"""Train, forget and audit real models on the rows that the record of training lists."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from app.services.pseudonyms import Pseudonyms
from app.settings import Settings
from models.checkpoints import checkpoint as checkpoints
from models.checkpoints import manifest as manifests
from models.data.interactions import UserRecord
from models.unlearning.e2urec_fast import E2URecFast
from tests.support.planted_tastes import CALIBRATION, RECIPE, planted
from worker.learner import Artifact, DataSnapshot, ForgetSet
from worker.trainer import ModelLearner
from worker.training_data import split_like
from worker.training_record import TrainingRecord

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from models.data.forget_split import ForgetSplit
    from models.data.samples import Samples
    from models.runtime.progress import Progress
    from models.unlearning.base import Unlearned, UnlearningTask

pytestmark = pytest.mark.slow

HOLDOUT = frozenset(f"u{n}" for n in range(130, 150))
PSEUDONYMS = Pseudonyms(b"a key for tests, thirty-two bytes")
#: The data version of the exact training.
TRAINED = 7
LATE = "late"


def nothing(fraction: float) -> None:
    """Ignore the progress."""


def one_user(name: str) -> ForgetSet:
    return ForgetSet(users=frozenset([name]))


def recorded(forget: ForgetSet = ForgetSet(), version: int = TRAINED) -> DataSnapshot:  # noqa: B008 -- frozen
    """Return a snapshot whose rows were all written in the first data version."""
    data = planted()
    return DataSnapshot(
        version=version,
        data=data,
        forget=forget,
        holdout=HOLDOUT,
        job_id="job",
        first_version=np.ones(len(data), np.int64),
        last_version=np.ones(len(data), np.int64),
        pseudonyms=PSEUDONYMS,
    )


def with_late_user(forget: ForgetSet) -> DataSnapshot:
    """Add a user with the ratings of the user u3, written after the training."""
    snapshot = recorded(forget, TRAINED + 1)
    data, rows = snapshot.data, np.flatnonzero(snapshot.data.user == 3)
    every = np.concatenate([np.arange(len(data)), rows])
    grown = data.take(every)
    user = grown.user.copy()
    user[len(data) :] = len(data.users)
    return replace(
        snapshot,
        data=replace(grown, users=(*data.users, UserRecord(id=LATE)), user=user),
        first_version=np.where(np.arange(len(every)) < len(data), 1, TRAINED + 1),
        last_version=np.where(np.arange(len(every)) < len(data), 1, TRAINED + 1),
    )


def changed(snapshot: DataSnapshot, rows: NDArray[Any], **versions: int) -> DataSnapshot:
    """Return the snapshot with other versions of the selected rows."""
    columns = {name: getattr(snapshot, name).copy() for name in versions}
    for name, version in versions.items():
        columns[name][rows] = version
    return replace(snapshot, **columns)


class WatchedMethod(E2URecFast):
    """Keep the rows that the method sees."""

    seen: ForgetSplit | None = None

    def unlearn(self, task: UnlearningTask, progress: Progress) -> Unlearned:
        self.seen = task.prepared
        return super().unlearn(task, progress)


def make_learner() -> ModelLearner:
    recipe = replace(RECIPE, epochs=1)
    return ModelLearner(Settings(method="e2urec-fast"), lambda _backbone: recipe, CALIBRATION)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    directory = tmp_path_factory.mktemp("record") / "root"
    excluded = frozenset([PSEUDONYMS.user("u5")])
    snapshot = replace(recorded(one_user("u5")), excluded=excluded)
    return make_learner().train(snapshot, directory, "compact", nothing)


def test_manifest_records_version_and_excluded_hashes(root: Artifact, tmp_path: Path) -> None:
    expected = {"data_version": TRAINED, "excluded": [PSEUDONYMS.user("u5")]}
    successor = make_learner().carry_over(root.directory, tmp_path / "next", job_id="next")
    for artifact in (root, successor):
        extra = manifests.read_manifest(artifact.directory).extra
        assert {name: extra[name] for name in expected} == expected


def test_late_person_has_no_training_rows_and_weights_stay(root: Artifact, tmp_path: Path) -> None:
    learner, snapshot = make_learner(), with_late_user(one_user(LATE))
    assert not learner.must_retrain(snapshot, root.directory)
    assert not learner.has_training_rows(snapshot, root.directory)
    successor = learner.carry_over(root.directory, tmp_path / "next", job_id="next")
    before, after = (checkpoints.read_weights(a.directory) for a in (root, successor))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_unlearning_sees_only_rows_that_the_training_saw(root: Artifact, tmp_path: Path) -> None:
    """The rows equal those of a snapshot in which the newer rows do not exist."""
    learner = make_learner()
    method = WatchedMethod()
    learner._method = method
    snapshot = with_late_user(one_user("u3"))
    of_u7 = snapshot.data.user == 7
    snapshot = changed(snapshot, of_u7, last_version=TRAINED + 1)
    learner.unlearn(snapshot, root.directory, tmp_path / "delta", strength=0, report=nothing)
    assert method.seen is not None
    seen = method.seen
    users = snapshot.data.users
    late, u5 = len(users) - 1, 5
    for samples in (*samples_of(seen), seen.forget):
        assert not {late, u5, 7} & set(samples.user.tolist())
    assert set(seen.forget.user.tolist()) == {3}
    assert not {late, u5, 7} & set(seen.retained.user.tolist())
    known = ~np.isin(recorded().data.user, [5, 7])
    old = replace(recorded(one_user("u3")), pseudonyms=None).take(known)
    expected = split_like(old, manifests.read_manifest(root.directory))
    assert np.array_equal(seen.forget.history, expected.forget.history)
    assert np.array_equal(seen.parts.train.history, expected.parts.train.history)


def samples_of(split: ForgetSplit) -> tuple[Samples, ...]:
    parts = split.parts
    return parts.train, parts.valid, parts.test, parts.holdout


def test_newer_rows_of_a_known_person_are_not_in_histories(root: Artifact) -> None:
    snapshot = recorded(one_user("u3"), TRAINED + 1)
    rows = np.flatnonzero(snapshot.data.user == 3)
    newer = changed(snapshot, rows[::2], first_version=TRAINED + 1, last_version=TRAINED + 1)
    split = split_like(newer, manifests.read_manifest(root.directory))
    assert not set(newer.data.item[rows[::2]].tolist()) & set(split.forget.history.ravel().tolist())
    assert not make_learner().must_retrain(newer, root.directory)


@pytest.mark.parametrize("version", [TRAINED + 1, -1])
@pytest.mark.parametrize(
    ("forget", "must_retrain"),
    [
        (one_user("u3"), True),
        (ForgetSet(pairs=frozenset([("u3", f"i{m}") for m in range(120)])), True),
        (ForgetSet(items=frozenset([f"i{m}" for m in range(120)])), True),
        (one_user("u4"), False),
    ],
    ids=["user", "pairs", "items", "another user"],
)
def test_changed_rows_of_the_subject_need_retraining(
    root: Artifact, forget: ForgetSet, must_retrain: bool, version: int
) -> None:
    snapshot = recorded(forget, TRAINED + 1)
    (row, *_) = np.flatnonzero(snapshot.data.user == 3)
    snapshot = changed(snapshot, np.array([row]), last_version=version)
    assert make_learner().must_retrain(snapshot, root.directory) is must_retrain


def test_excluded_person_has_no_training_rows_after_cancelling(root: Artifact) -> None:
    learner, snapshot = make_learner(), recorded(one_user("u5"), TRAINED + 1)
    cancelled = changed(snapshot, snapshot.data.user == 5, last_version=TRAINED + 1)
    for state in (snapshot, cancelled):
        assert not learner.must_retrain(state, root.directory)
        assert not learner.has_training_rows(state, root.directory)


def test_person_with_validation_rows_only_is_retrained(root: Artifact) -> None:
    manifest = manifests.read_manifest(root.directory)
    bounds = manifest.extra["bounds"]
    snapshot = recorded(one_user("u3"))
    timestamp = snapshot.data.timestamp.copy()
    timestamp[snapshot.data.user == 3] = bounds["valid_from"]
    snapshot = replace(snapshot, data=replace(snapshot.data, timestamp=timestamp))
    learner = make_learner()
    assert learner.must_retrain(snapshot, root.directory)
    assert not learner.has_training_rows(snapshot, root.directory)
    timestamp[snapshot.data.user == 3] = bounds["test_from"]
    assert not learner.must_retrain(snapshot, root.directory)
    assert not learner.has_training_rows(snapshot, root.directory)


def test_holdout_user_is_not_in_the_weights(root: Artifact) -> None:
    learner, snapshot = make_learner(), recorded(one_user("u140"))
    is_of_user = snapshot.data.user == 140
    for state in (snapshot, changed(snapshot, is_of_user, last_version=TRAINED + 1)):
        assert not learner.has_training_rows(state, root.directory)
        assert not learner.must_retrain(state, root.directory)


def test_pair_of_a_user_of_a_later_batch_is_retrained(root: Artifact) -> None:
    """The later batch's rows are left out, so the snapshot has no sample of the pair."""
    snapshot = recorded()
    rows = snapshot.data.user != 3
    row = np.flatnonzero(~rows)[0]
    rows[row] = True
    pair = ("u3", snapshot.data.items[snapshot.data.item[row]].id)
    snapshot = replace(snapshot, forget=ForgetSet(pairs=frozenset([pair])))
    partial = replace(snapshot.take(rows), incomplete=frozenset(["u3"]))
    learner = make_learner()
    assert not learner.has_training_rows(partial, root.directory)
    assert learner.must_retrain(partial, root.directory)
    assert not learner.must_retrain(replace(partial, forget=one_user("u4")), root.directory)


def test_user_whose_samples_were_all_unlearned_is_retrained(root: Artifact, tmp_path: Path) -> None:
    """Too few rows for a sample are left, but the parent was trained on them."""
    learner, whole = make_learner(), recorded()
    of_u3 = np.flatnonzero(whole.data.user == 3)
    items = [whole.data.items[item].id for item in whole.data.item[of_u3[5:]]]
    pairs = ForgetSet(pairs=frozenset(("u3", item) for item in items))
    adapter = learner.unlearn(
        replace(whole, forget=pairs), root.directory, tmp_path / "a", strength=0, report=nothing
    )
    child = learner.merge(root.directory, adapter.directory, tmp_path / "child")
    grandchild = learner.carry_over(child.directory, tmp_path / "next", job_id="next")
    kept = np.ones(len(whole.data), bool)
    kept[of_u3[5:]] = False
    rest = replace(whole.take(kept), forget=one_user("u3"))
    for parent in (child, grandchild):
        assert not learner.has_training_rows(rest, parent.directory)
        assert learner.must_retrain(rest, parent.directory)
        assert not learner.must_retrain(replace(rest, forget=one_user("u4")), parent.directory)


def test_release_from_before_the_record_is_retrained(root: Artifact) -> None:
    assert TrainingRecord.from_manifest({"bounds": {}}) is None
    extra = manifests.read_manifest(root.directory).extra
    record = TrainingRecord.from_manifest(extra)
    assert record == TrainingRecord(
        version=TRAINED, excluded=frozenset([PSEUDONYMS.user("u5")]), is_self_contained=True
    )


def test_database_older_than_the_release_is_retrained(root: Artifact) -> None:
    assert make_learner().must_retrain(recorded(one_user("u3"), TRAINED - 1), root.directory)
