"""Make approximate deletions exact: certificates, killed renewals, consent, keys, poor weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.domain.jobs import JobKind, JobStatus, Stage
from app.domain.ledger import LedgerEvent
from app.domain.renewal import ExactMode
from app.domain.requests import Assurance, Outcome, RequestStatus
from app.services import exactness, signing_keys
from app.services.certificates import certificates_of, content_of, envelope_digest
from app.services.forget import cancel_forget
from app.services.jobs import cancel, start_training
from app.services.signatures import verify
from app.services.suppression import record_consent
from tests.faults.conftest import PERSON, close, fill, make_installation
from tests.support.file_learner import FileLearner, read_weights
from worker.loop import run_once
from worker.stages import shred

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from app.domain.certificates import Certificate
    from app.domain.jobs import Job
    from app.storage.engine import Database
    from models.runtime.progress import Progress
    from tests.faults.conftest import Installation
    from worker.learner import DataSnapshot, Verdict

pytestmark = pytest.mark.slow

STAGES = (
    *("snapshot", "train", "audit", "publish", "publishing", "roll_out"),
    *("shred", "certify", "signed", "chunk", "finished"),
)


def certificates(installation: Installation, request_id: str) -> list[Certificate]:
    with installation.context.uow_factory(write=False) as uow:
        return certificates_of(uow, request_id)


def contents(installation: Installation, request_id: str) -> list[dict[str, Any]]:
    """Return the contents of the request's certificates, each verified with its published key."""
    with installation.context.uow_factory(write=False) as uow:
        keys = [signing_keys.trusted_key(key) for key in uow.signing_keys.all()]
    return [verify(c.envelope, keys).content for c in certificates(installation, request_id)]


def kinds(installation: Installation, request_id: str) -> list[str]:
    return [certificate.kind for certificate in certificates(installation, request_id)]


def start_renewal(installation: Installation, **settings: Any) -> str:
    with installation.context.uow_factory() as uow:
        return start_training(uow, JobKind.RENEW, settings).id


def job(installation: Installation, job_id: str) -> Job:
    with installation.context.uow_factory(write=False) as uow:
        return uow.jobs.get(job_id)


def live_path(installation: Installation) -> str:
    with installation.context.uow_factory(write=False) as uow:
        release = uow.releases.get(uow.releases.alias().live or "")
    assert release is not None
    return release.path


def forgotten(installation: Installation, user_id: str = PERSON) -> str:
    """Complete an approximate deletion and return its request's id."""
    request_id = installation.forget(user_id)
    assert run_once(installation.context)
    request = installation.request(request_id)
    assert (request.status, request.assurance) == (
        RequestStatus.COMPLETED,
        Assurance.APPROXIMATE,
    )
    return request_id


def forgotten_together(installation: Installation, number: int) -> list[str]:
    """Complete approximate deletions of so many users in one job; return their requests' ids."""
    request_ids = [installation.forget(f"u{index}") for index in range(number)]
    assert run_once(installation.context)
    for request_id in request_ids:
        assert installation.request(request_id).assurance is Assurance.APPROXIMATE
    return request_ids


def exact_records(installation: Installation) -> list[str | None]:
    """Return the request id of each ledger record `exact` whose transaction has committed."""
    ledger = installation.context.uow_factory.ledger
    assert ledger is not None
    with installation.context.uow_factory(write=False) as uow:
        head = uow.state.ledger_head()
    assert head is not None
    entries = [ledger.entry(number) for number in range(1, head.number + 1)]
    return [
        record.request_id
        for entry in entries
        if entry is not None
        for record in entry.records
        if record.event is LedgerEvent.EXACT
    ]


