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
        description="`name:value`; an item must have one of the given values of each name.",
    ),
]
Exclude = Annotated[
    Sequence[_Pair],
    Query(max_length=_MAX_FILTERS, description="`name:value`; items with this value are left out."),
]


def filter_of(include: Sequence[str], exclude: Sequence[str]) -> AttributeFilter:
    """Return the filter; raises InvalidInputError unless every pair is `name:value`."""
    return AttributeFilter(include=_parse(include), exclude=_parse(exclude))


def _parse(pairs: Sequence[str]) -> dict[str, frozenset[str]]:
    values_by_name: dict[str, set[str]] = {}
    for pair in pairs:
        name, colon, value = pair.partition(":")
        if not (name and colon and value):
            raise InvalidInputError(
                "A filter must have the form `name:value`, for example `genre:Comedy`."
            )
        values_by_name.setdefault(name, set()).add(value)
    return {name: frozenset(values) for name, values in values_by_name.items()}
