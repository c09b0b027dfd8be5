"""Run the pipeline in the test process: escalation, scopes, failures, later batches."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from app.domain.batch_audits import audits_of
from app.domain.jobs import JobKind, JobStatus, Stage
from app.domain.releases import ReleaseStatus
from app.domain.requests import Outcome, RequestStatus
from tests.faults.conftest import PERSON
from tests.support.file_learner import FileLearner, read_weights
from worker.loop import run_forever, run_once
from worker.stages.snapshot import take_snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from app.domain.jobs import Job
    from app.domain.releases import Release
    from models.runtime.progress import Progress
    from tests.faults.conftest import Installation
    from worker.context import WorkerContext
    from worker.learner import Artifact, DataSnapshot

FAILED, UNSURE, PASSED = Outcome.FAILED, Outcome.INCONCLUSIVE, Outcome.PASSED


def with_verdicts(installation: Installation, *verdicts: Outcome) -> WorkerContext:
    return replace(installation.context, learner=FileLearner(installation.settings, list(verdicts)))


def live_release(installation: Installation) -> Release:
    with installation.context.uow_factory(write=False) as uow:
        release = uow.releases.get(uow.releases.alias().live or "")
    assert release is not None
    return release


def job_of(installation: Installation, request_id: str) -> Job:
    with installation.context.uow_factory(write=False) as uow:
        return uow.jobs.get(uow.requests.get(request_id).job_id or "")


@pytest.mark.parametrize(
    ("verdicts", "attempts", "outcome"),
    [
        ([PASSED], ["try-0"], Outcome.PASSED),
        ([FAILED, PASSED], ["try-0", "try-1"], Outcome.PASSED),
        ([FAILED, UNSURE], ["try-0", "try-1"], Outcome.INCONCLUSIVE),
        ([FAILED, FAILED], ["try-0", "try-1", "exact"], Outcome.EXACT),
        ([UNSURE], ["try-0"], Outcome.INCONCLUSIVE),
    ],
)
def test_failed_audits_escalate_to_stronger_then_exact(
    installation: Installation,
    verdicts: list[Outcome],
    attempts: list[str],
    outcome: Outcome,
) -> None:
    request_id = installation.forget()
    assert run_once(with_verdicts(installation, *verdicts))
    installation.check_forgotten(request_id)
    job = job_of(installation, request_id)
    assert [attempt["attempt"] for attempt in job.metrics["tries"]] == attempts
    release = live_release(installation)
    assert release.outcome is outcome
    assert installation.request(request_id).outcome is outcome
    assert job.method == release.method


class ExactLearner(FileLearner):
    """Unlearns exactly, so that audits skip the gates that compare with the parent."""

    def unlearn(
        self, snapshot: DataSnapshot, parent: Path, into: Path, *, strength: int, report: Progress
    ) -> Artifact:
        artifact = super().unlearn(snapshot, parent, into, strength=strength, report=report)
        return replace(artifact, exact=True)


def test_exact_method_skips_the_gates(installation: Installation) -> None:
    installation.forget("u0")
    assert run_once(with_verdicts(installation, UNSURE))
    request_id = installation.forget("u1")
    learner = ExactLearner(installation.settings, [FAILED, FAILED])
    assert run_once(replace(installation.context, learner=learner))
    (attempt,) = job_of(installation, request_id).metrics["tries"]
    assert attempt["audit"]["exact"] is True
    assert live_release(installation).outcome is Outcome.EXACT


class UnmeasuredLearner(FileLearner):
    """Says that fast unlearning of single interactions is not shown to help."""

    def unmeasured_kinds(self, snapshot: DataSnapshot, parent: Path) -> tuple[str, ...]:
        del snapshot, parent
        return ("pair",)


def test_a_batch_that_fast_unlearning_may_not_help_is_trained_exactly(
    installation: Installation,
) -> None:
    request_id = installation.forget()
    learner = UnmeasuredLearner(installation.settings)
    assert run_once(replace(installation.context, learner=learner))
    installation.check_forgotten(request_id)
    job = job_of(installation, request_id)
    assert [attempt["attempt"] for attempt in job.metrics["tries"]] == ["exact"]
    assert live_release(installation).outcome is Outcome.EXACT
    (audit,) = audits_of(job)
    assert audit["sentence"].endswith(
        "on this release, it is not shown that it moves answers about single interactions toward"
        " those of retraining."
    )


def test_fast_unlearning_is_tried_always_if_the_operator_says_so(
    installation: Installation,
) -> None:
    request_id = installation.forget()
    settings = installation.settings.model_copy(update={"fast": "always"})
    learner = UnmeasuredLearner(settings)
    assert run_once(replace(installation.context, settings=settings, learner=learner))
    job = job_of(installation, request_id)
    (attempt,) = job.metrics["tries"]
    assert (attempt["attempt"], attempt["unmeasured_kinds"]) == ("try-0", [])


def test_the_reason_of_an_interrupted_claim_is_not_given_for_another_claim(
    installation: Installation,
) -> None:
    """LETHE_FAST changes between two claims of a job, the second of which tries and fails."""
    request_id = installation.forget()
    stop = threading.Event()

    def stop_at(stage: Stage) -> None:
        if stage is Stage.TRAIN:
            stop.set()

    learner = UnmeasuredLearner(installation.settings)
    unmeasured = replace(installation.context, learner=learner)
    assert run_once(unmeasured, stop=stop, on_stage=stop_at)
    assert not job_of(installation, request_id).metrics.get("tries")

    settings = installation.settings.model_copy(update={"fast": "always"})
    learner = UnmeasuredLearner(settings, [FAILED, FAILED])
    assert run_once(replace(installation.context, settings=settings, learner=learner))

    audits = audits_of(job_of(installation, request_id))
    assert [audit["attempt"] for audit in audits] == ["try-0", "try-1", "exact"]
    assert not any("not tried" in audit["sentence"] for audit in audits)


class ReplacingLearner(FileLearner):
    """Unlearns into a complete release, like a method that replaces the parent's adapter."""

    def unlearn(
        self, snapshot: DataSnapshot, parent: Path, into: Path, *, strength: int, report: Progress
    ) -> Artifact:
        delta = super().unlearn(
            snapshot, parent, into.parent / "delta", strength=strength, report=report
        )
        release = super().merge(parent, delta.directory, into)
        return replace(release, needs_merge=False)

    def merge(self, parent: Path, adapter: Path, into: Path) -> Artifact:
        raise AssertionError((parent, adapter, into))