def check_exact(installation: Installation, request_id: str, job_id: str) -> dict[str, Any]:
    """Assert what an exact deletion promises; return the content of its exact certificate."""
    request = installation.request(request_id)
    renewal = job(installation, job_id)
    assert (request.assurance, request.exact_job_id) == (Assurance.EXACT, job_id)
    assert request.exact_at is not None
    assert request.completed_at is not None
    assert request.exact_at > request.completed_at
    deletion, exact = contents(installation, request_id)
    assert (deletion["kind"], deletion["assurance"]) == ("deletion", "approximate")
    assert (exact["kind"], exact["number"], exact["assurance"]) == ("exact", 2, "exact")
    assert exact["cites"]["number"] == 1
    first, _ = certificates(installation, request_id)
    assert exact["cites"]["sha256"] == envelope_digest(first.envelope)
    assert exact["cites"]["key_id"] == deletion["key_id"]
    assert exact["subject_hashes"] == deletion["subject_hashes"]
    assert exact["release"] == renewal.release != deletion["release"]
    assert exact["training"]["data_version"] == renewal.snapshot_version
    assert [entry["id"] for entry in exact["jobs"]] == [request.job_id, job_id]
    assert exact_records(installation).count(request_id) == 1
    with installation.context.uow_factory(write=False) as uow:
        audits = {a.job_id: a.outcome for a in uow.request_jobs.of_request(request_id)}
    assert audits[job_id] is Outcome.EXACT
    # The approximate release is destroyed.
    assert installation.context.artifacts.published() == [live_path(installation)]
    with installation.context.uow_factory(write=False) as uow:
        old_ids = (deletion["release"], renewal.parent_release)
        first_release, parent = [uow.releases.get(release_id or "") for release_id in old_ids]
    assert first_release is not None
    assert first_release.shredded_at is not None
    assert parent is not None
    assert parent.digest in exact["shredded"].values()
    assert installation.staged() == []
    return exact


def test_renewal_makes_a_deletion_exact(installation: Installation) -> None:
    request_id = forgotten(installation)
    job_id = start_renewal(installation)
    assert run_once(installation.context)
    content = check_exact(installation, request_id, job_id)
    assert content["returned"] is None
    assert content["open"] == []
    assert content["training"]["seed"] == 0
    assert not run_once(installation.context)
    installation.train(JobKind.RENEW)  # A later renewal has nothing to pay.
    assert kinds(installation, request_id) == ["deletion", "exact"]


@pytest.mark.parametrize("point", STAGES)
def test_killed_renewal_is_continued_without_a_second_certificate(
    installation: Installation, point: str
) -> None:
    request_ids = forgotten_together(installation, 2)
    job_id = start_renewal(installation)
    installation.kill(installation.start_and_stop_at(point))
    installation.finish_elsewhere()
    assert job(installation, job_id).status is JobStatus.SUCCEEDED
    for request_id in request_ids:
        check_exact(installation, request_id, job_id)


@pytest.mark.parametrize("kind", [JobKind.TRAIN, JobKind.FORGET])
def test_every_training_from_scratch_pays_the_debts(
    installation: Installation, kind: JobKind
) -> None:
    request_id = forgotten(installation)
    if kind is JobKind.TRAIN:
        installation.train()
    else:
        later_id = installation.forget("u1")
        learner = FileLearner(installation.settings, [Outcome.FAILED, Outcome.FAILED])
        assert run_once(replace(installation.context, learner=learner))
        later = installation.request(later_id)
        # The training saw no row of its own request either.
        assert (later.assurance, later.exact_at) == (Assurance.EXACT, later.completed_at)
        (content,) = contents(installation, later_id)
        assert (content["kind"], content["assurance"]) == ("deletion", "exact")
    exact_job_id = installation.request(request_id).exact_job_id
    assert exact_job_id is not None
    check_exact(installation, request_id, exact_job_id)


def test_carry_over_does_not_make_earlier_deletions_exact(installation: Installation) -> None:
    request_id = forgotten(installation)
    with installation.context.uow_factory() as uow:
        uow.people.ensure_users(["idle"])
    idle_id = installation.forget("idle")
    assert run_once(installation.context)
    assert installation.request(request_id).assurance is Assurance.APPROXIMATE
    # No row of the person exists, so nothing saw one.
    idle = installation.request(idle_id)
    assert (idle.outcome, idle.assurance) == (Outcome.NOT_APPLICABLE, Assurance.EXACT)


