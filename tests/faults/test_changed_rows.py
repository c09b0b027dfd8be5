"""Forget people whose rows changed after the training: the record decides, not the timestamps."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from app.domain.catalog import Interaction
from app.domain.requests import Outcome
from app.services.forget import cancel_forget, hold_forget, release_forget
from app.services.interactions import add_interactions
from app.services.suppression import record_consent
from tests.faults.conftest import PERSON, close, fill, make_installation
from tests.support.file_learner import MANIFEST, FileLearner, read_weights
from worker.context import build_context
from worker.loop import run_once

if TYPE_CHECKING:
    from pathlib import Path

    from app.domain.releases import Release
    from app.storage.engine import Database
    from tests.faults.conftest import Installation

LATE = "late-user"
#: Later than all ratings of the installation, so that the rating replaces the stored one.
LATER = 2000


def rate(
    installation: Installation, user: str, *items: str, rating: float = 4.0, timestamp: int = 1
) -> None:
    """Store ratings, by default with a time before that of all others."""
    rows = [Interaction(user_id=user, item_id=i, rating=rating, timestamp=timestamp) for i in items]
    with installation.context.uow_factory() as uow:
        add_interactions(uow, installation.context.pseudonyms, rows)


def live_release(installation: Installation) -> Release:
    with installation.context.uow_factory(write=False) as uow:
        release = uow.releases.get(uow.releases.alias().live or "")
    assert release is not None
    return release


def live_directory(installation: Installation) -> Path:
    return installation.context.artifacts.local_path(live_release(installation).path)


def outcome_of_forgetting(installation: Installation, user: str, *items: str) -> Outcome | None:
    return outcome_of(installation, installation.forget(user, *items))


def outcome_of(installation: Installation, request_id: str) -> Outcome | None:
    """Run the request's job; return the outcome, which is that of the release as well."""
    assert run_once(installation.context)
    outcome = installation.request(request_id).outcome
    assert live_release(installation).outcome is outcome
    return outcome


def test_person_imported_after_training_with_old_timestamps_is_not_in_the_weights(
    installation: Installation,
) -> None:
    before = read_weights(live_directory(installation))
    rate(installation, LATE, "i0", "i1", "i2")
    assert outcome_of_forgetting(installation, LATE) is Outcome.NOT_APPLICABLE
    assert read_weights(live_directory(installation)) == before


def test_rating_added_after_training_is_not_in_the_weights(installation: Installation) -> None:
    with installation.context.uow_factory(write=False) as uow:
        rated = {row.item_id for row in uow.people.history(PERSON)}
    (new, *_) = sorted({f"i{n}" for n in range(6)} - rated)
    rate(installation, PERSON, new)
    assert outcome_of_forgetting(installation, PERSON, new) is Outcome.NOT_APPLICABLE
    assert outcome_of_forgetting(installation, PERSON) is Outcome.PASSED


def test_trained_person_is_unlearned_after_the_holdout_share_was_raised(
    installation: Installation,
) -> None:
    raised = replace(installation.context.pseudonyms, holdout_share=1.0)
    request_id = installation.forget()
    assert run_once(replace(installation.context, pseudonyms=raised))
    assert installation.request(request_id).outcome is Outcome.PASSED
    installation.check_forgotten(request_id)


def test_changed_rating_is_forgotten_by_exact_retraining(installation: Installation) -> None:
    rate(installation, PERSON, "i1", rating=1.5, timestamp=LATER)
    assert outcome_of_forgetting(installation, PERSON) is Outcome.EXACT


def test_changed_rating_of_another_person_keeps_unlearning_fast(installation: Installation) -> None:
    rate(installation, "u1", "i1", rating=1.5, timestamp=LATER)
    assert outcome_of_forgetting(installation, PERSON) is Outcome.PASSED


def test_identical_import_after_training_keeps_unlearning_fast(installation: Installation) -> None:
    with installation.context.uow_factory() as uow:
        history = uow.people.history(PERSON)
        add_interactions(uow, installation.context.pseudonyms, history)
    assert outcome_of_forgetting(installation, PERSON) is Outcome.PASSED


def test_cancelled_request_then_forget_retrains(installation: Installation) -> None:
    request_id = installation.forget()
    with installation.context.uow_factory() as uow:
        cancel_forget(uow, request_id)
    assert outcome_of_forgetting(installation, PERSON) is Outcome.EXACT


@pytest.mark.parametrize("scope", ["user", "pair", "item"])
def test_subject_excluded_from_the_training_and_cancelled_later_is_not_in_the_weights(
    installation: Installation, scope: str
) -> None:
    items = () if scope == "user" else ("i1",)

    def forget() -> str:
        if scope == "item":
            return installation.forget_item("i1")
        return installation.forget(PERSON, *items)

    request_id = forget()
    with installation.context.uow_factory() as uow:
        hold_forget(uow, request_id)
    installation.train()
    trained = read_weights(live_directory(installation))
    with installation.context.uow_factory() as uow:
        release_forget(uow, request_id)
        cancel_forget(uow, request_id)
    assert outcome_of(installation, forget()) is Outcome.NOT_APPLICABLE
    assert read_weights(live_directory(installation)) == trained


def test_person_suppressed_during_the_training_is_not_in_the_weights(
    installation: Installation,
) -> None:
    request_id = installation.forget()
    with installation.context.uow_factory() as uow:
        hold_forget(uow, request_id)
    installation.train()
    with installation.context.uow_factory() as uow:
        release_forget(uow, request_id)
    assert outcome_of(installation, request_id) is Outcome.NOT_APPLICABLE


