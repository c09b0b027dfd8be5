"""Clients follow a deletion request: `Prefer: wait`, and server-sent events."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest

from app.api.following import Following, parse_wait
from app.api.middleware import Observer, add_waited
from app.domain.errors import DatabaseUnavailableError
from app.services.forget import cancel_forget, hold_forget
from app.serving.replica.replica import Replica
from app.storage.repositories.requests import RequestRepository
from tests.support.gateway_server import gateway_server
from tests.support.gateway_world import serving, until
from tests.support.processes import PATIENCE_SECONDS, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Receive, Scope, Send

    from app.api.metrics import Metrics
    from app.api.schemas.forget import ForgetAnswer
    from tests.support.gateway_world import World

#: Longer than any test waits: a wait that only time ends fails the test.
_LONG = {"Prefer": "wait=900"}
_LONGEST = 1000.0


@pytest.fixture(autouse=True)
def _long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.api.following.MAX_WAIT_SECONDS", _LONGEST)


def soon(world: World) -> None:
    """Let the next batch take requests at once."""
    world.settings = world.settings.model_copy(
        update={"cancel_window": 0.0, "batch_seconds": 0.0, "exact": "off"}
    )


class Events:
    """The events of an open stream, in the order of arrival."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.iter_lines()

    def next(self) -> dict[str, str]:
        """Return the fields of the next event that has data; raises StopIteration at the end."""
        fields: dict[str, str] = {}
        while True:
            line = next(self._lines)
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                return fields
            else:
                fields = {}

    def rest(self) -> list[dict[str, str]]:
        """Return the events until the end of the stream."""
        events = []
        while True:
            try:
                events.append(self.next())
            except StopIteration:
                return events


@pytest.fixture
def address(world: World) -> Iterator[str]:
    """Run a gateway, whose URL the fixture provides."""
    soon(world)
    with gateway_server(world.settings) as (host, port):
        yield f"http://{host}:{port}"