def test_chunks_end_with_the_job(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exactness, "REQUESTS_PER_TRANSACTION", 2)
    request_ids = forgotten_together(installation, 4)
    job_id = start_renewal(installation)
    assert run_once(installation.context)
    for request_id in request_ids:
        check_exact(installation, request_id, job_id)
    assert job(installation, job_id).status is JobStatus.SUCCEEDED


def test_key_rotation_between_the_certificates(installation: Installation) -> None:
    request_id = forgotten(installation)
    with installation.context.uow_factory() as uow:
        signing_keys.rotate(uow, installation.settings)
    job_id = start_renewal(installation)
    assert run_once(installation.context)
    content = check_exact(installation, request_id, job_id)
    assert content["key_id"] != content["cites"]["key_id"]
    assert content["key_id"] == installation.context.signer.key_id


def test_retired_key_certifies_nothing_and_the_job_continues(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker may have registered a newer key while this worker trained."""
    request_id = forgotten(installation)
    job_id = start_renewal(installation)
    own_key = installation.context.signer
    newer = type(own_key)(Ed25519PrivateKey.generate())
    with installation.context.uow_factory() as uow:
        signing_keys.register(uow, newer)
    assert run_once(installation.context)
    assert kinds(installation, request_id) == ["deletion"]
    assert job(installation, job_id).status is JobStatus.ROLLING_OUT
    monkeypatch.setattr(type(installation.context), "signer", newer)
    while job(installation, job_id).status is JobStatus.ROLLING_OUT:
        assert run_once(installation.context)
    check_exact(installation, request_id, job_id)


def test_consent_during_a_renewal_is_stated(installation: Installation) -> None:
    request_id = forgotten(installation)
    job_id = start_renewal(installation)

    def consent(stage: Stage) -> None:
        if stage is Stage.TRAIN:
            with installation.context.uow_factory() as uow:
                assert record_consent(uow, installation.context.pseudonyms, PERSON) == 1

    assert run_once(installation.context, on_stage=consent)
    content = check_exact(installation, request_id, job_id)
    assert content["returned"] is not None
    assert content["returned"]["since"] < content["exact_at"]


def test_deletion_during_a_renewal_is_not_covered_by_it(installation: Installation) -> None:
    request_id = forgotten(installation)
    job_id = start_renewal(installation)
    later_ids: list[str] = []

    def forget(stage: Stage) -> None:
        if stage is Stage.TRAIN:
            later_ids.append(installation.forget("u1"))

    assert run_once(installation.context, on_stage=forget)
    check_exact(installation, request_id, job_id)
    assert installation.request(later_ids[0]).assurance is Assurance.NONE
    assert run_once(installation.context)
    assert installation.request(later_ids[0]).assurance is Assurance.APPROXIMATE
    assert kinds(installation, later_ids[0]) == ["deletion"]


def test_deletion_before_a_renewal_that_left_it_out_is_exact_at_completion(
    installation: Installation,
) -> None:
    """The renewal's snapshot leaves out the rows of every request that was accepted before it."""
    earlier_id = forgotten(installation)
    job_id = start_renewal(installation)
    waiting_id = installation.forget("u1")
    assert run_once(installation.context)
    check_exact(installation, earlier_id, job_id)
    assert run_once(installation.context)
    request = installation.request(waiting_id)
    assert (request.outcome, request.assurance) == (Outcome.NOT_APPLICABLE, Assurance.EXACT)
    (content,) = contents(installation, waiting_id)
    assert content["figures"]["known_rows"] == 0
    assert content["exact_at"] == content["completed_at"]


def test_cancelled_request_during_a_renewal_stays_out_of_everything(
    database: Database, tmp_path: Path
) -> None:
    installation = make_installation(database, tmp_path, LETHE_CANCEL_WINDOW="60")
    try:
        fill(installation.context)
        installation.train()
        request_id = installation.forget()
        start_renewal(installation)

        def cancel_request(stage: Stage) -> None:
            if stage is Stage.AUDIT:
                with installation.context.uow_factory() as uow:
                    cancel_forget(uow, request_id)

        assert run_once(installation.context, on_stage=cancel_request)
        request = installation.request(request_id)
        assert (request.status, request.assurance) == (RequestStatus.CANCELLED, Assurance.NONE)
        assert kinds(installation, request_id) == []
        # The renewal left the person's rows out, and the next one has them again.
        users = read_users(installation)
        assert PERSON not in users
        installation.train(JobKind.RENEW)
        assert PERSON in read_users(installation)
    finally:
        close(installation)


def read_users(installation: Installation) -> set[str]:
    directory = installation.context.artifacts.local_path(live_path(installation))
    return {user for user, _ in read_weights(directory)}


def test_cancelled_renewal_pays_nothing(installation: Installation) -> None:
    request_id = forgotten(installation)
    before = live_path(installation)
    job_id = start_renewal(installation)

    def cancel_job(stage: Stage) -> None:
        if stage is Stage.AUDIT:
            with installation.context.uow_factory() as uow:
                cancel(uow, job_id)

    assert run_once(installation.context, on_stage=cancel_job)
    assert job(installation, job_id).status is JobStatus.CANCELLED
    assert kinds(installation, request_id) == ["deletion"]
    assert live_path(installation) == before


class JudgingLearner(FileLearner):
    """Gives its renewals this judgment of their quality."""

    quality: str = "failed"

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
        quality = {"outcome": self.quality, "reason": "worse than item means"}
        return replace(verdict, figures={**verdict.figures, "quality": quality})


def test_renewal_worse_than_item_means_is_not_served(installation: Installation) -> None:
    request_id = forgotten(installation)
    before = live_path(installation)
    learner = JudgingLearner(installation.settings)
    job_id = start_renewal(installation)
    assert run_once(replace(installation.context, learner=learner))
    failed = job(installation, job_id)
    assert (failed.status, failed.metrics["quality_failed"]) == (JobStatus.FAILED, True)
    assert "worse than item means" in (failed.error or "")
    assert live_path(installation) == before
    assert installation.request(request_id).assurance is Assurance.APPROXIMATE

    learner.quality = "passed"
    job_id = start_renewal(installation, seed=1)
    assert run_once(replace(installation.context, learner=learner))
    content = check_exact(installation, request_id, job_id)
    assert content["training"]["seed"] == 1
    assert content["training"]["quality"]["outcome"] == "passed"


def test_operators_training_is_not_judged(installation: Installation) -> None:
    """An operator may train on data that no model learns from."""
    before = live_path(installation)
    with installation.context.uow_factory() as uow:
        start_training(uow, JobKind.TRAIN)
    assert run_once(replace(installation.context, learner=JudgingLearner(installation.settings)))
    assert live_path(installation) != before


def open_kinds(certificate: Certificate) -> list[str]:
    return [entry["kind"] for entry in content_of(certificate.envelope)["open"]]


def test_erasures_of_both_jobs_are_listed_and_closed(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shred, "_READER_SECONDS", 0.0)
    request_id = installation.forget()
    with installation.context.uow_factory(write=False) as reader:
        assert reader.people.user(PERSON) is not None
        assert run_once(installation.context)
        job_id = start_renewal(installation)
        own_scrubs: list[int] = []

        def owe(stage: Stage) -> None:
            if stage is Stage.CERTIFY:
                with installation.context.uow_factory() as uow:
                    own_scrubs.append(
                        uow.scrubs.owe("copy", job_id=job_id, host="elsewhere", path="releases/x")
                    )

        assert run_once(installation.context, on_stage=owe)
    _, exact = certificates(installation, request_id)
    assert (exact.kind, open_kinds(exact)) == ("exact", ["database", "copy"])
    # The deletion's erasure is carried out first, by the next turn of a worker.
    close_database_scrubs(installation)
    run_once(installation.context)
    closing = certificates(installation, request_id)[2]
    assert (closing.kind, open_kinds(closing)) == ("scrub-closed", ["copy"])
    assert content_of(closing.envelope)["assurance"] == "exact"
    with installation.context.uow_factory() as uow:
        uow.scrubs.close(own_scrubs[0])
    run_once(installation.context)
    run_once(installation.context)
    last = certificates(installation, request_id)[3:]
    assert [(c.kind, open_kinds(c)) for c in last] == [("scrub-closed", [])]
    content = content_of(last[0].envelope)
    assert (content["assurance"], content["cites"]["number"]) == ("exact", 1)
    with installation.context.uow_factory(write=False) as uow:
        assert uow.scrubs.open_ones() == []


def close_database_scrubs(installation: Installation) -> None:
    with installation.context.uow_factory() as uow:
        for scrub in uow.scrubs.open_ones(kind="database"):
            uow.scrubs.close(scrub.id)


@pytest.mark.parametrize("limit", [1, 2])
def test_closing_certificates_come_in_chunks(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr("app.services.scrubs.CERTIFICATES_PER_TRANSACTION", limit)
    request_ids = forgotten_together(installation, 3)
    job_id = start_renewal(installation)
    scrub_ids: list[int] = []

    def owe(stage: Stage) -> None:
        if stage is Stage.CERTIFY:
            with installation.context.uow_factory() as uow:
                scrub_ids.append(uow.scrubs.owe("copy", job_id=job_id, host="x", path="p"))

    assert run_once(installation.context, on_stage=owe)
    with installation.context.uow_factory() as uow:
        uow.scrubs.close(scrub_ids[0])
    run_once(installation.context)
    run_once(installation.context)
    expected = ["deletion", "exact", "scrub-closed"]
    assert [kinds(installation, request_id) for request_id in request_ids] == [expected] * 3


def test_renewal_in_a_remote_store_destroys_the_approximate_release(
    database: Database, tmp_path: Path
) -> None:
    url = f"memory://{tmp_path.name}-{database.write.dialect.name}"
    installation = make_installation(database, tmp_path, LETHE_ARTIFACTS_URL=url)
    try:
        fill(installation.context)
        installation.train()
        request_id = forgotten(installation)
        approximate = live_path(installation)
        job_id = start_renewal(installation)
        assert run_once(installation.context)
        check_exact(installation, request_id, job_id)
        assert approximate not in installation.context.artifacts.published()
        with pytest.raises(FileNotFoundError):
            installation.context.artifacts.read_text(approximate, "manifest.json")
    finally:
        close(installation)


def test_inconclusive_deletion_is_promised_earlier(installation: Installation) -> None:
    request_id = installation.forget()
    promised = installation.request(request_id).exact_due_at
    assert promised is not None
    settings = installation.settings.model_copy(update={"exact": ExactMode.DEADLINE})
    learner = FileLearner(settings, [Outcome.INCONCLUSIVE])
    assert run_once(replace(installation.context, learner=learner, settings=settings))
    request = installation.request(request_id)
    assert request.completed_at is not None
    assert request.exact_due_at is not None
    left = promised - request.completed_at
    assert request.exact_due_at - request.completed_at == pytest.approx(
        left / 2, abs=left / 1_000_000
    )
    (content,) = contents(installation, request_id)
    due_at = request.exact_due_at.isoformat()
    assert content["exact"] == {"mode": "deadline", "due_at": due_at}


def test_off_is_named_in_the_certificate(database: Database, tmp_path: Path) -> None:
    installation = make_installation(database, tmp_path, LETHE_EXACT="off")
    try:
        fill(installation.context)
        installation.train()
        request_id = forgotten(installation)
        (content,) = contents(installation, request_id)
        assert content["exact"] == {"mode": "off", "due_at": None}
    finally:
        close(installation)


def requests_of(installation: Installation, users: Sequence[str]) -> list[str]:
    return [installation.forget(user) for user in users]


def test_deletion_before_the_first_release_is_exact(empty_installation: Installation) -> None:
    (request_id,) = requests_of(empty_installation, [PERSON])
    assert run_once(empty_installation.context)
    request = empty_installation.request(request_id)
    assert (request.assurance, request.exact_at) == (Assurance.EXACT, request.completed_at)
    empty_installation.train()
    assert kinds(empty_installation, request_id) == ["deletion"]
