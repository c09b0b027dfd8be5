"""Attribute filters in a query string: `include=genre:Comedy&exclude=genre:Horror`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import Query
from pydantic import Field

from app.domain.errors import InvalidInputError
from app.domain.recommendations import AttributeFilter

_MAX_FILTERS: Final = 50
_Pair = Annotated[str, Field(max_length=400)]

Include = Annotated[
    Sequence[_Pair],
    Query(
        max_length=_MAX_FILTERS,
        description="`name:value`; an item must have one of the values of each name given.",
    ),
]
Exclude = Annotated[
    Sequence[_Pair],
    Query(max_length=_MAX_FILTERS, description="`name:value`; items that have it are left out."),
]


def filter_of(include: Sequence[str], exclude: Sequence[str]) -> AttributeFilter:
    """Return the filter; raises InvalidInputError for what is no `name:value`."""
    return AttributeFilter(include=_parsed(include), exclude=_parsed(exclude))


def _parsed(pairs: Sequence[str]) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for pair in pairs:
        name, colon, value = pair.partition(":")
        if not (name and colon and value):
            raise InvalidInputError("A filter is written `name:value`, as in `genre:Comedy`.")
        found.setdefault(name, set()).add(value)
    return {name: frozenset(values) for name, values in found.items()}
