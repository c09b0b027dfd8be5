"""The OpenAPI document, from which others generate clients."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from app.api import openapi
from tests.support.gateway_world import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.gateway_world import World


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield method, path and description of each operation."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_every_operation_has_the_id_of_the_table(world: World) -> None:
    document = world.app().openapi()
    ids = {(method, path): entry["operationId"] for method, path, entry in operations(document)}
    assert ids == openapi._OPERATION_IDS
    assert len(set(ids.values())) == len(ids)


def test_a_route_without_an_operation_id_is_refused() -> None:
    app = FastAPI(generate_unique_id_function=openapi.operation_id)
    with pytest.raises(LookupError, match=r"POST /new has no operation id\. Add the id to"):
        app.post("/new")(lambda: None)


def test_generators_of_clients_know_the_types_of_all_headers(world: World) -> None:
    # openapi-python-client leaves out operations with a header that is a list.
    headers = [
        parameter
        for _, _, operation in operations(world.app().openapi())
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "header"
    ]
    assert headers
    for header in headers:
        kinds = header["schema"].get("anyOf", [header["schema"]])
        assert {kind["type"] for kind in kinds} <= {"string", "null"}, header["name"]


def test_the_document_says_which_operations_need_a_key(world: World) -> None:
    app = world.app(api_keys=(SecretStr("a-key-for-this-test-only"),))
    document = app.openapi()
    assert document is app.openapi()
    (scheme,) = document["components"]["securitySchemes"]
    assert document["security"] == [{scheme: []}]

    async def whole() -> None:
        async with serving(app) as client:
            for method, path, operation in operations(document):
                answer = await client.request(method, path.replace("{", "").replace("}", ""))
                is_public = operation.get("security") == []
                assert (answer.status_code != 401) == is_public, path

    asyncio.run(whole())
