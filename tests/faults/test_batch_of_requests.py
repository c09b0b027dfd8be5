"""Forget several people in one batch: each request keeps an outcome and figures of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from app.domain.catalog import Interaction
from app.domain.requests import Outcome
from app.services.forget import hold_forget, release_forget
from tests.faults.conftest import PERSON
from tests.support.file_learner import FileLearner
from worker.loop import run_once

if TYPE_CHECKING:
    from app.domain.requests import RequestJob
    from tests.faults.conftest import Installation

#: A person who came after the training.
LATE = "late-user"
#: Figures of a request that was unlearned in one attempt.
UNUSED = {"validation_rows": 0, "carried_over": False, "failed_attempts": 0}


def add_late_user(installation: Installation) -> None:
    rows = [Interaction(user_id=LATE, item_id=f"i{n}", rating=4.0, timestamp=n) for n in range(3)]
    with installation.context.uow_factory() as uow:
        uow.people.ensure_users([LATE])
        uow.people.upsert_interactions(rows, uow.state.bump("interactions"))


def audits(installation: Installation, request_id: str) -> list[RequestJob]:
    with installation.context.uow_factory(write=False) as uow:
        return uow.request_jobs.of_request(request_id)


def test_person_without_rows_in_the_weights_does_not_share_the_batchs_outcome(
    installation: Installation,
) -> None:
    add_late_user(installation)
    trained, late = installation.forget(PERSON), installation.forget(LATE)
    assert run_once(installation.context)
    assert installation.request(trained).outcome is Outcome.PASSED
    assert installation.request(late).outcome is Outcome.NOT_APPLICABLE
    (first,), (second,) = audits(installation, trained), audits(installation, late)
    assert first.job_id == second.job_id
    assert (first.outcome, second.outcome) == (Outcome.PASSED, Outcome.NOT_APPLICABLE)
    assert first.figures == {
        "forget": {"rows": 4, "left": 0, "persons": {"passed": 1}},
        "known_rows": 4,
        **UNUSED,
    }
    assert second.figures == {
        "forget": {"rows": 0, "left": 0, "persons": {"passed": 0}},
        "known_rows": 0,
        **UNUSED,
    }


def test_requests_with_different_scopes_have_different_figures(installation: Installation) -> None:
    requests = {
        "rating": installation.forget(PERSON, "i1"),
        "person": installation.forget(PERSON),
        "item": installation.forget_item("i1"),
    }
    assert run_once(installation.context)
    rows = {}
    for name, request_id in requests.items():
        (audit,) = audits(installation, request_id)
        assert audit.figures is not None
        rows[name] = audit.figures["forget"]["rows"]
    # Five of seven users rated i1, the person among them: a rating counts for three requests.
    assert rows == {"rating": 1, "person": 4, "item": 5}


def test_retraining_is_exact_for_each_request(installation: Installation) -> None:
    failing = FileLearner(installation.settings, [Outcome.FAILED, Outcome.FAILED])
    add_late_user(installation)
    requests = [installation.forget(user) for user in (PERSON, "u0", LATE)]
    assert run_once(replace(installation.context, learner=failing))
    outcomes = [installation.request(request_id).outcome for request_id in requests]
    assert outcomes == [Outcome.EXACT, Outcome.EXACT, Outcome.NOT_APPLICABLE]


def test_batch_without_training_rows_stores_no_rows_for_each_request(
    installation: Installation,
) -> None:
    add_late_user(installation)
    request_id = installation.forget(LATE)
    assert run_once(installation.context)
    (audit,) = audits(installation, request_id)
    assert audit.outcome is Outcome.NOT_APPLICABLE
    assert audit.figures == {"forget": {"rows": 0}, "known_rows": 0, **UNUSED, "carried_over": True}
    finding = installation.certificate(request_id)["finding"]
    assert "nothing had to be unlearned and the weights were kept" in finding["sentence"]


def test_request_of_a_deleted_person_gets_the_audit_of_the_deletion(
    installation: Installation,
) -> None:
    """The pair request is on hold and becomes part of the job that deletes the person."""
    add_late_user(installation)
    held = installation.forget(LATE, "i0")
    with installation.context.uow_factory() as uow:
        hold_forget(uow, held)
    installation.forget(PERSON)
    person = installation.forget(LATE)
    assert run_once(installation.context)
    assert audits(installation, person)[0].outcome is Outcome.NOT_APPLICABLE
    assert [(a.job_id, a.outcome, a.figures) for a in audits(installation, held)] == [
        (a.job_id, a.outcome, (a.figures or {}) | {"included_in": person})
        for a in audits(installation, person)
    ]
    assert person in installation.certificate(held)["finding"]["sentence"]
    assert installation.request(held).outcome is Outcome.NOT_APPLICABLE


@pytest.mark.parametrize("point", ["roll_out", "delete_rows", "shred", "certify"])
def test_figures_survive_a_worker_that_is_killed_after_the_publication(
    installation: Installation, point: str
) -> None:
    add_late_user(installation)
    trained, late = installation.forget(PERSON), installation.forget(LATE)
    process = installation.start_and_stop_at(point)
    before = audits(installation, trained) + audits(installation, late)
    installation.kill(process)
    installation.finish_elsewhere()
    assert [audit.outcome for audit in before] == [Outcome.PASSED, Outcome.NOT_APPLICABLE]
    assert audits(installation, trained) + audits(installation, late) == before
    assert installation.request(trained).outcome is Outcome.PASSED
    assert installation.request(late).outcome is Outcome.NOT_APPLICABLE


def add_late_item(installation: Installation) -> None:
    """Store an item that came after the training, with two raters."""
    rows = [Interaction(user_id=u, item_id="new", rating=4.0, timestamp=9) for u in ("u0", "u1")]
    with installation.context.uow_factory() as uow:
        uow.people.upsert_items([("new", "New", {})])
        uow.people.upsert_interactions(rows, uow.state.bump("interactions"))


def hold(installation: Installation, *pair: str) -> str:
    held = installation.forget(*pair)
    with installation.context.uow_factory() as uow:
        hold_forget(uow, held)
    return held


def test_request_of_a_deleted_item_gets_the_audit_of_the_deletion(
    installation: Installation,
) -> None:
    """The pair request is on hold and becomes part of the job that deletes its only item."""
    add_late_item(installation)
    held = hold(installation, "u0", "new")
    installation.forget(PERSON)
    item = installation.forget_item("new")
    assert run_once(installation.context)
    (audit,) = audits(installation, item)
    assert audit.outcome is Outcome.NOT_APPLICABLE
    assert [(a.outcome, a.figures) for a in audits(installation, held)] == [
        (audit.outcome, (audit.figures or {}) | {"included_in": item})
    ]
    assert installation.request(held).outcome is Outcome.NOT_APPLICABLE
    assert installation.certificate(held)["outcome"] == "not_applicable"


def test_certificate_cites_the_job_that_deleted_one_item_of_the_request(
    installation: Installation,
) -> None:
    held = hold(installation, "u0", "i1", "i2")
    item = installation.forget_item("i1")
    assert run_once(installation.context)
    first_job = installation.request(item).job_id or ""
    with installation.context.uow_factory() as uow:
        release_forget(uow, held)
    assert run_once(installation.context)
    certificate = installation.certificate(held)
    assert [job["id"] for job in certificate["jobs"]] == sorted(
        [first_job, installation.request(held).job_id or ""]
    )