def test_person_who_consents_and_returns_is_not_in_the_weights(installation: Installation) -> None:
    assert outcome_of_forgetting(installation, PERSON) is Outcome.PASSED
    before = read_weights(live_directory(installation))
    with installation.context.uow_factory() as uow:
        assert record_consent(uow, installation.context.pseudonyms, PERSON) == 1
    rate(installation, PERSON, "i0", "i1", "i2")
    assert outcome_of_forgetting(installation, PERSON) is Outcome.NOT_APPLICABLE
    assert read_weights(live_directory(installation)) == before


def test_returned_person_is_in_the_weights_after_the_next_training(
    installation: Installation,
) -> None:
    assert outcome_of_forgetting(installation, PERSON) is Outcome.PASSED
    with installation.context.uow_factory() as uow:
        record_consent(uow, installation.context.pseudonyms, PERSON)
    rate(installation, PERSON, "i0", "i1", "i2")
    installation.train()
    assert outcome_of_forgetting(installation, PERSON) is Outcome.PASSED


def test_consent_to_single_ratings_marks_the_other_rows_as_changed(
    installation: Installation,
) -> None:
    with installation.context.uow_factory(write=False) as uow:
        (first, *_) = uow.people.history(PERSON)
    assert outcome_of_forgetting(installation, PERSON, first.item_id) is Outcome.PASSED
    with installation.context.uow_factory() as uow:
        record_consent(uow, installation.context.pseudonyms, PERSON, [first.item_id])
    assert outcome_of_forgetting(installation, PERSON) is Outcome.EXACT


@pytest.mark.parametrize("user", [PERSON, LATE])
def test_release_from_before_the_record_is_retrained(installation: Installation, user: str) -> None:
    path = live_directory(installation) / MANIFEST
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"extra": {}}))
    rate(installation, LATE, "i0")
    assert outcome_of_forgetting(installation, user) is Outcome.EXACT
    recorded = json.loads((live_directory(installation) / MANIFEST).read_text())["extra"]
    assert recorded["data_version"] > 0
    assert installation.context.pseudonyms.user(user) in recorded["excluded"]


def test_successors_inherit_the_record_of_the_training(installation: Installation) -> None:
    root = json.loads((live_directory(installation) / MANIFEST).read_text())["extra"]
    rate(installation, LATE, "i0")
    assert outcome_of_forgetting(installation, PERSON) is Outcome.PASSED
    assert outcome_of_forgetting(installation, LATE) is Outcome.NOT_APPLICABLE
    assert json.loads((live_directory(installation) / MANIFEST).read_text())["extra"] == root


def restore(installation: Installation, version: int) -> None:
    """Set the data version back, as a restored backup does."""
    with installation.context.database.write.begin() as connection:
        connection.execute(text("UPDATE state SET data_version = :version"), {"version": version})
        connection.execute(
            text("DELETE FROM data_changes WHERE version > :version"), {"version": version}
        )


def test_restored_database_continues_above_manifests(installation: Installation) -> None:
    recorded = json.loads((live_directory(installation) / MANIFEST).read_text())["extra"]
    restore(installation, 0)
    build_context(installation.settings, FileLearner).close()
    with installation.context.uow_factory(write=False) as uow:
        assert uow.state.data_version() > recorded["data_version"]
    rate(installation, LATE, "i0")
    assert outcome_of_forgetting(installation, LATE) is Outcome.NOT_APPLICABLE
    # The restored row may be older than the row that was trained on.
    assert outcome_of_forgetting(installation, PERSON) is Outcome.EXACT


def test_database_restored_under_a_running_worker_is_retrained(installation: Installation) -> None:
    for n in range(3):
        rate(installation, LATE, f"i{n}")
    installation.train()
    restore(installation, 1)
    assert outcome_of_forgetting(installation, LATE) is Outcome.EXACT


def test_damaged_manifest_does_not_stop_a_worker(installation: Installation) -> None:
    (live_directory(installation) / MANIFEST).write_text("{")
    build_context(installation.settings, FileLearner).close()


def test_rows_of_unknown_version_are_retrained_and_known_afterwards(
    installation: Installation,
) -> None:
    rate(installation, LATE, "i0", "i1")
    rate(installation, "other", "i0", "i1")
    with installation.context.database.write.begin() as connection:
        # The default of the columns for gateways of the previous version.
        connection.execute(
            text(
                "UPDATE interactions SET first_version = -1, last_version = -1 "
                f"WHERE user_id IN ('{LATE}', 'other')"
            )
        )
    assert outcome_of_forgetting(installation, LATE) is Outcome.EXACT
    assert ["other", "i0"] in read_weights(live_directory(installation))
    assert outcome_of_forgetting(installation, "other") is Outcome.PASSED


@pytest.mark.postgres
def test_rating_replaced_by_a_gateway_of_the_previous_version_is_retrained(
    postgres_database: Database, tmp_path: Path
) -> None:
    """Such a gateway changes the rating and leaves the versions."""
    installation = make_installation(postgres_database, tmp_path)
    fill(installation.context)
    installation.train()
    with postgres_database.write.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO interactions (user_id, item_id, rating, timestamp) "
                f"VALUES ('{PERSON}', 'i1', 1.5, 99), ('{PERSON}', 'i2', 4.0, 1002) "
                "ON CONFLICT (user_id, item_id) "
                "DO UPDATE SET rating = excluded.rating, timestamp = excluded.timestamp"
            )
        )
        rows = connection.execute(
            text(f"SELECT item_id, last_version FROM interactions WHERE user_id = '{PERSON}'")
        )
        versions = {row.item_id: row.last_version for row in rows}
    assert versions["i1"] == -1
    assert set(versions.values()) - {-1}
    assert outcome_of_forgetting(installation, PERSON) is Outcome.EXACT
    close(installation)
