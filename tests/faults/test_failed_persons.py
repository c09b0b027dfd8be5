"""Persons whose audit fails: the whole batch goes to an exact training, which certificates cite."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.requests import Assurance, Outcome
from tests.faults.conftest import PERSON
from tests.faults.test_real_learner import real_installation
from tests.support.file_learner import FileLearner
from tests.support.judged_batches import judged_batch, masks, request_of, user_of_row
from worker.loop import run_once
from worker.trainer import ModelLearner
from worker.verdicts import judged_requests, release_verdict

if TYPE_CHECKING:
    from pathlib import Path

    from app.domain.jobs import Job
    from app.domain.releases import Release
    from models.runtime.progress import Progress
    from tests.faults.conftest import Installation
    from worker.learner import Artifact, DataSnapshot, Verdict

__all__ = ["real_installation"]


class JudgingLearner(FileLearner):
    """Audits fast candidates with the product's judgment of a batch of synthetic people.

    The requests of a job are the first people of the batch, in the order of their ids; the first
    `untouched` of them were not forgotten.
    """

    untouched = 0

    def audit(
        self,
        snapshot: DataSnapshot,
        parent: Path,
        candidate: Path,
        *,
        exact: bool,
        report: Progress,
    ) -> Verdict:
        verdict = super().audit(snapshot, parent, candidate, exact=exact, report=report)
        if exact:
            return verdict
        judged = judged_batch(self.untouched)
        outcome, figures = release_verdict(judged)
        measured = judged_requests(judged, masks(), user_of_row())
        by_request = {
            request_id: replace(
                verdict.by_request[request_id],
                forget=measured[request_of(person)],
            )
            for person, request_id in enumerate(sorted(snapshot.requests))
        }
        return replace(verdict, outcome=outcome, figures=figures, by_request=by_request)


def forget_two(installation: Installation, untouched: int) -> list[str]:
    """Forget two people in one batch; return the ids of the requests."""
    learner = JudgingLearner(installation.settings)
    learner.untouched = untouched
    request_ids = [installation.forget("u0"), installation.forget("u1")]
    assert run_once(replace(installation.context, learner=learner))
    return request_ids


def job_and_releases(installation: Installation, request_id: str) -> tuple[Job, list[Release]]:
    with installation.context.uow_factory(write=False) as uow:
        job = uow.jobs.get(uow.requests.get(request_id).job_id or "")
        return job, uow.releases.page(10, None)


def test_one_failed_person_sends_the_whole_batch_to_exact_training(
    installation: Installation,
) -> None:
    request_ids = forget_two(installation, untouched=1)
    job, releases = job_and_releases(installation, request_ids[0])
    # No release of fast unlearning was published: only those of the two trainings exist.
    assert [release.method for release in releases] == ["retrain", "retrain"]
    assert [audit["outcome"] for audit in job.metrics["tries"]] == ["failed", "failed", "passed"]
    for request_id in request_ids:
        request = installation.request(request_id)
        assert (request.outcome, request.assurance) == (Outcome.EXACT, Assurance.EXACT)
        certificate = installation.certificate(request_id)
        assert certificate["method"] == "retrain"
        (cited,) = certificate["jobs"]
        assert (cited["id"], cited["outcome"], cited["method"]) == (job.id, "exact", "retrain")
        assert [audit["outcome"] for audit in cited["audits"][:2]] == ["failed", "failed"]
        assert "1 of 32 people failed" in cited["audits"][0]["sentence"]
        assert "These weights were never served." in cited["audits"][0]["sentence"]
        finding = certificate["finding"]
        assert finding["outcome"] == "exact"
        assert finding["failed_attempts"] == 2
        assert finding["sentence"].startswith(
            "2 attempts at fast unlearning failed the audit and were never served. "
        )


def test_each_person_has_an_own_finding_where_no_person_fails(installation: Installation) -> None:
    request_ids = forget_two(installation, untouched=0)
    outcomes = {}
    for person, request_id in enumerate(sorted(request_ids)):
        certificate = installation.certificate(request_id)
        finding = certificate["finding"]
        verdict = judged_batch().persons[person]
        assert (finding["outcome"], finding["reason"]) == (verdict.outcome, verdict.reason)
        assert (finding["share"], finding["rows"]) == (pytest.approx(verdict.share), verdict.rows)
        assert finding["interval"] == pytest.approx(list(verdict.interval or ()))
        assert finding["confidence"] == pytest.approx(0.9)
        assert certificate["outcome"] == finding["outcome"]
        assert ("The audit passed" in finding["sentence"]) is (verdict.outcome == "passed")
        assert certificate["batch"]["outcome"] == "passed"
        outcomes[request_id] = installation.request(request_id).outcome
    assert {outcome.value for outcome in outcomes.values() if outcome} == {
        judged_batch().persons[person].outcome for person in (0, 1)
    }


class IdleLearner(ModelLearner):
    """Presents the parent's weights as unlearned."""

    def unlearn(
        self, snapshot: DataSnapshot, parent: Path, into: Path, *, strength: int, report: Progress
    ) -> Artifact:
        del strength
        report(1.0)
        artifact = self.carry_over(parent, into, job_id=snapshot.job_id)
        return replace(artifact, needs_merge=False)


@pytest.mark.slow
def test_real_models_that_forgot_no_person_are_replaced_by_exact_training(
    real_installation: Installation,
) -> None:
    learner = IdleLearner(real_installation.settings)
    request_id = real_installation.forget()
    assert run_once(replace(real_installation.context, learner=learner))
    job, releases = job_and_releases(real_installation, request_id)
    assert [release.method for release in releases] == ["retrain", "retrain"]
    first, second, exact = job.metrics["tries"]
    for attempt in (first, second):
        assert attempt["outcome"] == "failed"
        assert attempt["audit"]["people"] == {"passed": 0, "failed": 1, "inconclusive": 0}
        assert "nothing was unlearned" in attempt["audit"]["reason"]
    assert exact["outcome"] == "exact"
    certificate: dict[str, Any] = real_installation.certificate(request_id)
    (cited,) = certificate["jobs"]
    assert (cited["id"], cited["method"], cited["outcome"]) == (job.id, "retrain", "exact")
    assert (
        "1 person in the batch: the audit passed for 0, failed for 1"
        in (cited["audits"][0]["sentence"])
    )
    assert (certificate["outcome"], certificate["assurance"]) == ("exact", "exact")
    assert certificate["finding"]["failed_attempts"] == 2
    assert PERSON not in str(certificate)