def test_complete_release_is_not_merged(installation: Installation) -> None:
    request_id = installation.forget()
    learner = ReplacingLearner(installation.settings, [FAILED, PASSED])
    stages: list[Stage] = []
    assert run_once(replace(installation.context, learner=learner), on_stage=stages.append)
    installation.check_forgotten(request_id)
    assert Stage.MERGE not in stages
    assert live_release(installation).outcome is Outcome.PASSED


def test_job_records_seconds_of_each_stage(installation: Installation) -> None:
    request_id = installation.forget("u0")
    assert run_once(with_verdicts(installation, FAILED, PASSED))
    seconds = job_of(installation, request_id).metrics["stage_seconds"]
    assert list(seconds) == [
        *("snapshot", "unlearn", "merge", "audit", "publish"),
        *("roll_out", "delete_rows", "shred"),
    ]
    assert all(value > 0 for value in seconds.values())


def test_deletion_before_first_release_deletes_rows_only(
    empty_installation: Installation,
) -> None:
    request_id = empty_installation.forget()
    assert run_once(empty_installation.context)
    empty_installation.check_forgotten(request_id)
    request = empty_installation.request(request_id)
    assert (request.outcome, request.release) == (Outcome.NOT_APPLICABLE, None)
    empty_installation.train()
    directory = empty_installation.context.artifacts.local_path(
        live_release(empty_installation).path
    )
    assert PERSON not in {user for user, _ in read_weights(directory)}


def test_batch_without_training_rows_gets_new_release(
    installation: Installation,
) -> None:
    with installation.context.uow_factory() as uow:
        uow.people.ensure_users(["idle", "idler"])
    release_ids = [live_release(installation).id]
    for user in ("idle", "idler"):
        request_id = installation.forget(user)
        assert run_once(installation.context)
        request = installation.request(request_id)
        assert (request.status, request.outcome) == (
            RequestStatus.COMPLETED,
            Outcome.NOT_APPLICABLE,
        )
        release_ids.append(live_release(installation).id)
    assert len(set(release_ids)) == 3


def test_pairs_and_items_are_forgotten(installation: Installation) -> None:
    with installation.context.uow_factory(write=False) as uow:
        history = uow.people.history(PERSON)
    pair_request = installation.forget(PERSON, history[0].item_id)
    item_request = installation.forget_item(history[1].item_id)
    assert run_once(installation.context)
    for request_id in (pair_request, item_request):
        assert installation.request(request_id).status is RequestStatus.COMPLETED
    rows = read_weights(installation.context.artifacts.local_path(live_release(installation).path))
    assert [PERSON, history[0].item_id] not in rows
    assert history[1].item_id not in {item for _, item in rows}
    assert [PERSON, history[2].item_id] in rows


