"""Train, unlearn two batches and retrain with the pipeline's learner and real models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
import torch

from app.domain.errors import InvalidInputError
from app.domain.requests import Outcome
from app.settings import Settings
from models.checkpoints import checkpoint as checkpoints
from models.checkpoints import manifest as manifests
from models.prompts.scoring_inputs import Candidate, HistoryEvent
from models.recommender.base import Recommender
from models.recommender.factory import build
from models.training.step import DivergedError
from models.unlearning.apa import Apa, ApaConfig
from models.unlearning.base import NothingToForgetError
from models.unlearning.e2urec_fast import E2URecFast
from models.unlearning.finetuning import LoopConfig
from models.unlearning.neggrad import NegGrad, NegGradConfig
from models.unlearning.receraser import RecEraser, RecEraserConfig
from models.unlearning.registry import get_method
from models.unlearning.sisa import Sisa, SisaConfig
from tests.support.planted_tastes import CALIBRATION, RECIPE, planted
from worker.errors import UnlearningFailedError
from worker.learner import Artifact, DataSnapshot, ForgetSet
from worker.release_files import expected_loss_increases, person_calibration
from worker.trainer import ModelLearner
from worker.training_data import split_like

if TYPE_CHECKING:
    from pathlib import Path

    from models.data.forget_split import ForgetSplit
    from models.prompts.vocabulary import Vocabulary
    from models.runtime.progress import Progress
    from models.training.trainer import TrainConfig
    from models.unlearning.base import UnlearningMethod

pytestmark = pytest.mark.slow

HOLDOUT = frozenset(f"u{n}" for n in range(130, 150))
ONE = ForgetSet(users=frozenset(["u3"]))
FIRST = ForgetSet(users=frozenset(f"u{n}" for n in range(16)))
SECOND = ForgetSet(pairs=frozenset((f"u{n}", f"i{m}") for n in range(20, 30) for m in range(120)))


def nothing(fraction: float) -> None:
    """Ignore the progress."""


def take_snapshot(
    forget: ForgetSet,
    deleted: ForgetSet = ForgetSet(),  # noqa: B008 -- frozen
    job_id: str = "job",
) -> DataSnapshot:
    """Return a job's snapshot, without the rows of users that were deleted before."""
    data = planted()
    is_present = [data.users[index].id not in deleted.users for index in data.user.tolist()]
    return DataSnapshot(
        version=1,
        data=data.take(torch.tensor(is_present).numpy()),
        forget=forget,
        holdout=HOLDOUT,
        job_id=job_id,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """A trained release, the adapter that forgets FIRST, and the release merged from both."""

    learner: ModelLearner
    trained: Artifact
    delta: Artifact
    merged: Artifact
    progress: tuple[float, ...]


def make_learner(recipe: TrainConfig = RECIPE) -> ModelLearner:
    """Return a learner with a recipe for this small data set."""
    settings = Settings(method="e2urec-fast", seed=0)
    return ModelLearner(settings, lambda _backbone: recipe, CALIBRATION)


@pytest.fixture(scope="module")
def lineage(tmp_path_factory: pytest.TempPathFactory) -> Lineage:
    learner = make_learner()
    root = tmp_path_factory.mktemp("lineage")
    progress: list[float] = []
    trained = learner.train(
        take_snapshot(ForgetSet()), root / "trained", "compact", progress.append
    )
    snapshot = take_snapshot(FIRST, job_id="first")
    delta = learner.unlearn(snapshot, trained.directory, root / "delta", strength=0, report=nothing)
    merged = learner.merge(trained.directory, delta.directory, root / "merged")
    return Lineage(
        learner=learner, trained=trained, delta=delta, merged=merged, progress=tuple(progress)
    )


def weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    return checkpoints.read_weights(artifact.directory)


def test_unknown_method_raises() -> None:
    with pytest.raises(InvalidInputError, match="e2urec-fast"):
        ModelLearner(Settings(method="hope"))


def test_training_beats_baseline_and_reports_metrics(lineage: Lineage) -> None:
    metrics = lineage.trained.metrics
    assert metrics["test"]["model"]["auc"] > metrics["test"]["item_mean"]["auc"] > 0.5
    assert metrics["expected_rise"]["user"]["mean"] > 0
    assert metrics["rows"]["train"] > metrics["rows"]["holdout"] > 0
    assert lineage.trained.method == "retrain"


def test_training_progress_never_decreases(lineage: Lineage) -> None:
    assert list(lineage.progress) == sorted(lineage.progress)
    assert lineage.progress[0] >= 0
    assert 0.9 < lineage.progress[-1] <= 1


def test_delta_lists_parent_and_files_to_shred(lineage: Lineage) -> None:
    manifest = manifests.read_manifest(lineage.delta.directory)
    assert manifest.parent == lineage.trained.digest
    assert manifest.digest == lineage.delta.digest
    files = {path.name: path for path in lineage.delta.directory.iterdir()}
    assert lineage.delta.intermediates == {
        name: manifests.sha256_file(path) for name, path in files.items()
    }


def test_merged_release_inherits_manifest_entries(lineage: Lineage) -> None:
    before = manifests.read_manifest(lineage.trained.directory)
    after = manifests.read_manifest(lineage.merged.directory)
    assert after.parent == lineage.trained.digest
    assert after.digest == lineage.merged.digest != before.digest
    assert after.method == "e2urec-fast"
    assert after.extra["job"] == "first"
    assert all(after.extra[name] == before.extra[name] for name in ("bounds", "expected", "recipe"))
    assert weights(lineage.merged).keys() == weights(lineage.trained).keys()


def test_first_batch_does_not_fail_its_audit(lineage: Lineage) -> None:
    verdict = lineage.learner.audit(
        take_snapshot(FIRST),
        lineage.trained.directory,
        lineage.merged.directory,
        exact=False,
        report=nothing,
    )
    assert verdict.outcome in {Outcome.PASSED, Outcome.INCONCLUSIVE}, verdict.figures["reason"]
    assert verdict.figures["forget"]["interval"][0] > 0


def test_unchanged_release_fails_its_audit(lineage: Lineage, tmp_path: Path) -> None:
    unchanged = lineage.learner.carry_over(
        lineage.trained.directory, tmp_path / "unchanged", job_id="unchanged"
    )
    verdict = lineage.learner.audit(
        take_snapshot(FIRST),
        lineage.trained.directory,
        unchanged.directory,
        exact=False,
        report=nothing,
    )
    assert verdict.outcome == Outcome.FAILED


def test_second_batch_starts_from_first_batchs_release(lineage: Lineage, tmp_path: Path) -> None:
    learner, parent = lineage.learner, lineage.merged
    snapshot = take_snapshot(SECOND, deleted=FIRST, job_id="second")
    assert learner.has_training_rows(snapshot, parent.directory)
    delta = learner.unlearn(snapshot, parent.directory, tmp_path / "d", strength=0, report=nothing)
    merged = learner.merge(parent.directory, delta.directory, tmp_path / "f")
    assert manifests.read_manifest(merged.directory).parent == parent.digest
    assert merged.digest not in {parent.digest, lineage.trained.digest}
    learner.audit(snapshot, parent.directory, merged.directory, exact=False, report=nothing)
    with pytest.raises(manifests.CheckpointError, match="no adapter of release"):
        learner.merge(lineage.trained.directory, delta.directory, tmp_path / "wrong")


def test_carry_over_keeps_weights_and_changes_digest(lineage: Lineage, tmp_path: Path) -> None:
    carry = lineage.learner.carry_over
    first = carry(lineage.merged.directory, tmp_path / "first", job_id="first")
    second = carry(lineage.merged.directory, tmp_path / "second", job_id="second")
    assert len({lineage.merged.digest, first.digest, second.digest}) == 3
    assert first.method == "carry-over"
    before, after = weights(lineage.merged), weights(first)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("forget", "has_rows"),
    [
        (ForgetSet(users=frozenset(["u0"])), True),
        (ForgetSet(items=frozenset(["i0"])), True),
        (ForgetSet(users=frozenset(["u140"])), False),
        (ForgetSet(users=frozenset(["unknown"])), False),
        (ForgetSet(items=frozenset(["unknown"])), False),
        (ForgetSet(pairs=frozenset([("u140", "i0"), ("unknown", "i0")])), False),
        (ForgetSet(), False),
    ],
)
def test_has_training_rows_counts_training_rows_only(
    lineage: Lineage, tmp_path: Path, forget: ForgetSet, has_rows: bool
) -> None:
    snapshot, parent = take_snapshot(forget), lineage.trained.directory
    assert lineage.learner.has_training_rows(snapshot, parent) is has_rows
    if not has_rows:
        with pytest.raises(NothingToForgetError):
            lineage.learner.unlearn(snapshot, parent, tmp_path / "d", strength=0, report=nothing)


