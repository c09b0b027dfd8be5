"""Define a scoring request in plain values, for processes without torch as well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One earlier rating: item index, 0.5 to 5 stars, and the title, which text prompts use."""

    item_index: int
    rating: float
    title: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One item to score: item index, attribute values, and the title, which text prompts use."""

    item_index: int
    attributes: Mapping[str, Sequence[str]]
    title: str = ""