def in_thread(call: Any) -> tuple[threading.Thread, list[Any]]:
    """Start a thread; its result becomes the element of the list."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    return thread, results


def get(url: str, **headers: str) -> httpx.Response:
    return httpx.get(url, headers=headers, trust_env=False, timeout=PATIENCE_SECONDS)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """List the requests whose next state clients have begun to wait for."""
    started: list[str] = []
    changed = Following.changed

    def recording(self: Following, known: ForgetAnswer, seconds: float) -> Any:
        started.append(known.id)
        return changed(self, known, seconds)

    monkeypatch.setattr(Following, "changed", recording)
    return started


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        ([], None),
        (["wait=3"], 3.0),
        (["respond-async, wait=10"], 10.0),
        (['return=minimal; x="a,b", WAIT = "7"'], 7.0),
        (["wait=1, wait=2"], 1.0),
        (["return=minimal", "wait=4; q=1"], 4.0),
        (["wait=100000"], _LONGEST),
        (["wait=" + "9" * 5000], _LONGEST),
        (["wait=0"], None),
        (["wait"], None),
        (["wait=-1"], None),
        (["wait=1.5"], None),
        (["wait=٣"], None),
        (["waiting=3"], None),
        (['x="wait=3"'], None),
        (['x="a, wait=3'], None),
    ],
)
def test_preference_is_parsed_as_in_rfc_7240(lines: list[str], seconds: float | None) -> None:
    assert parse_wait(lines) == seconds


def test_a_waiting_call_returns_when_the_request_is_completed(world: World, address: str) -> None:
    request_id = world.forget("u1")
    thread, answers = in_thread(lambda: get(f"{address}/forget/{request_id}", **_LONG))
    thread.join(0.3)
    assert thread.is_alive()
    world.complete()
    thread.join(PATIENCE_SECONDS)
    (answer,) = answers
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert answer.headers["Preference-Applied"] == "wait=900"


def test_a_waiting_call_returns_the_open_request_after_its_time(world: World, address: str) -> None:
    request_id = world.forget("u1")
    answer = get(f"{address}/forget/{request_id}", Prefer="wait=1")
    assert (answer.status_code, answer.json()["status"]) == (200, "scheduled")
    assert answer.headers["Preference-Applied"] == "wait=1"
    # The second of waiting is not part of the measured time.
    name = 'lethe_http_request_seconds_sum{method="GET",route="/forget/{request_id}"} '
    (line,) = [line for line in get(f"{address}/metrics").text.splitlines() if name in line]
    assert float(line.removeprefix(name)) < answer.elapsed.total_seconds() - 0.9


def test_a_call_without_preference_does_not_wait(world: World, address: str) -> None:
    request_id = world.forget("u1")
    answer = get(f"{address}/forget/{request_id}", Prefer="wait=soon")
    assert answer.json()["status"] == "scheduled"
    assert "Preference-Applied" not in answer.headers


def test_a_request_on_hold_is_not_waited_for(world: World, address: str) -> None:
    world.settings = world.settings.model_copy(update={"cancel_window": 60.0})
    request_id = world.forget("u1")
    with world.uow() as uow:
        hold_forget(uow, request_id)
    answer = get(f"{address}/forget/{request_id}", **_LONG)
    assert answer.json()["status"] == "on_hold"
    assert "Preference-Applied" not in answer.headers


def test_a_deletion_answers_after_its_completion_if_the_caller_waits(
    world: World, address: str
) -> None:
    def post() -> httpx.Response:
        body = {"user_id": "u1"}
        url = f"{address}/forget"
        return httpx.post(url, json=body, headers=_LONG, trust_env=False, timeout=PATIENCE_SECONDS)

    thread, answers = in_thread(post)

    def is_recorded() -> bool:
        return bool(get(f"{address}/forget").json()["items"])

    wait_until(is_recorded, "the request is not recorded")
    # The request is committed, and its subject suppressed, before the caller has the answer.
    wait_until(lambda: get(f"{address}/users/u1").status_code == 410, "the user is not suppressed")
    assert thread.is_alive()
    world.complete()
    thread.join(PATIENCE_SECONDS)
    (answer,) = answers
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert answer.headers["Location"] == f"/forget/{answer.json()['id']}"
    assert answer.headers["Preference-Applied"] == "wait=900"


def test_a_deletion_that_is_not_completed_in_time_answers_202(address: str) -> None:
    body, headers = {"user_id": "u1"}, {"Prefer": "wait=1"}
    answer = httpx.post(f"{address}/forget", json=body, headers=headers, trust_env=False)
    assert (answer.status_code, answer.json()["status"]) == (202, "scheduled")
    assert answer.headers["Preference-Applied"] == "wait=1"


def test_the_replica_learns_of_a_deletion_before_the_wait(
    world: World, monkeypatch: pytest.MonkeyPatch, waits: list[str]
) -> None:
    monkeypatch.setattr(Replica, "data_changed", lambda _: waits.append("the replica"))

    async def whole() -> None:
        async with serving(world.app()) as client:
            headers = {"Prefer": "wait=1"}
            answer = await client.post("/forget", json={"user_id": "u1"}, headers=headers)
            assert waits == ["the replica", answer.json()["id"]]

    asyncio.run(whole())


def test_events_report_each_state_and_end_with_the_request(world: World, address: str) -> None:
    request_id = world.forget("u1")
    url = f"{address}/forget/{request_id}/events"
    with httpx.stream("GET", url, trust_env=False, timeout=PATIENCE_SECONDS) as response:
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["X-Accel-Buffering"] == "no"
        events = Events(response)
        first = events.next()
        assert (first["event"], json.loads(first["data"])["status"]) == ("request", "scheduled")
        world.complete()
        later = events.rest()
    assert json.loads(later[-1]["data"]) == get(f"{address}/forget/{request_id}").json()
    assert json.loads(later[-1]["data"])["status"] == "completed"
    assert len({first["id"], *(event["id"] for event in later)}) == 1 + len(later)


def test_a_stream_continues_after_the_last_event_of_an_earlier_one(
    world: World, address: str
) -> None:
    request_id = world.forget("u1")
    url = f"{address}/forget/{request_id}/events"
    with httpx.stream("GET", url, trust_env=False, timeout=PATIENCE_SECONDS) as response:
        last = Events(response).next()["id"]
    headers = {"Last-Event-ID": last}
    with httpx.stream(
        "GET", url, headers=headers, trust_env=False, timeout=PATIENCE_SECONDS
    ) as response:
        world.complete()
        later = Events(response).rest()
    assert last not in {event["id"] for event in later}
    assert json.loads(later[-1]["data"])["status"] == "completed"
    # A browser connects again after the end of a stream, unless the answer is 204.
    assert get(url, **{"Last-Event-ID": later[-1]["id"]}).status_code == 204
    # An id of another time or place is not known, and the stream starts from the state now.
    assert len(Events(get(url, **{"Last-Event-ID": "x, y"})).rest()) == 1


def test_the_stream_of_a_cancelled_request_ends(world: World, address: str) -> None:
    world.settings = world.settings.model_copy(update={"cancel_window": 60.0})
    request_id = world.forget("u1")
    url = f"{address}/forget/{request_id}/events"
    with httpx.stream("GET", url, trust_env=False, timeout=PATIENCE_SECONDS) as response:
        events = Events(response)
        events.next()
        with world.uow() as uow:
            cancel_forget(uow, request_id)
        (last,) = events.rest()
    assert json.loads(last["data"])["status"] == "cancelled"


@pytest.mark.parametrize("path", ["/forget/unknown", "/forget/unknown/events"])
def test_an_unknown_request_is_not_waited_for(address: str, path: str) -> None:
    answer = get(f"{address}{path}", **_LONG)
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/unknown-request")


def test_head_of_a_stream_has_no_body_and_ends(world: World, address: str) -> None:
    request_id = world.forget("u1")
    url = f"{address}/forget/{request_id}/events"
    with httpx.Client(trust_env=False, timeout=PATIENCE_SECONDS) as client:
        # The connection answers a second call only after the end of the first answer.
        for _ in range(2):
            answer = client.head(url)
            assert (answer.status_code, answer.content) == (200, b"")


def test_a_stopping_gateway_ends_streams_and_answers_waiting_calls(
    world: World, waits: list[str]
) -> None:
    settings = world.settings.model_copy(update={"drain_timeout": 600.0})
    request_id = world.forget("u1")
    with gateway_server(settings) as (host, port):
        url = f"http://{host}:{port}/forget/{request_id}"
        thread, answers = in_thread(lambda: get(url, **_LONG))
        stream, events = in_thread(lambda: Events(get(f"{url}/events")).rest())
        wait_until(lambda: len(waits) == 2, "the clients do not wait")
    # A gateway that waited for its clients would take the drain timeout.
    thread.join(PATIENCE_SECONDS)
    stream.join(PATIENCE_SECONDS)
    assert answers[0].json()["status"] == "scheduled"
    assert len(events[0]) == 1


def test_followers_have_an_upper_bound(world: World) -> None:
    request_id = world.forget("u1")
    settings = world.settings.model_copy(update={"max_connections": 4})
    with gateway_server(settings) as (host, port):
        url = f"http://{host}:{port}/forget/{request_id}"
        with (
            httpx.stream("GET", f"{url}/events", trust_env=False) as first,
            httpx.stream("GET", f"{url}/events", trust_env=False) as second,
        ):
            # An abandoned iterator would close its connection.
            streams = [Events(first), Events(second)]
            for stream in streams:
                stream.next()
            refused = get(f"{url}/events")
            assert (refused.status_code, refused.json()["type"]) == (503, "/problems/overloaded")
            assert refused.headers["Retry-After"] == "10"
            # A call that would wait is answered at once, which its preference allows.
            answer = get(url, **_LONG)
            assert (answer.status_code, "Preference-Applied" in answer.headers) == (200, False)


@pytest.mark.parametrize(("count", "path"), [(1, ""), (2, ""), (1, "/events"), (2, "/events")])
def test_a_client_that_leaves_frees_its_place(
    world: World, monkeypatch: pytest.MonkeyPatch, waits: list[str], count: int, path: str
) -> None:
    # The gateway does not learn from a failed write that the client has left.
    monkeypatch.setattr("app.api.followed_answers._KEEPALIVE_SECONDS", 1000.0)
    request_id = world.forget("u1")
    settings = world.settings.model_copy(update={"max_connections": 3})
    with gateway_server(settings) as (host, port):
        call = f"GET /forget/{request_id}{path} HTTP/1.1\r\nHost: localhost\r\n"
        call += f"Prefer: {_LONG['Prefer']}\r\n\r\n"
        with socket.create_connection((host, port)) as client:
            # The second of two calls in one packet waits for the end of the first.
            client.sendall(call.encode() * count)
            wait_until(lambda: bool(waits), "the client does not wait")

        def has_place() -> bool:
            url = f"http://{host}:{port}/forget/{request_id}/events"
            with httpx.stream("GET", url, trust_env=False) as response:
                return response.status_code == 200

        wait_until(has_place, "the place of the client that left stays taken")


def test_many_followers_share_one_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [world.forget(f"u{number}") for number in range(6)]
    reads: list[int] = []
    read_many = RequestRepository.with_ids

    def counting(self: RequestRepository, ids: Any) -> Any:
        found = read_many(self, ids)
        reads.append(len(found))
        return found

    monkeypatch.setattr(RequestRepository, "with_ids", counting)
    soon(world)

    async def whole() -> None:
        async with serving(world.app()) as client:
            calls = [
                asyncio.create_task(client.get(f"/forget/{id_}", headers=_LONG, timeout=None))
                for id_ in requests * 3
            ]
            await until(lambda: 6 in reads)
            for id_ in requests:
                with world.uow() as uow:
                    cancel_forget(uow, id_)
            answers = await asyncio.gather(*calls)
            assert {answer.json()["status"] for answer in answers} == {"cancelled"}
            reads.clear()
            # Without followers, nothing is read.
            await asyncio.sleep(world.settings.poll_seconds * 5)
            assert len(reads) <= 1

    asyncio.run(whole())


@pytest.mark.parametrize("error", [DatabaseUnavailableError(), RuntimeError("a defect")])
def test_followers_outlast_a_failed_read(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    request_id = world.forget("u1")
    read_many = RequestRepository.with_ids
    failures = 0

    def failing(self: RequestRepository, ids: Any) -> Any:
        nonlocal failures
        failures += 1
        if failures <= 3:
            raise error
        return read_many(self, ids)

    monkeypatch.setattr(RequestRepository, "with_ids", failing)

    async def whole() -> None:
        async with serving(world.app()) as client:
            call = asyncio.create_task(client.get(f"/forget/{request_id}", headers=_LONG))
            await until(lambda: failures >= 3)
            with world.uow() as uow:
                cancel_forget(uow, request_id)
            assert (await call).json()["status"] == "cancelled"

    asyncio.run(whole())


def test_a_request_that_a_restore_removed_ends_the_stream(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = world.forget("u1")

    def gone(_self: RequestRepository, _ids: Any) -> dict[str, Any]:
        return {}

    async def whole() -> None:
        async with serving(world.app()) as client:
            monkeypatch.setattr(RequestRepository, "with_ids", gone)
            answer = await client.get(f"/forget/{request_id}/events", timeout=None)
            assert answer.text.count("event: request") == 1
            waited = await client.get(f"/forget/{request_id}", headers=_LONG, timeout=None)
            assert waited.json()["status"] == "scheduled"

    asyncio.run(whole())


def test_waiting_is_not_part_of_the_measured_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 130.0])
    monkeypatch.setattr("app.api.middleware.time.perf_counter", lambda: next(clock))
    measured = []

    class Recorded:
        def request(self, *call: object) -> None:
            measured.append(call)

    async def waiting(scope: Scope, _receive: Receive, _send: Send) -> None:
        add_waited(scope, 29.0)

    async def unused(*_messages: Any) -> Any:
        pytest.fail("the application does not answer")

    observer = Observer(waiting, cast("Metrics", Recorded()))
    asyncio.run(observer({"type": "http", "method": "GET"}, unused, unused))
    assert measured == [("GET", "unmatched", 0, 1.0)]