def test_progress_callback_interrupts_unlearning(lineage: Lineage, tmp_path: Path) -> None:
    def stop(fraction: float) -> None:
        raise InterruptedError(fraction)

    parent = lineage.trained.directory
    with pytest.raises(InterruptedError):
        lineage.learner.unlearn(
            take_snapshot(FIRST), parent, tmp_path / "delta", strength=0, report=stop
        )
    assert not (tmp_path / "delta").exists()


def test_retraining_equals_training_without_forgotten_rows(
    lineage: Lineage, tmp_path: Path
) -> None:
    """The weights are the same whether the snapshot includes the batch's rows or not."""
    snapshot = take_snapshot(FIRST, job_id="renew")
    learner = make_learner(replace(RECIPE, epochs=1))
    renewed = learner.train(snapshot, tmp_path / "renewed", "compact", nothing)
    absent = learner.train(
        take_snapshot(ForgetSet(), deleted=FIRST, job_id="renew"),
        tmp_path / "absent",
        "compact",
        nothing,
    )
    assert renewed.digest == absent.digest
    assert not learner.has_training_rows(
        take_snapshot(ForgetSet(), deleted=FIRST), renewed.directory
    )
    verdict = learner.audit(
        snapshot, lineage.trained.directory, renewed.directory, exact=True, report=nothing
    )
    assert verdict.outcome == Outcome.EXACT


