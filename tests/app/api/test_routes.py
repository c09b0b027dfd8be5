"""The REST API against the application: deletion requests, ratings, pages, health, metrics."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain.jobs import JobStatus
from tests.support.gateway_world import client_of, serving, until_ready
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import httpx

    from tests.support.gateway_world import World


def run(world: World, scenario: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    """Run a scenario against an application without starting its replica."""

    async def whole() -> None:
        async with client_of(world.app()) as client:
            await scenario(client)

    asyncio.run(whole())


def run_serving(world: World, scenario: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    """Run a scenario against an application with a live release."""
    lease, name = world.publish(1)
    world.flip(lease, name)

    async def whole() -> None:
        async with serving(world.app()) as client:
            await until_ready(client)
            await scenario(client)

    asyncio.run(whole())


def test_forgotten_user_gets_410_at_once_on_every_replica(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = (await client.get("/recommend/u1", params={"n": 3})).json()
        assert set(answer) == {"user_id", "release", "items", "ranked_by", "next_offset"}
        assert [set(item) for item in answer["items"]] == [
            {"item_id", "title", "score", "rank"}
        ] * 3
        ids = [item["item_id"] for item in answer["items"]]
        expected = world.scores(answer["release"], "u1", ids)
        assert [item["score"] for item in answer["items"]] == pytest.approx(expected, abs=1e-5)

        async with serving(world.app()) as other:
            await until_ready(other)
            accepted = await client.post("/forget", json={"user_id": "u1"})
            assert accepted.status_code == 202
            for replica in (client, other):
                gone = await replica.get("/recommend/u1")
                assert gone.status_code == 410
                assert gone.json()["type"] == "/problems/user-forgotten"
        assert (await client.get("/recommend/u2")).status_code == 200

    run_serving(world, scenario)


def test_deletion_request_fields(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        accepted = await client.post("/forget", json={"user_id": "u1"})
        body = accepted.json()
        assert accepted.headers["location"] == f"/forget/{body['id']}"
        assert body["status"] == "scheduled"
        assert body["scope"] == "user"
        assert body["job_id"] is None
        assert body["progress"] == 0
        assert body["cancellable_until"].endswith("Z")
        assert (body["assurance"], body["exact_at"]) == ("none", None)
        promised = datetime.fromisoformat(body["exact_due_at"])
        created = datetime.fromisoformat(body["created_at"])
        assert promised - created == timedelta(days=world.settings.exact_days)
        assert (await client.get(accepted.headers["location"])).json() == body
        assert "u1" not in json.dumps(body)

        again = await client.post("/forget", json={"user_id": "u1"})
        assert (again.status_code, again.json()["id"]) == (200, body["id"])

        certificate = await client.get(f"/forget/{body['id']}/certificate")
        assert certificate.json()["type"] == "/problems/certificate-not-ready"

    run(world, scenario)


def test_deletion_request_is_held_released_and_cancelled(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        path = (await client.post("/forget", json={"user_id": "u1"})).headers["location"]
        assert (await client.post(f"{path}/hold")).json()["status"] == "on_hold"
        held = await client.delete(path)
        assert (held.status_code, held.json()["type"]) == (409, "/problems/not-cancellable")
        assert (await client.post(f"{path}/release")).json()["status"] == "scheduled"
        assert (await client.delete(path)).json()["status"] == "cancelled"
        assert (await client.delete(path)).status_code == 409
        # The cancellation ended the suppression, so this creates a new request.
        assert (await client.post("/forget", json={"user_id": "u1"})).status_code == 202

    run(world, scenario)


def test_idempotency_key_returns_the_same_request(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        async def ask(user_id: str, key: str) -> httpx.Response:
            headers = {"Idempotency-Key": key}
            return await client.post("/forget", json={"user_id": user_id}, headers=headers)

        first = await ask("u1", "a")
        assert first.status_code == 202
        repeats = await asyncio.gather(*(ask("u1", "a") for _ in range(5)))
        assert {repeat.json()["id"] for repeat in repeats} == {first.json()["id"]}
        other = await ask("u2", "a")
        assert (other.status_code, other.json()["type"]) == (409, "/problems/idempotency-conflict")
        assert (await ask("u2", "x" * 201)).status_code == 422
        concurrent = await asyncio.gather(*(ask("u3", "c") for _ in range(30)))
        assert sorted(response.status_code for response in concurrent) == [200] * 29 + [202]

    run(world, scenario)


def test_forgotten_users_ratings_are_refused_until_consent(world: World) -> None:
    row = {"user_id": "new", "item_id": "i1", "rating": 4.5, "timestamp": 1}

    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await client.post("/interactions", json=[row])).json() == {"stored": 1}
        unknown = await client.post("/interactions", json=[{**row, "item_id": "none"}])
        assert (unknown.status_code, unknown.json()["type"]) == (404, "/problems/unknown-item")
        path = (await client.post("/forget", json={"user_id": "new"})).headers["location"]
        refused = await client.post("/interactions", json=[row])
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/forgotten")
        early = await client.post("/consents", json={"user_id": "new"})
        assert (early.status_code, early.json()["type"]) == (409, "/problems/conflict")
        await client.delete(path)
        assert (await client.post("/consents", json={"user_id": "new"})).status_code == 201
        for invalid in (
            {"rating": 4.3},
            {"rating": 6},
            {"rating": "x"},
            {"timestamp": -1},
            {"x": 1},
        ):
            response = await client.post("/interactions", json=[{**row, **invalid}])
            assert response.status_code == 422, invalid
        assert (await client.post("/interactions", json=[])).status_code == 422

    run(world, scenario)


def test_new_user_gets_recommendations_without_training(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        row = {"user_id": "a/b new", "item_id": "i1", "rating": 5, "timestamp": 1}
        await client.post("/interactions", json=[row])
        answer = await client.get("/recommend/a%2Fb%20new", params={"n": 100})
        assert answer.json()["user_id"] == "a/b new"
        assert "i1" not in {item["item_id"] for item in answer.json()["items"]}
        everything = await client.get("/recommend/a%2Fb%20new?n=100&exclude_seen=false")
        assert len(everything.json()["items"]) == len(answer.json()["items"]) + 1

    run_serving(world, scenario)


def test_pages_are_newest_first_and_complete(world: World) -> None:
    request_ids = [world.forget(f"u{number}") for number in range(5)]

    async def scenario(client: httpx.AsyncClient) -> None:
        seen: list[str] = []
        cursor: str | None = None
        while True:
            params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
            page = (await client.get("/forget", params=params)).json()
            seen += [request["id"] for request in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert seen == request_ids[::-1]
        for invalid in ({"limit": 0}, {"limit": 201}, {"cursor": "'; --"}):
            assert (await client.get("/forget", params=invalid)).status_code == 422

    run(world, scenario)


def test_releases_and_jobs_list_the_live_release_and_its_job(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        page = (await client.get("/releases")).json()
        (replica,) = page["replicas"]
        assert replica["serving"] == page["live"] == page["items"][0]["id"]
        assert replica["lease"] == "valid"
        (job,) = (await client.get("/jobs")).json()["items"]
        assert job["status"] == JobStatus.SUCCEEDED
        assert job["release"] == page["live"]
        detail = (await client.get(f"/jobs/{job['id']}")).json()
        assert detail == job | {"outcomes": {}, "findings": []}

    def is_serving() -> bool:
        return any(replica.serving for replica in world.live_replicas())

    async def after(client: httpx.AsyncClient) -> None:
        await asyncio.to_thread(wait_until, is_serving, "not confirmed")
        await scenario(client)

    run_serving(world, after)


def test_infinite_figures_are_null(world: World) -> None:
    lease, _ = world.publish(1)
    with world.uow() as uow:
        uow.jobs.update(lease, metrics={"interval": [-1.0, float("inf")]})

    async def scenario(client: httpx.AsyncClient) -> None:
        response = await client.get(f"/jobs/{lease.job_id}")
        assert response.json()["metrics"] == {"interval": [-1.0, None]}

    run(world, scenario)


def test_metrics_and_log_have_route_templates_and_no_ids(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        await client.get("/recommend/u1")
        await client.get("/recommend/very-secret-person")
        await client.get("/very-secret-path")
        await client.post("/forget", json={"user_id": "u2"})
        text = (await client.get("/metrics")).text
        assert 'route="/recommend/{user_id:path}",status="200"} 1.0' in text
        assert 'lethe_open_deletion_requests{status="scheduled"} 1.0' in text
        for line in (
            "lethe_swaps_total 1.0",
            "lethe_replica_lease_valid 1.0",
            "lethe_database_up 1",
        ):
            assert line in text
        assert "very-secret" not in text

    run_serving(world, scenario)
    logged = capsys.readouterr()
    assert "/recommend/{user_id:path}" in logged.out + logged.err
    assert "very-secret" not in logged.out + logged.err


def test_application_without_a_release_is_not_ready(world: World) -> None:
    async def whole() -> None:
        async with serving(world.app()) as client:
            await asyncio.to_thread(wait_until, lambda: bool(world.live_replicas()), "no replica")
            assert (await client.get("/healthz")).status_code == 200
            ready = await client.get("/readyz")
            assert ready.status_code == 503
            assert "no release is being served yet" in ready.json()["reasons"]
            response = await client.get("/recommend/u1")
            assert response.json()["type"] == "/problems/no-release"

    asyncio.run(whole())
    assert world.live_replicas() == []  # The replica has ended its lease.


def test_application_without_a_database_is_not_ready(world: World) -> None:
    unreachable = "postgresql://postgres@127.0.0.1:1/none"

    async def whole() -> None:
        async with serving(world.app(database_url=unreachable)) as client:
            assert (await client.get("/healthz")).status_code == 200
            ready = await client.get("/readyz")
            assert ready.status_code == 503
            assert "the database cannot be reached" in ready.json()["reasons"]
            for method, path in (("GET", "/recommend/u1"), ("GET", "/jobs"), ("POST", "/forget")):
                body = {"json": {"user_id": "u1"}} if method == "POST" else {}
                response = await client.request(method, path, **body)
                assert response.json()["type"] == "/problems/database-unavailable"
            assert "lethe_database_up 0.0" in (await client.get("/metrics")).text

    asyncio.run(whole())


def test_many_concurrent_writers_do_not_deadlock(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        rows = [
            [{"user_id": f"p{n}", "item_id": "i1", "rating": 3, "timestamp": n}] for n in range(120)
        ]
        calls = [client.post("/interactions", json=row) for row in rows]
        statuses = {response.status_code for response in await asyncio.gather(*calls)}
        assert statuses == {200}

    run(world, scenario)


def test_openapi_document_lists_problems(world: World) -> None:
    document: dict[str, Any] = world.app().openapi()
    assert document["openapi"].startswith("3.1")
    forget = document["paths"]["/forget"]["post"]["responses"]
    assert "application/problem+json" in forget["404"]["content"]
    gone = document["paths"]["/recommend/{user_id}"]["get"]["responses"]["410"]
    assert "user-forgotten" in gone["description"]


def test_dashboard_allows_only_its_own_code(world: World) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        page = await client.get("/")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "<script>" not in page.text
        assert "style=" not in page.text
        assert "http://" not in page.text
        assert "https://" not in page.text
        script = await client.get("/web/dashboard.js")
        assert "innerHTML" not in script.text
        assert (await client.get("/web/..%2Fmain.py")).status_code == 404

    run(world, scenario)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["user_id", "item_ids", "item_id", "rating", "timestamp", "x"])
BODIES = JSON | st.dictionaries(FIELDS, JSON) | st.lists(st.dictionaries(FIELDS, JSON), max_size=3)
TARGETS = st.sampled_from(
    [("POST", "/forget"), ("POST", "/interactions"), ("POST", "/consents"), ("DELETE", "/forget/x")]
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(target=TARGETS, body=BODIES, query=st.text(max_size=20), path=st.text(max_size=20))
def test_random_input_never_causes_an_internal_error(
    world: World, target: tuple[str, str], body: Any, query: str, path: str
) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        method, route = target
        content = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        odd = path.encode("utf-8", "surrogatepass")
        responses = [
            await client.request(method, route, content=content, headers=headers),
            await client.get("/forget", params={"cursor": query}),
            await client.get("/recommend/x", params={"n": query, "exclude_seen": query}),
            await client.get("/jobs/" + "".join(f"%{byte:02X}" for byte in odd)),
        ]
        for response in responses:
            assert response.status_code < 500 or response.headers["retry-after"]
            if response.status_code >= 400:
                assert response.headers["content-type"] == "application/problem+json"

    async def whole() -> None:
        async with client_of(shared_app(world)) as client:
            await scenario(client)

    asyncio.run(whole())


def shared_app(world: World) -> Any:
    """Return one application for all examples of the property test."""
    if not hasattr(world, "shared"):
        world.shared = world.app()  # type: ignore[attr-defined] # for this test only
    return world.shared
