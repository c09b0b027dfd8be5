"""Reads all that answers may use from one snapshot, and looks again before they are sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.errors import GoneError, LetheError, UnavailableError, UnknownUserError
from app.domain.recommendations import Visitor, answer_tag
from app.services.recommendation_inputs import (
    NOBODY,
    OpenItems,
    read_inputs,
    read_visitor,
    recheck,
)
from app.serving.recommend.ranking import Asked, tiers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from app.domain.catalog import Item
    from app.domain.recommendations import AttributeFilter, RecommendationQuery
    from app.services.pseudonyms import Pseudonyms
    from app.services.recommendation_inputs import Inputs, Recheck
    from app.serving.retrieval.first_stage import Candidates
    from app.storage.unit_of_work import UnitOfWork, UnitOfWorkFactory


class QueryReader:
    """What the database and the first stage say to questions; thread-safe."""

    def __init__(
        self,
        uow: UnitOfWorkFactory,
        pseudonyms: Pseudonyms,
        candidates: Candidates,
        tier: int,
    ) -> None:
        """Propose items in tiers of this size."""
        self._uow = uow
        self._pseudonyms = pseudonyms
        self._candidates = candidates
        self._open_items = OpenItems()
        self.tier = tier

    def read(self, queries: Sequence[RecommendationQuery]) -> list[Asked | LetheError]:
        """Return each with its inputs, or with what keeps it alone from being answered.

        Raises UnavailableError, which keeps all of them.
        """
        with self._uow(write=False) as uow:
            return [self._read_one(uow, query) for query in queries]

    def recheck(self, asked: Sequence[Asked]) -> Recheck:
        """Look once more, in a new snapshot."""
        people = [one.inputs.user.id for one in asked if one.inputs.user.id != NOBODY]
        oldest = min(one.inputs.data_version for one in asked)
        with self._uow(write=False) as uow:
            return recheck(uow, self._pseudonyms, people, oldest)

    def held(self, query: RecommendationQuery, tags: AbstractSet[str]) -> str | None:
        """Return the tag of the present answer if it is one of these; raises GoneError."""
        if not isinstance(query.person, str):
            return None
        with self._uow(write=False) as uow:
            standing = uow.state.standing([self._pseudonyms.user(query.person)])
        if standing.suppressed:
            raise GoneError
        if standing.alias.live is None:
            return None
        tag = answer_tag(standing.alias.live, standing.data_version)
        return tag if tag in tags else None

    def similar(
        self, item_id: str, n: int, wanted: AttributeFilter
    ) -> tuple[list[tuple[Item, float]], int]:
        """Return up to `n` similar items, best first, and the data version; UnknownItemError."""
        with self._uow(write=False) as uow:
            version = uow.state.data_version()
            hidden = self._open_items.as_of(uow, version).item_ids
            return self._candidates.similar(uow, item_id, n, wanted, hidden, version), version

    def forgotten_since(self, version: int) -> bool:
        """Say whether anybody or anything was forgotten after this data version."""
        with self._uow(write=False) as uow:
            return recheck(uow, self._pseudonyms, (), version).changed_by_forget

    def _read_one(self, uow: UnitOfWork, query: RecommendationQuery) -> Asked | LetheError:
        try:
            inputs, unknown = self._inputs(uow, query)
            start, stop = (0, 0) if query.item_ids else tiers(query, self.tier)
            proposal = self._candidates.propose(uow, inputs, query, start, stop)
        except UnavailableError:
            raise
        except LetheError as error:
            return error
        return Asked(query=query, inputs=inputs, proposal=proposal, start=start, unknown=unknown)

    def _inputs(self, uow: UnitOfWork, query: RecommendationQuery) -> tuple[Inputs, bool]:
        """Return the inputs, and whether they are those of somebody unknown."""
        person = query.person
        if isinstance(person, Visitor):
            return read_visitor(uow, person, self._open_items), False
        try:
            return read_inputs(uow, self._pseudonyms, person, self._open_items), False
        except UnknownUserError:
            if not query.fallback:
                raise
        return read_visitor(uow, Visitor(), self._open_items), True