def test_forgetting_all_users_saves_initial_weights(tmp_path: Path) -> None:
    learner = ModelLearner(Settings(hash_key=None))
    all_users = take_snapshot(ForgetSet(users=frozenset(f"u{n}" for n in range(150))))
    artifact = learner.train(all_users, tmp_path / "release", "compact", nothing)
    assert artifact.method == "untrained"
    assert not learner.has_training_rows(take_snapshot(FIRST), tmp_path / "release")
    release = checkpoints.load(tmp_path / "release")
    initial = Recommender(release.vocabulary, release.config).model.state_dict()
    assert all(
        torch.equal(tensor, initial[name]) for name, tensor in release.model.state_dict().items()
    )
    verdict = learner.audit(
        all_users, tmp_path / "release", tmp_path / "release", exact=True, report=nothing
    )
    assert verdict.outcome is Outcome.EXACT


@pytest.mark.parametrize(
    ("forget", "kinds"),
    [
        (FIRST, ()),
        (ForgetSet(items=frozenset(["i0"])), ("item",)),
        (ForgetSet(users=frozenset(["u0"]), pairs=frozenset([("u1", "i2"), ("u1", "i3")])), None),
        (ForgetSet(users=frozenset(["u140"])), ()),
    ],
    ids=["people", "an item", "a person and ratings", "a holdout person"],
)
def test_kinds_that_the_shadow_did_not_leave_out_are_unmeasured(
    lineage: Lineage, forget: ForgetSet, kinds: tuple[str, ...] | None
) -> None:
    """The calibration of this small data set leaves out people only."""
    snapshot, parent = take_snapshot(forget), lineage.trained.directory
    if kinds is None:
        present = split_like(snapshot, manifests.read_manifest(parent)).forget_kind
        assert set(present.tolist()) == {0, 2}
        kinds = ("pair",)
    assert lineage.learner.unmeasured_kinds(snapshot, parent) == kinds


def test_exact_and_uncalibrated_methods_need_no_measurement(lineage: Lineage) -> None:
    learner = make_learner()
    for name in ("retrain", "neggrad"):
        learner._method = get_method(name)
        snapshot = take_snapshot(ForgetSet(items=frozenset(["i0"])))
        assert learner.unmeasured_kinds(snapshot, lineage.trained.directory) == ()


class ShadowDiverges(E2URecFast):
    """Returns initial weights, and diverges in the training that leaves rows out."""

    def train(
        self, vocabulary: Vocabulary, prepared: ForgetSplit, recipe: TrainConfig, _: Progress
    ) -> Recommender:
        if len(prepared.forget):
            raise DivergedError(DivergedError.__doc__)
        return build(vocabulary, recipe.backbone)


def test_a_release_whose_shadow_diverged_has_no_calibration(tmp_path: Path) -> None:
    """The audits of its successors are inconclusive: `tests/models/audit/test_judgment.py`."""
    learner = make_learner()
    learner._method = ShadowDiverges()
    trained = learner.train(take_snapshot(ForgetSet()), tmp_path / "root", "compact", nothing)
    manifest = manifests.read_manifest(trained.directory)
    assert person_calibration(manifest) is None
    assert expected_loss_increases(manifest) == {}
    assert learner.unmeasured_kinds(take_snapshot(FIRST), tmp_path / "root") == ("user",)


def test_too_few_rows_raises(tmp_path: Path) -> None:
    snapshot = take_snapshot(ForgetSet())
    small = replace(snapshot, data=snapshot.data.take(snapshot.data.user < 1))
    with pytest.raises(InvalidInputError, match="too few"):
        ModelLearner(Settings(hash_key=None)).train(small, tmp_path / "release", "compact", nothing)


