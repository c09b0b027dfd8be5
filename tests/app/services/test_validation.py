"""Validation of interactions, ids and deletion commands."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from app.domain.catalog import Interaction
from app.domain.errors import InvalidInputError
from app.domain.identifiers import new_id, release_id
from app.domain.requests import Scope
from app.services.forget import ForgetCommand
from app.services.pseudonyms import Pseudonyms
from app.services.validation import normal_interaction

PSEUDONYMS = Pseudonyms(b"a key for tests")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
GOOD: dict[str, Any] = {"user_id": "u", "item_id": "i", "rating": 0.5, "timestamp": 0}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"rating": 5.0},
        {"rating": 4},
        {"timestamp": int(NOW.timestamp()) + 86_400},
        {"user_id": "x" * 200},
        {"user_id": "Zoë 7"},
    ],
)
def test_valid_interaction_is_accepted(change: dict[str, Any]) -> None:
    normal_interaction(PSEUDONYMS, Interaction(**(GOOD | change)), NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"rating": 0.0},
        {"rating": 5.5},
        {"rating": 3.3},
        {"rating": float("nan")},
        {"rating": float("inf")},
        {"timestamp": -1},
        {"timestamp": int(NOW.timestamp()) + 86_401},
        {"user_id": ""},
        {"item_id": "x" * 201},
        {"user_id": "a\x00b"},
        {"user_id": "\ud800"},
        {"item_id": "a\nb"},
    ],
)
def test_invalid_interaction_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        normal_interaction(PSEUDONYMS, Interaction(**(GOOD | change)), NOW)


def test_timestamp_after_2038_is_accepted() -> None:
    later = datetime(2040, 1, 1, tzinfo=UTC)
    normal_interaction(
        PSEUDONYMS, Interaction(**(GOOD | {"timestamp": int(later.timestamp())})), later
    )


@pytest.mark.parametrize(
    ("command", "scope", "item_ids"),
    [
        (ForgetCommand(user_id="1"), Scope.USER, ()),
        (ForgetCommand(user_id="1", item_ids=("b", "a", "b")), Scope.USER_ITEMS, ("a", "b")),
        (ForgetCommand(item_id="a"), Scope.ITEM, ("a",)),
    ],
)
def test_command_gives_its_subject(
    command: ForgetCommand, scope: Scope, item_ids: tuple[str, ...]
) -> None:
    subject = command.subject()
    assert (subject.scope, subject.item_ids) == (scope, item_ids)


@pytest.mark.parametrize(
    "command",
    [
        ForgetCommand(),
        ForgetCommand(item_ids=("a",)),
        ForgetCommand(user_id="1", item_id="a"),
        ForgetCommand(item_ids=("b",), item_id="a"),
        ForgetCommand(user_id="1", item_ids=tuple(str(n) for n in range(1001))),
    ],
)
def test_ambiguous_command_is_refused(command: ForgetCommand) -> None:
    with pytest.raises(InvalidInputError):
        command.subject()


def test_ids_sort_by_time_and_are_unique() -> None:
    first = new_id("req")
    started = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 == started:
        pass
    assert first < new_id("req")
    assert len({new_id("job") for _ in range(1000)}) == 1000
    assert PSEUDONYMS.user_id(first) == first
    assert len(first) <= 40


def test_release_id_is_a_prefix_of_the_digest() -> None:
    assert release_id("ab" * 32) == "rel_" + "ab" * 12
