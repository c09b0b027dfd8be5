"""What `lethe forget` and `lethe jobs ID` print of an audit, with figures of real judgments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.domain.jobs import JobStatus, Stage
from app.domain.requests import Outcome
from app.services import jobs
from app.services.certificates import Evidence
from app.services.completion import finish
from app.services.secrets import load_signer
from app.settings import get_settings
from models.audit.outcomes import INCONCLUSIVE
from tests.support.command_line import document, lethe
from tests.support.judged_batches import judged_batch, judged_request, request_of

if TYPE_CHECKING:
    from tests.support.restorable import Restorable


def test_a_person_who_cannot_be_told_is_described_by_both_commands(
    installation: Restorable,
) -> None:
    request_id = installation.forget("ann")
    person = next(u for u, v in judged_batch().persons.items() if v.outcome == INCONCLUSIVE)
    tried = {"attempt": "try-0", "method": "e2urec-fast", "outcome": judged_batch().outcome}
    metrics = {"tries": [tried | {"audit": judged_batch().figures, "training": {}}]}

    def complete(uow: Any, _opened: Any) -> None:
        assert jobs.close_batch(uow, get_settings()) is not None
        claimed = jobs.claim(uow, "t", get_settings())
        assert claimed is not None
        _, lease = claimed
        uow.request_jobs.set_audit(lease.job_id, request_id, *judged_request(request_of(person)))
        jobs.advance(uow, lease, status=JobStatus.PUBLISHING, metrics=metrics)
        jobs.advance(uow, lease, status=JobStatus.ROLLING_OUT, stage=Stage.ROLL_OUT)
        evidence = Evidence(outcome=Outcome.PASSED, figures={"audit": judged_batch().figures})
        finish(uow, lease, load_signer(get_settings()), evidence)

    installation.run(complete)
    request = document("forget", "ann")
    sentence = request["finding"]["sentence"]
    assert sentence.startswith("The audit cannot tell from 50 rows whether this person")
    shown = " ".join(lethe("forget", "ann").stdout.split())
    assert sentence in shown
    assert "passed" not in shown
    job = document("jobs", request["job_id"])
    assert [found["sentence"] for found in job["findings"]] == [sentence]
    text = " ".join(lethe("jobs", request["job_id"]).stdout.split())
    assert "try-0: 32 people in the batch: the audit passed for" in text
    assert request_id in text
    assert "The audit cannot tell from 50 rows" in text