def test_complete_weights_of_method_become_release(lineage: Lineage, tmp_path: Path) -> None:
    learner = make_learner()
    learner._method = NegGrad(NegGradConfig(loop=LoopConfig(steps=5)))
    parent, snapshot = lineage.trained.directory, take_snapshot(FIRST, job_id="whole")
    left = learner.unlearn(snapshot, parent, tmp_path / "left", strength=0, report=nothing)
    # Weights before the merge have not been audited, so no gateway may load them.
    with pytest.raises(manifests.CheckpointError, match="release"):
        checkpoints.load(left.directory)
    release = learner.merge(parent, left.directory, tmp_path / "release")
    before = manifests.read_manifest(parent)
    after = manifests.read_manifest(release.directory)
    assert (after.method, after.parent, after.extra["job"]) == ("neggrad", before.digest, "whole")
    assert after.extra["expected"] == before.extra["expected"]
    old, new = weights(lineage.trained), weights(release)
    assert any(not torch.equal(old[name], new[name]) for name in old)
    assert checkpoints.load(release.directory).config == checkpoints.load(parent).config
    assert set(left.intermediates) == {path.name for path in left.directory.iterdir()}


def test_method_original_fails_its_audit(lineage: Lineage, tmp_path: Path) -> None:
    learner = make_learner()
    learner._method = get_method("original")
    parent, snapshot = lineage.trained.directory, take_snapshot(FIRST, job_id="noop")
    left = learner.unlearn(snapshot, parent, tmp_path / "left", strength=0, report=nothing)
    release = learner.merge(parent, left.directory, tmp_path / "release")
    verdict = learner.audit(snapshot, parent, release.directory, exact=False, report=nothing)
    assert verdict.outcome is Outcome.FAILED


@pytest.mark.parametrize(
    "method",
    [
        Sisa(SisaConfig(passes=1)),
        RecEraser(RecEraserConfig(steps=30, most_rows=256)),
        Apa(ApaConfig(passes=1)),
    ],
    ids=lambda method: method.name,
)
def test_ensemble_trains_unlearns_exactly_and_scores(
    method: UnlearningMethod, tmp_path: Path
) -> None:
    learner = make_learner(replace(RECIPE, epochs=1))
    learner._method = method
    root = learner.train(take_snapshot(ForgetSet()), tmp_path / "root", "compact", nothing)
    snapshot = take_snapshot(ONE, job_id="one")
    release = learner.unlearn(
        snapshot, root.directory, tmp_path / "release", strength=0, report=nothing
    )
    assert release.exact
    assert not release.needs_merge
    verdict = learner.audit(
        snapshot, root.directory, release.directory, exact=release.exact, report=nothing
    )
    assert verdict.outcome is Outcome.EXACT
    after = manifests.read_manifest(release.directory)
    assert (after.method, after.parent) == (method.name, None)
    holdout = take_snapshot(ForgetSet(users=frozenset(f"u{n}" for n in range(140, 145))))
    assert not learner.has_training_rows(holdout, release.directory)
    # Some ensembles learn the members' weights from validation rows.
    everything = take_snapshot(ForgetSet())
    valid, data = split_like(everything, after).parts.valid, everything.data
    pairs = frozenset(
        (data.users[user].id, data.items[item].id)
        for user, item in zip(valid.user[:5], valid.candidate[:5], strict=True)
    )
    selected = take_snapshot(ForgetSet(pairs=pairs))
    assert learner.has_training_rows(selected, release.directory) is (method.name != "sisa")
    loaded = checkpoints.load(release.directory)
    scores = loaded.score(
        {"taste": "odd"},
        [HistoryEvent(item_index=1, rating=4.5)],
        [Candidate(item_index, {"genre": ("odd",)}) for item_index in range(9)],
    )
    assert scores.shape == (9,)
    assert scores.std() > 0


def test_method_that_does_not_fit_release_raises(tmp_path: Path) -> None:
    """After a change of LETHE_METHOD, the learner requires a retraining."""
    learner = make_learner(replace(RECIPE, epochs=1))
    learner._method = Sisa(SisaConfig(passes=1))
    root = learner.train(take_snapshot(ForgetSet()), tmp_path / "root", "compact", nothing)
    learner._method = get_method("e2urec-fast")
    with pytest.raises(UnlearningFailedError):
        learner.unlearn(
            take_snapshot(ONE), root.directory, tmp_path / "left", strength=0, report=nothing
        )
    exact = learner.train(take_snapshot(ONE), tmp_path / "exact", root.directory, nothing)
    assert manifests.read_manifest(exact.directory).content["backbone"]["kind"] == "compact"
