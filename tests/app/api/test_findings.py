"""What the API and certificates say about single requests, with figures of real judgments."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.batch_audits import counts_text
from app.domain.renewal import ExactMode
from app.domain.requests import Outcome
from app.services.certificates import content_of
from models.audit.outcomes import INCONCLUSIVE, PASSED
from tests.support.gateway_world import client_of
from tests.support.judged_batches import ITEM, PEOPLE, judged_batch, judged_request, request_of

if TYPE_CHECKING:
    from tests.support.gateway_world import World


def get(world: World, path: str) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        async with client_of(world.app()) as client:
            response = await client.get(path)
            assert response.status_code == 200, response.text
            document: dict[str, Any] = response.json()
            return document

    return asyncio.run(ask())


def person_with(outcome: str) -> str:
    """Return the request of a person of the judged batch with this outcome."""
    return next(request_of(u) for u, v in judged_batch().persons.items() if v.outcome == outcome)


@pytest.fixture
def completed(world: World) -> dict[str, str]:
    """Complete requests of one job: a person who passed, one who cannot be told, and an item."""
    lease, name = world.publish(1)
    world.flip(lease, name)
    world.settings = world.settings.model_copy(update={"cancel_window": 0.0, "batch_size": 3})
    requests = {
        PASSED: world.forget("u1"),
        INCONCLUSIVE: world.forget("u2"),
        ITEM: world.forget(item_id="i1"),
    }
    names = {
        PASSED: person_with(PASSED),
        INCONCLUSIVE: person_with(INCONCLUSIVE),
        ITEM: ITEM,
    }
    world.complete({requests[key]: judged_request(name) for key, name in names.items()})
    return requests


def test_each_request_has_its_own_finding_everywhere(
    world: World, completed: dict[str, str]
) -> None:
    """The request, its entry in the list, its job and its certificate say the same."""
    listed = {item["id"]: item for item in get(world, "/forget")["items"]}
    for request_id in completed.values():
        request = get(world, f"/forget/{request_id}")
        finding = request["finding"]
        assert listed[request_id]["finding"] == finding
        assert request["outcome"] == finding["outcome"]
        content = content_of(get(world, f"/forget/{request_id}/certificate"))
        assert (content["outcome"], content["finding"]) == (request["outcome"], finding)
        job = get(world, f"/jobs/{request['job_id']}")
        assert job["outcomes"] == {INCONCLUSIVE: 2, PASSED: 1}
        (in_job,) = [found for found in job["findings"] if found["request"] == request_id]
        assert in_job == finding | {"request": request_id, "scope": request["scope"]}


def test_a_person_who_cannot_be_told_is_not_called_passed(
    world: World, completed: dict[str, str]
) -> None:
    request = get(world, f"/forget/{completed[INCONCLUSIVE]}")
    assert judged_batch().outcome == PASSED
    assert request["outcome"] == INCONCLUSIVE
    finding = request["finding"]
    assert finding["sentence"].startswith("The audit cannot tell from 50 rows whether this person")
    assert "passed" not in finding["sentence"]
    due_on = request["exact_due_at"][:10]
    assert (
        f"The renewal by {due_on} trains the model without the erased rows."
        in (finding["sentence"])
    )
    low, high = finding["interval"]
    assert low < finding["share"] < high
    assert (finding["rows"], finding["confidence"]) == (50, pytest.approx(0.9))


def test_an_item_counts_the_persons_whose_rows_it_erases(
    world: World, completed: dict[str, str]
) -> None:
    request = get(world, f"/forget/{completed[ITEM]}")
    persons = request["finding"]["persons"]
    assert sum(persons.values()) == PEOPLE
    assert persons[PASSED] > 0
    assert request["outcome"] == INCONCLUSIVE
    assert (
        f"training rows of {PEOPLE} people: {counts_text(persons)}"
        in (request["finding"]["sentence"])
    )


def test_open_requests_have_no_finding(world: World) -> None:
    request = get(world, f"/forget/{world.forget('u3')}")
    assert (request["outcome"], request["finding"]) == (None, None)


def test_off_promises_no_renewal(world: World, completed: dict[str, str]) -> None:
    world.settings = world.settings.model_copy(update={"exact": ExactMode.OFF})
    finding = get(world, f"/forget/{completed[PASSED]}")["finding"]
    assert finding["outcome"] == Outcome.PASSED
    assert "The renewal" not in finding["sentence"]
