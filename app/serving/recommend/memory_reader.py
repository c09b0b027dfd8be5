"""Prepare recommendation queries from memory, with one statement that shows what changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.errors import (
    GoneError,
    LetheError,
    RestoringError,
    UnavailableError,
    UnknownUserError,
)
from app.domain.recommendations import Visitor
from app.services.recommendation_inputs import AskerInputs, visitor_inputs
from app.services.validation import unknown_user
from app.serving.recommend.ranking import PreparedQuery, tier_bounds
from app.serving.retrieval.histories import NO_HISTORY
from app.serving.retrieval.proposals import AskerItems, propose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.recommendations import RecommendationQuery
    from app.domain.standing import Standing
    from app.services.pseudonyms import Pseudonyms
    from app.serving.retrieval.first_stage import FirstStage
    from app.serving.retrieval.index_view import IndexView
    from app.storage.unit_of_work import UnitOfWorkFactory


class MemoryReader:
    """Read queries from the published view of the first stage. Thread-safe.

    The statement names the changes after the view's index. A query is prepared from the view only
    if the view has every deletion and every item of the statement's snapshot, and if the asker's
    own data did not change after the index.
    """

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
        self.tier_size = tier_size

    def standing(self, queries: Sequence[RecommendationQuery], view: IndexView | None) -> Standing:
        """Read the state, with the changes that the view's index lacks, in one statement."""
        users = [query for query in queries if isinstance(query.person, str)]
        return self._uow.standing(
            [user_hash for query in users for user_hash in self._hashes(query)],
            None if view is None else view.state.version,
            [str(query.person) for query in users],
        )

    def _hashes(self, query: RecommendationQuery) -> tuple[str, ...]:
        """Return the keyed hashes of a user."""
        return self._pseudonyms.user_hashes(query.spelling or str(query.person))

    def prepare(
        self, queries: Sequence[RecommendationQuery | LetheError]
    ) -> list[PreparedQuery | LetheError | None]:
        """Prepare normal queries from the view; None for those that need the database.

        Raises UnavailableError, which concerns all queries.
        """
        view = self._first_stage.view
        if view is None:
            return [query if isinstance(query, LetheError) else None for query in queries]
        standing = self.standing([q for q in queries if not isinstance(q, LetheError)], view)
        is_covered = view.covers(standing)
        prepared: list[PreparedQuery | LetheError | None] = []
        for query in queries:
            if isinstance(query, LetheError) or not is_covered:
                prepared.append(query if isinstance(query, LetheError) else None)
                continue
            try:
                prepared.append(self._prepare_one(view, standing, query))
            except UnavailableError:
                raise
            except LetheError as error:
                prepared.append(error)
        return prepared

    def _prepare_one(
        self, view: IndexView, standing: Standing, query: RecommendationQuery
    ) -> PreparedQuery | None:
        """Prepare a query without the database; return None if it has newer data of the asker."""
        unknown, asker = False, None
        try:
            inputs = self.stored_asker(view, standing, query)
        except UnknownUserError:
            if not query.fallback:
                raise
            unknown, inputs = True, None
        else:
            if isinstance(query.person, str):
                if inputs is None:
                    return None
                stored = view.state.histories.get(query.person) or NO_HISTORY
                asker = AskerItems.from_memory(view, stored)
        if inputs is None or asker is None:
            visitor = query.person if isinstance(query.person, Visitor) else Visitor()
            inputs = visitor_inputs(standing, visitor, view.catalog.by_id, view.suppressed_items)
            asker = AskerItems.from_inputs(view, inputs)
        return self.propose(view, asker, query, inputs, unknown=unknown)

    def stored_asker(
        self, view: IndexView, standing: Standing, query: RecommendationQuery
    ) -> AskerInputs | None:
        """Return a user's inputs if the view's history is the present one, otherwise None.

        Raises GoneError and UnknownUserError.
        """
        if not isinstance(query.person, str):
            return None
        if not standing.suppressed.isdisjoint(self._hashes(query)):
            raise GoneError
        asker = standing.askers.get(query.person)
        if asker is None:
            raise unknown_user(self._pseudonyms)
        stored = view.state.histories.get(query.person) or NO_HISTORY
        if asker.is_changed or stored.is_restricted:
            return None
        return AskerInputs(
            user=asker.user,
            data_version=standing.data_version,
            alias=standing.alias,
            user_version=stored.version_with(asker.user.attributes),
            is_restoring=standing.is_restoring,
        )

    def propose(
        self,
        view: IndexView,
        asker: AskerItems,
        query: RecommendationQuery,
        inputs: AskerInputs,
        *,
        unknown: bool,
    ) -> PreparedQuery:
        """Prepare a query with these inputs, which are as new as the view, or newer."""
        refuse_while_restoring(inputs.is_restoring)
        start, stop = (0, 0) if query.item_ids else tier_bounds(query, self.tier_size)
        return PreparedQuery(
            query=query,
            inputs=inputs,
            proposal=propose(view, asker, query, start, stop),
            start=start,
            unknown=unknown,
            tag_versions=view.tag_versions,
        )


def refuse_while_restoring(is_restoring: bool) -> None:
    """Raise RestoringError: the statistics and the weights may know forgotten persons again."""
    if is_restoring:
        raise RestoringError
