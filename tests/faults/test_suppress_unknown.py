"""A user without data can be suppressed: a keyed hash is kept, and later data is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.domain.catalog import Interaction
from app.domain.errors import ForgottenPersonError, InvalidInputError, UnknownUserError
from app.domain.requests import Assurance, Outcome, RequestStatus, Scope
from app.services.forget import ForgetCommand, cancel_forget, request_forget
from app.services.imports import import_data
from app.services.interactions import add_interactions
from app.services.suppression import record_consent
from worker.loop import run_once

if TYPE_CHECKING:
    from app.domain.requests import ForgetRequest
    from app.services.imports import ImportResult
    from tests.faults.conftest import Installation

NEWCOMER = "newcomer-5e1"
RATING = Interaction(user_id=NEWCOMER, item_id="i1", rating=4.0, timestamp=2000)


def suppress(
    installation: Installation, user_id: str = NEWCOMER, *, unknown: bool = True
) -> tuple[ForgetRequest, bool]:
    command = ForgetCommand(user_id=user_id, suppress_unknown=unknown)
    with installation.context.uow_factory() as uow:
        return request_forget(uow, installation.context.pseudonyms, installation.settings, command)


def check_refused(installation: Installation) -> None:
    context = installation.context
    with pytest.raises(ForgottenPersonError), context.uow_factory() as uow:
        add_interactions(uow, context.pseudonyms, [RATING])
    assert imported(installation).skipped == {"forgotten": 1}


def imported(installation: Installation) -> ImportResult:
    context = installation.context
    return import_data(
        context.uow_factory, context.pseudonyms, users=(), items=(), interactions=[RATING]
    )


def test_by_default_nothing_is_kept_and_no_data_is_asked_for(installation: Installation) -> None:
    with pytest.raises(UnknownUserError) as error:
        suppress(installation, unknown=False)
    assert "nothing was recorded about the user" in str(error.value)
    assert "post" not in str(error.value).lower()
    assert imported(installation).interactions == 1


def test_hash_is_kept_and_later_data_is_refused(installation: Installation) -> None:
    request, created = suppress(installation)
    assert (created, request.scope, request.subject) == (True, Scope.USER, None)
    check_refused(installation)
    for unknown in (True, False):
        assert suppress(installation, f" {NEWCOMER} ", unknown=unknown) == (request, False)
    while run_once(installation.context):
        pass
    check_refused(installation)
    installation.check_forgotten(request.id, NEWCOMER)
    content = installation.certificate(request.id)
    # No training is needed, because no release knew the user.
    assert content["outcome"] == Outcome.NOT_APPLICABLE
    assert content["jobs"][0]["method"] != "retrain"
    assert suppress(installation)[0].id == request.id


def test_hash_is_kept_before_the_first_release(empty_installation: Installation) -> None:
    request, _ = suppress(empty_installation)
    while run_once(empty_installation.context):
        pass
    assert empty_installation.request(request.id).status is RequestStatus.COMPLETED
    check_refused(empty_installation)


def test_certificate_before_the_first_release_names_no_deleted_rows(
    empty_installation: Installation,
) -> None:
    request, _ = suppress(empty_installation)
    assert run_once(empty_installation.context)
    sentence = empty_installation.certificate(request.id)["finding"]["sentence"]
    assert "rows" not in sentence


def test_user_whom_no_release_knew_needs_no_exact_training(installation: Installation) -> None:
    """An approximate deletion would promise a training, which nothing needs."""
    for user_id in (NEWCOMER, "another-newcomer"):
        request, _ = suppress(installation, user_id)
        assert run_once(installation.context)
        content = installation.certificate(request.id)
        assert content["assurance"] == Assurance.EXACT
        assert content["figures"]["known_rows"] == 0
        assert "the model never had a row of this person" in content["finding"]["sentence"]


def test_completion_empties_the_body_of_the_idempotency_key(installation: Installation) -> None:
    context, command = installation.context, ForgetCommand(user_id=NEWCOMER, suppress_unknown=True)

    def send() -> tuple[ForgetRequest, bool]:
        with context.uow_factory() as uow:
            return request_forget(uow, context.pseudonyms, installation.settings, command, "k")

    request, _ = send()
    assert run_once(context)
    with context.uow_factory(write=False) as uow:
        key_hash = context.pseudonyms.opaque("idempotency-key", "k")
        entry = uow.idempotency.find(key_hash)
    assert entry is not None
    assert (entry.body_hash, entry.request_id) == ("", request.id)
    replayed, created = send()
    assert (replayed.id, created) == (request.id, False)


def test_user_whose_rows_were_unlearned_earlier_waits_for_an_exact_training(
    installation: Installation,
) -> None:
    """The weights may still know what an approximate deletion erased."""
    installation.forget("u1")
    assert run_once(installation.context)
    with installation.context.uow_factory() as uow:
        assert record_consent(uow, installation.context.pseudonyms, "u1") == 1
    request, created = suppress(installation, "u1")
    assert created
    assert run_once(installation.context)
    content = installation.certificate(request.id)
    assert content["assurance"] == Assurance.APPROXIMATE
    assert "It is not recorded" in content["finding"]["sentence"]


def test_cancelled_and_consented_users_can_be_suppressed_again(installation: Installation) -> None:
    context = installation.context
    first, _ = suppress(installation)
    with context.uow_factory() as uow:
        assert cancel_forget(uow, first.id).status is RequestStatus.CANCELLED
    second, created = suppress(installation)
    assert created
    while run_once(context):
        pass
    with context.uow_factory() as uow:
        assert record_consent(uow, context.pseudonyms, NEWCOMER) == 1
    third, created = suppress(installation)
    assert created
    assert len({first.id, second.id, third.id}) == 3
    check_refused(installation)


def test_user_with_data_is_deleted_as_usual(installation: Installation) -> None:
    request, created = suppress(installation, "u1")
    assert created
    assert request.subject is not None
    assert request.recovered is None


@pytest.mark.parametrize(
    "command",
    [
        ForgetCommand(user_id=NEWCOMER, item_ids=("i1",), suppress_unknown=True),
        ForgetCommand(item_id="i1", suppress_unknown=True),
    ],
)
def test_only_whole_users_can_be_suppressed(
    installation: Installation, command: ForgetCommand
) -> None:
    with (
        pytest.raises(InvalidInputError, match="suppress_unknown is for a whole user"),
        installation.context.uow_factory() as uow,
    ):
        request_forget(uow, installation.context.pseudonyms, installation.settings, command)
