"""What a recommendation asks of a model, in plain values, for gateways without torch as well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One earlier rating: the item's slot, 0.5 to 5 stars, and the title for prompts in words."""

    item_index: int
    rating: float
    title: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One item to score: its slot, its attribute values, and the title for prompts in words."""

    item_index: int
    attributes: Mapping[str, Sequence[str]]
    title: str = ""