def test_snapshot_omits_rows_of_later_batches(installation: Installation) -> None:
    context = installation.context
    installation.forget("u1", "i1")
    installation.forget("u2")
    with context.uow_factory(write=False) as uow:
        counts = uow.people.counts()
        omitted_rows = len(uow.people.history("u2")) + 1
    snapshot = take_snapshot(context.uow_factory, context.pseudonyms, job_id="none")
    users = [user.id for user in snapshot.data.users]
    pairs = {
        (users[user], snapshot.data.items[item].id)
        for user, item in zip(snapshot.data.user, snapshot.data.item, strict=True)
    }
    assert "u2" not in users
    assert ("u1", "i1") not in pairs
    assert len(snapshot.data) == counts["interactions"] - omitted_rows


def test_renewal_replaces_release_by_retraining(installation: Installation) -> None:
    first = live_release(installation)
    installation.train(JobKind.RENEW)
    second = live_release(installation)
    assert (second.outcome, second.parent) == (Outcome.EXACT, first.id)
    assert installation.context.artifacts.published() == [second.path]


class BrokenLearner(FileLearner):
    """Raises an error with personal data in its message."""

    def has_training_rows(self, snapshot: DataSnapshot, parent: Path) -> bool:
        raise KeyError(parent, *snapshot.forget.users)


def test_failing_job_keeps_release_and_logs_no_user_id(
    installation: Installation, capfd: pytest.CaptureFixture[str]
) -> None:
    before = live_release(installation)
    request_id = installation.forget()
    broken = replace(installation.context, learner=BrokenLearner(installation.settings))
    capfd.readouterr()
    for _ in range(installation.settings.request_failures):
        assert run_once(broken)
    output = capfd.readouterr()
    assert "job_error" in output.out + output.err
    assert PERSON not in output.out + output.err
    # The stage fails for every batch, so the request is not dead.
    request = installation.request(request_id)
    assert (request.status, request.failures) == (RequestStatus.BATCHED, 0)
    assert request.last_failure == "snapshot: KeyError"
    with installation.context.uow_factory(write=False) as uow:
        jobs = uow.jobs.page(10, None)
    forget_jobs = [job for job in jobs if job.kind is JobKind.FORGET]
    assert {job.status for job in forget_jobs} == {JobStatus.FAILED}
    assert all(job.error == "snapshot: KeyError" for job in forget_jobs)
    assert live_release(installation) == before
    assert installation.staged() == []


def test_error_after_flip_leaves_job_to_next_claim(
    installation: Installation,
) -> None:
    request_id = installation.forget()

    def fail(stage: Stage) -> None:
        if stage is Stage.SHRED:
            raise OSError

    assert run_once(installation.context, on_stage=fail)
    assert job_of(installation, request_id).status is JobStatus.ROLLING_OUT
    run_forever(installation.context, threading.Event(), until_idle=True)
    installation.check_forgotten(request_id)


def test_stop_gives_job_back_at_once(installation: Installation) -> None:
    request_id = installation.forget()
    stop = threading.Event()

    def stop_at(stage: Stage) -> None:
        if stage is Stage.AUDIT:
            stop.set()

    assert run_once(installation.context, stop=stop, on_stage=stop_at)
    assert job_of(installation, request_id).status is JobStatus.AUDITING
    assert run_once(
        installation.context
    )  # The lease was given back, so the next claim need not wait.
    installation.check_forgotten(request_id)


def test_unserved_candidates_are_shredded(installation: Installation) -> None:
    request_id = installation.forget()

    def fail(stage: Stage) -> None:
        if stage is Stage.ROLL_OUT:
            raise OSError

    assert run_once(installation.context, on_stage=fail)
    with installation.context.uow_factory(write=False) as uow:
        statuses = {release.status for release in uow.releases.unshredded()}
    assert statuses == {ReleaseStatus.CANDIDATE, ReleaseStatus.LIVE}
    assert run_once(installation.context)
    installation.check_forgotten(request_id)


def test_adapters_of_old_releases_are_shredded(
    installation: Installation,
) -> None:
    """A gateway that died leaves adapters, from which forgotten data could be recovered."""
    store = installation.context.artifacts
    old = live_release(installation).id
    for release_id in (old, "rel_of_a_lost_row"):
        with store.writing_adapter(release_id) as directory:
            (directory / "adapter_model.safetensors").write_text(PERSON)
    request_id = installation.forget()
    assert run_once(installation.context)
    installation.check_forgotten(request_id)
    assert store.adapters() == []
    certificate = installation.certificate(request_id)
    shredded = certificate["shredded"]
    assert f"adapters/{old}/adapter_model.safetensors" in shredded


def test_adapter_of_live_release_stays(installation: Installation) -> None:
    request_id = installation.forget()
    store = installation.context.artifacts

    def prepare(stage: Stage) -> None:
        if stage is Stage.SHRED:
            with store.writing_adapter(live_release(installation).id) as directory:
                (directory / "adapter_model.safetensors").write_text("an adapter")

    assert run_once(installation.context, on_stage=prepare)
    installation.check_forgotten(request_id)
    assert store.adapters() == [live_release(installation).id]
