"""Read everything that an answer may use from one database snapshot, and recheck before sending."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from app.domain.errors import (
    LetheError,
    UnavailableError,
    UnknownUserError,
)
from app.domain.recommendations import Visitor
from app.services.entity_tags import recommendation_tag, similar_tag
from app.services.recommendation_inputs import (
    VISITOR_ID,
    AskerInputs,
    normal_query,
    read_inputs,
    recheck,
    visitor_inputs,
)
from app.serving.recommend.memory_reader import MemoryReader, refuse_while_restoring
from app.serving.recommend.ranking import without_items
from app.serving.retrieval.proposals import AskerItems, similar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from collections.abc import Set as AbstractSet

    from app.domain.catalog import Item
    from app.domain.recommendations import AttributeFilter, RecommendationQuery, SimilarItem
    from app.domain.standing import Standing
    from app.services.pseudonyms import Pseudonyms
    from app.services.recommendation_inputs import Inputs, Recheck
    from app.serving.recommend.ranking import PreparedQuery
    from app.serving.retrieval.first_stage import FirstStage
    from app.serving.retrieval.index_view import IndexView
    from app.storage.unit_of_work import UnitOfWork, UnitOfWorkFactory


class QueryReader:
    """Prepare queries from the database and the first stage. Thread-safe."""

    def __init__(
        self,
        uow: UnitOfWorkFactory,
        pseudonyms: Pseudonyms,
        first_stage: FirstStage,
        tier_size: int,
    ) -> None:
        """Create a reader that proposes items in tiers of `tier_size`."""
        self._uow = uow
        self._pseudonyms = pseudonyms
        self._first_stage = first_stage
        self._memory = MemoryReader(uow, pseudonyms, first_stage, tier_size)
        self.tier_size = tier_size

    def read(self, queries: Sequence[RecommendationQuery]) -> list[PreparedQuery | LetheError]:
        """Prepare the queries; an error takes the place of its query only.

        One statement tells which queries can be prepared from memory. The others are read from one
        snapshot of the database. Raises UnavailableError, which concerns all queries.
        """
        normal: list[RecommendationQuery | LetheError] = []
        for query in queries:
            try:
                normal.append(normal_query(self._pseudonyms, query))
            except LetheError as error:
                normal.append(error)
        prepared = self._memory.prepare(normal)
        if None in prepared:
            with self._uow(write=False) as uow:
                prepared = [
                    self._prepare(uow, query)
                    if in_memory is None and not isinstance(query, LetheError)
                    else in_memory
                    for query, in_memory in zip(normal, prepared, strict=True)
                ]
        return [one for one in prepared if one is not None]

    def withdraw(
        self, prepared: Sequence[PreparedQuery], used_ids: Sequence[AbstractSet[str]]
    ) -> tuple[Recheck, list[PreparedQuery | LetheError]]:
        """Recheck, and remove from the proposals what may not be recommended in this snapshot.

        `used_ids` has, for each query, the rated items that its answer was computed from. GoneError
        takes the place of a forgotten asker, and UnavailableError of an asker with data among
        these that has been forgotten since.
        """
        with self._uow(write=False) as uow:
            rechecked = self._recheck(uow.state.standing, prepared)
            withdrawn = [
                self._withdraw(uow, query, used)
                for query, used in zip(prepared, used_ids, strict=True)
            ]
        refuse_while_restoring(rechecked.is_restoring)
        return rechecked, withdrawn

    def recheck(self, prepared: Sequence[PreparedQuery]) -> Recheck:
        """Return the changes since the oldest of these snapshots, as seen in a new snapshot."""
        rechecked = self._recheck(self._uow.standing, prepared)
        refuse_while_restoring(rechecked.is_restoring)
        return rechecked

    def matching_tag(self, query: RecommendationQuery, tags: AbstractSet[str]) -> str | None:
        """Return the current answer's entity tag if `tags` contains it.

        Raises InvalidInputError, GoneError and UnknownUserError, as an answer would.
        """
        query = normal_query(self._pseudonyms, query)
        if not isinstance(query.person, str):
            return None
        view = self._first_stage.view
        standing = self._memory.standing([query], view)
        inputs: AskerInputs | None = None
        try:
            if view is not None and view.covers(standing):
                inputs = self._memory.stored_asker(view, standing, query)
            if view is None or inputs is None:
                with self._uow(write=False) as uow:
                    view, inputs = self._read_asker(uow, query)
        except UnknownUserError:
            if query.fallback:
                return None
            raise
        refuse_while_restoring(inputs.is_restoring)
        tag = recommendation_tag(
            self._pseudonyms, query, inputs.alias.live, view.tag_versions, inputs.user_version
        )
        return tag if tag in tags else None

    def tag_of(self, prepared: PreparedQuery, release: str | None) -> str | None:
        """Return the entity tag of the answer that this release gives to the query."""
        return recommendation_tag(
            self._pseudonyms,
            prepared.query,
            release,
            prepared.tag_versions,
            prepared.inputs.user_version,
        )

    def similar_tag(
        self, item_id: str, n: int, attribute_filter: AttributeFilter, items: Sequence[SimilarItem]
    ) -> str:
        """Return the entity tag of these similar items."""
        return similar_tag(self._pseudonyms, item_id, n, attribute_filter, items)

    def similar(
        self, item_id: str, n: int, attribute_filter: AttributeFilter
    ) -> tuple[list[tuple[Item, float]], int]:
        """Return up to `n` items similar to a normal item id, best first, and the data version.

        Raises UnknownItemError and InvalidInputError.
        """
        view = self._first_stage.view
        standing = self._memory.standing((), view)
        if view is None or not view.covers(standing):
            with self._uow(write=False) as uow:
                standing = uow.state.standing(())
                refuse_while_restoring(standing.is_restoring)
                view = self._first_stage.current(uow, standing.data_version)
        refuse_while_restoring(standing.is_restoring)
        return similar(view, item_id, n, attribute_filter), standing.data_version

    def withdrawn(self, version: int, item_ids: Sequence[str]) -> set[str] | None:
        """Return the items that may not be recommended any more.

        Return None if neither deletions nor the catalog changed after this data version.
        """
        if not recheck(self._uow.standing, self._pseudonyms, (), version).is_overtaken:
            return None
        with self._uow(write=False) as uow:
            return self._withdrawn_items(uow, item_ids)

    def _recheck(
        self, standing_of: Callable[..., Standing], prepared: Sequence[PreparedQuery]
    ) -> Recheck:
        user_ids = [query.inputs.user.id for query in prepared]
        oldest = min(query.inputs.data_version for query in prepared)
        return recheck(
            standing_of, self._pseudonyms, [user for user in user_ids if user != VISITOR_ID], oldest
        )

    def _withdraw(
        self, uow: UnitOfWork, prepared: PreparedQuery, used_ids: AbstractSet[str]
    ) -> PreparedQuery | LetheError:
        try:
            _, inputs, _ = self._read_inputs(uow, prepared.query)
        except LetheError as error:
            return error
        usable = {event.item_id for event in inputs.history}
        if not usable.issuperset(used_ids):
            return UnavailableError(
                "Ratings of this user are being forgotten faster than this answer can be computed. "
                "Try again shortly."
            )
        item_ids = [item.id for item in prepared.proposal.items]
        current = replace(prepared, inputs=inputs, tag_versions=None)
        return without_items(current, self._withdrawn_items(uow, item_ids))

    @staticmethod
    def _withdrawn_items(uow: UnitOfWork, item_ids: Sequence[str]) -> set[str]:
        """Return those of the items that are retired or named by an open deletion request."""
        return set(item_ids) - (uow.people.known_items(item_ids) - uow.requests.open_item_ids())

    def _prepare(self, uow: UnitOfWork, query: RecommendationQuery) -> PreparedQuery | LetheError:
        """Prepare a query from this snapshot of the database."""
        try:
            view, inputs, unknown = self._read_inputs(uow, query)
            asker = AskerItems.from_inputs(view, inputs)
            return self._memory.propose(view, asker, query, inputs, unknown=unknown)
        except UnavailableError:
            raise
        except LetheError as error:
            return error

    def _read_asker(self, uow: UnitOfWork, query: RecommendationQuery) -> tuple[IndexView, Inputs]:
        """Return the view and a user's inputs of this snapshot."""
        inputs = read_inputs(uow, self._pseudonyms, str(query.person), spelling=query.spelling)
        # Refusals come first: the view may have to be built.
        refuse_while_restoring(inputs.is_restoring)
        view = self._first_stage.current(uow, inputs.data_version)
        return view, inputs

    def _read_inputs(
        self, uow: UnitOfWork, query: RecommendationQuery
    ) -> tuple[IndexView, Inputs, bool]:
        """Return view and inputs, and whether an empty visitor replaces an unknown user."""
        visitor, unknown = query.person, False
        if isinstance(visitor, str):
            try:
                return (*self._read_asker(uow, query), False)
            except UnknownUserError:
                if not query.fallback:
                    raise
            visitor, unknown = Visitor(), True
        standing = uow.state.standing(())
        refuse_while_restoring(standing.is_restoring)
        view = self._first_stage.current(uow, standing.data_version)
        inputs = visitor_inputs(standing, visitor, view.catalog.by_id, view.suppressed_items)
        return view, inputs, unknown
