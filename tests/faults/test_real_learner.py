"""Kill a worker with real models: another worker completes the deletion."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from app.domain.catalog import Interaction, User
from app.domain.requests import Outcome
from app.services.interactions import add_interactions
from app.storage.engine import make_database
from models.checkpoints import checkpoint as checkpoints
from models.checkpoints import manifest as manifests
from tests.faults.conftest import PERSON, close, make_installation
from worker.loop import run_once

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from app.storage.engine import Database
    from tests.faults.conftest import Installation
    from worker.context import WorkerContext

USERS, ITEMS, RATINGS = 120, 60, 24


def fill(context: WorkerContext, absent: frozenset[str] = frozenset()) -> None:
    """Store users with a taste: half of the users like even items, the other half odd items."""
    rng = np.random.default_rng(3)
    users = [PERSON, *(f"u{n}" for n in range(1, USERS))]
    # All rows are drawn, so that the rows of the others do not depend on who is absent.
    rows = [
        Interaction(
            user_id=user,
            item_id=f"i{item}",
            rating=float(4.5 if (item + index) % 2 else 2.0),
            timestamp=1_000_000 + 100 * order + int(rng.integers(5000)),
        )
        for index, user in enumerate(users)
        for order, item in enumerate(rng.permutation(ITEMS)[:RATINGS].tolist())
    ]
    with context.uow_factory() as uow:
        uow.people.upsert_items(
            [(f"i{n}", f"Item {n}", {"genre": ["Drama", "Comedy"][n % 2 :]}) for n in range(ITEMS)]
        )
        present = [user for user in users if user not in absent]
        uow.people.upsert_users(
            [User(id=user, attributes={"gender": "F"}) for user in present],
            holdout=context.pseudonyms.drawn_as_holdout(present),
        )
        version = uow.state.bump("interactions")
        uow.people.upsert_interactions([row for row in rows if row.user_id not in absent], version)


@pytest.fixture
def real_installation(sqlite_database: Database, tmp_path: Path) -> Iterator[Installation]:
    """Provide a trained installation on SQLite; other tests cover both databases without models."""
    installation = make_installation(
        sqlite_database,
        tmp_path,
        real=True,
        # With this key, 25 users are holdout users, and PERSON is none of them.
        LETHE_HOLDOUT_SHARE="0.2",
        LETHE_HASH_KEY="another key for tests, number 0",
        LETHE_METHOD="e2urec-fast",
    )
    fill(installation.context)
    installation.train()
    yield installation
    close(installation)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["merge", "audit", "shred"])
def test_killed_worker_another_finishes_real_weights(
    real_installation: Installation, point: str
) -> None:
    request_id = real_installation.forget()
    real_installation.kill(real_installation.start_and_stop_at(point))
    real_installation.finish_elsewhere()
    real_installation.check_forgotten(request_id)
    with real_installation.context.uow_factory(write=False) as uow:
        alias = uow.releases.alias()
        release = uow.releases.get(alias.live or "")
    assert release is not None
    directory = real_installation.context.artifacts.local_path(release.path)
    checkpoints.load(directory)  # Checks the digest and the golden answers.
    assert manifests.read_manifest(directory).digest == release.digest


@pytest.mark.slow
def test_exact_deletion_equals_an_installation_that_never_had_the_person(
    database: Database, tmp_path: Path, migrated_sqlite: bytes
) -> None:
    """Compare weights and every choice that the manifest states; the job's id differs."""
    (tmp_path / "never.db").write_bytes(migrated_sqlite)
    never_database = make_database(f"sqlite:///{tmp_path / 'never.db'}")
    made: list[dict[str, Any]] = []
    for name, used, absent in (
        ("forgotten", database, frozenset[str]()),
        ("never", never_database, frozenset([PERSON])),
    ):
        settings = {
            "LETHE_METHOD": "retrain",
            "LETHE_HOLDOUT_SHARE": "0.2",
            # With this key, PERSON is no holdout user.
            "LETHE_HASH_KEY": "another key for tests, number 0",
        }
        installation = make_installation(used, tmp_path / name, real=True, **settings)
        fill(installation.context, absent)
        installation.train()
        if not absent:
            request_id = installation.forget()
            assert run_once(installation.context)
            assert installation.request(request_id).outcome is Outcome.EXACT
        made.append(live_manifest(installation))
        close(installation)
    never_database.dispose()
    assert made[0] == made[1]


def forget_and_compare(
    installation: Installation, user: str, **changes: float
) -> tuple[Outcome | None, bool]:
    """Return the outcome, and whether the weights are those from before the request."""
    before = live_weights(installation)
    request_id = installation.forget(user)
    pseudonyms = replace(installation.context.pseudonyms, **changes)
    assert run_once(replace(installation.context, pseudonyms=pseudonyms))
    after = live_weights(installation)
    is_equal = all(torch.equal(before[name], after[name]) for name in before)
    return installation.request(request_id).outcome, is_equal


def live_weights(installation: Installation) -> dict[str, torch.Tensor]:
    with installation.context.uow_factory(write=False) as uow:
        release = uow.releases.get(uow.releases.alias().live or "")
    assert release is not None
    return checkpoints.read_weights(installation.context.artifacts.local_path(release.path))


@pytest.mark.slow
def test_person_imported_after_training_with_old_timestamps_changes_no_weight(
    real_installation: Installation,
) -> None:
    context = real_installation.context
    with context.uow_factory() as uow:
        rows = [replace(row, user_id="late-user") for row in uow.people.history("u1")]
        add_interactions(uow, context.pseudonyms, rows)
    assert forget_and_compare(real_installation, "late-user") == (Outcome.NOT_APPLICABLE, True)


@pytest.mark.slow
def test_trained_person_is_unlearned_after_the_holdout_share_was_raised(
    real_installation: Installation,
) -> None:
    outcome, is_equal = forget_and_compare(real_installation, PERSON, holdout_share=1.0)
    assert outcome in {Outcome.PASSED, Outcome.INCONCLUSIVE, Outcome.EXACT}
    assert not is_equal


@pytest.mark.slow
def test_changed_rating_is_forgotten_by_exact_retraining(real_installation: Installation) -> None:
    context = real_installation.context
    with context.uow_factory() as uow:
        (first, *_) = uow.people.history(PERSON)
        add_interactions(uow, context.pseudonyms, [replace(first, rating=3.0)])
    assert forget_and_compare(real_installation, PERSON) == (Outcome.EXACT, False)


def live_manifest(installation: Installation) -> dict[str, Any]:
    with installation.context.uow_factory(write=False) as uow:
        release = uow.releases.get(uow.releases.alias().live or "")
    assert release is not None
    directory = installation.context.artifacts.local_path(release.path)
    content = dict(manifests.read_manifest(directory).content)
    chosen = ("bounds", "expected", "recipe", "data_sha256")
    return content | {"extra": {name: content["extra"][name] for name in chosen}}
