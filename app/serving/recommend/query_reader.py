"""Read everything that an answer may use from one database snapshot, and recheck before sending."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from app.domain.errors import (
    GoneError,
    LetheError,
    RestoringError,
    UnavailableError,
    UnknownUserError,
)
from app.domain.recommendations import Visitor
from app.services.entity_tags import TagVersionsCache, recommendation_tag, similar_tag
from app.services.recommendation_inputs import (
    VISITOR_ID,
    SuppressedItemsCache,
    normal_query,
    read_inputs,
    read_visitor,
    recheck,
)
from app.services.validation import unknown_user
from app.serving.recommend.ranking import PreparedQuery, tier_bounds, without_items

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from app.domain.catalog import Item
    from app.domain.recommendations import AttributeFilter, RecommendationQuery, SimilarItem
    from app.services.pseudonyms import Pseudonyms
    from app.services.recommendation_inputs import Inputs, Recheck
    from app.serving.retrieval.first_stage import FirstStage
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
        self._suppressed_items = SuppressedItemsCache()
        self._tag_versions = TagVersionsCache()
        self.tier_size = tier_size

    def read(self, queries: Sequence[RecommendationQuery]) -> list[PreparedQuery | LetheError]:
        """Prepare the queries from one snapshot; an error takes the place of its query only.

        Raises UnavailableError, which concerns all queries.
        """
        with self._uow(write=False) as uow:
            return [self._prepare(uow, query) for query in queries]

    def withdraw(
        self, prepared: Sequence[PreparedQuery]
    ) -> tuple[Recheck, list[PreparedQuery | LetheError]]:
        """Recheck, and remove from the proposals what may not be recommended in this snapshot.

        GoneError takes the place of a forgotten asker, and UnavailableError of an asker with data
        in the history that has been forgotten since.
        """
        with self._uow(write=False) as uow:
            rechecked = self._recheck(uow, prepared)
            withdrawn = [self._withdraw(uow, query) for query in prepared]
        _refuse_while_restoring(rechecked.is_restoring)
        return rechecked, withdrawn

    def recheck(self, prepared: Sequence[PreparedQuery]) -> Recheck:
        """Return the changes since the oldest of these snapshots, as seen in a new snapshot."""
        with self._uow(write=False) as uow:
            rechecked = self._recheck(uow, prepared)
        _refuse_while_restoring(rechecked.is_restoring)
        return rechecked

    def matching_tag(self, query: RecommendationQuery, tags: AbstractSet[str]) -> str | None:
        """Return the current answer's entity tag if `tags` contains it.

        Raises InvalidInputError, GoneError and UnknownUserError, as an answer would.
        """
        query = normal_query(self._pseudonyms, query)
        if not isinstance(query.person, str):
            return None
        with self._uow(write=False) as uow:
            standing = uow.state.standing(
                self._pseudonyms.user_hashes(query.spelling or query.person)
            )
            if standing.suppressed:
                raise GoneError
            _refuse_while_restoring(standing.is_restoring)
            stored = uow.people.user_with_version(query.person)
            versions = self._tag_versions.at(uow, standing.data_version)
        if stored is None:
            if query.fallback:
                return None
            raise unknown_user(self._pseudonyms)
        tag = recommendation_tag(self._pseudonyms, query, standing.alias.live, versions, stored[1])
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
        with self._uow(write=False) as uow:
            standing = uow.state.standing(())
            _refuse_while_restoring(standing.is_restoring)
            version = standing.data_version
            suppressed = self._suppressed_items.at(uow, version).item_ids
            pairs = self._first_stage.similar(
                uow, item_id, n, attribute_filter, suppressed, version
            )
        return pairs, version

    def withdrawn(self, version: int, item_ids: Sequence[str]) -> set[str] | None:
        """Return the items that may not be recommended any more.

        Return None if neither deletions nor the catalog changed after this data version.
        """
        with self._uow(write=False) as uow:
            if not recheck(uow, self._pseudonyms, (), version).is_overtaken:
                return None
            return self._withdrawn_items(uow, item_ids)

    def _recheck(self, uow: UnitOfWork, prepared: Sequence[PreparedQuery]) -> Recheck:
        user_ids = [query.inputs.user.id for query in prepared]
        oldest = min(query.inputs.data_version for query in prepared)
        return recheck(
            uow, self._pseudonyms, [user for user in user_ids if user != VISITOR_ID], oldest
        )

    def _withdraw(self, uow: UnitOfWork, prepared: PreparedQuery) -> PreparedQuery | LetheError:
        try:
            inputs, _ = self._read_inputs(uow, prepared.query)
        except LetheError as error:
            return error
        usable = {event.item_id for event in inputs.history}
        if not usable.issuperset(prepared.proposal.history_ids):
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
        try:
            query = normal_query(self._pseudonyms, query)
            inputs, unknown = self._read_inputs(uow, query)
            _refuse_while_restoring(inputs.is_restoring)
            start, stop = (0, 0) if query.item_ids else tier_bounds(query, self.tier_size)
            proposal = self._first_stage.propose(uow, inputs, query, start, stop)
            tag_versions = self._tag_versions.at(uow, inputs.data_version)
        except UnavailableError:
            raise
        except LetheError as error:
            return error
        return PreparedQuery(
            query=query,
            inputs=inputs,
            proposal=proposal,
            start=start,
            unknown=unknown,
            tag_versions=tag_versions,
        )

    def _read_inputs(self, uow: UnitOfWork, query: RecommendationQuery) -> tuple[Inputs, bool]:
        """Return the inputs, and whether an unknown user was replaced by an empty visitor."""
        person = query.person
        if isinstance(person, Visitor):
            return read_visitor(uow, person, self._suppressed_items), False
        try:
            inputs = read_inputs(
                uow, self._pseudonyms, person, self._suppressed_items, query.spelling
            )
        except UnknownUserError:
            if not query.fallback:
                raise
        else:
            return inputs, False
        return read_visitor(uow, Visitor(), self._suppressed_items), True


def _refuse_while_restoring(is_restoring: bool) -> None:
    """Raise RestoringError: the statistics and the weights may know forgotten persons again."""
    if is_restoring:
        raise RestoringError
