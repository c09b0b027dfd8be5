"""Entity tags of answers: keyed digests of everything that decides whether an answer is current.

The tag of a recommendation covers the query, the release, the newest change of suppressions, the
asker's own data and the newest change of the catalog. Ratings by other users do not change the
tag: they may change the answer a little, and any release may take them up.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.catalog import CATALOG_KINDS, SUPPRESSION_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from app.domain.catalog import UserVersion
    from app.domain.recommendations import (
        AttributeFilter,
        RecommendationQuery,
        SimilarItem,
    )
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWork

#: The purpose of the keyed digest, so that a tag equals no other keyed hash.
_PURPOSE: Final = "entity-tag"


@dataclass(frozen=True, slots=True, kw_only=True)
class TagVersions:
    """The newest changes of suppressions and of the catalog up to data version `version`."""

    version: int
    #: No deletion was accepted or canceled between this version and `version`.
    suppressions: int
    #: No item was changed between this version and `version`.
    catalog: int


class TagVersionsCache:
    """Follow the change log for entity tags. Thread-safe.

    The log may be shortened from its beginning. A version that can no longer be read from the log
    is replaced by the version at which the log begins, which is never smaller. So a tag from before
    a deletion is never valid again.
    """

    def __init__(self) -> None:
        """Start before the first change."""
        self._newest = TagVersions(version=0, suppressions=0, catalog=0)

    def at(self, uow: UnitOfWork, version: int) -> TagVersions:
        """Return the versions in this snapshot, whose data version is `version`."""
        # The value is read once and replaced as a whole, so concurrent calls need no lock.
        known = self._newest
        if known.version == version:
            return known
        if known.version > version:
            # A concurrent call has read a newer snapshot.
            return TagVersions(
                version=version,
                suppressions=min(known.suppressions, version),
                catalog=min(known.catalog, version),
            )
        changes = uow.state.newest_changes(known.version)
        first = min((change.first for change in changes.values()), default=version + 1)
        is_complete = first == known.version + 1

        def newest(kinds: Iterable[str], before: int) -> int:
            logged = [changes[kind].last for kind in kinds if kind in changes]
            return max(logged, default=before if is_complete else first - 1)

        current = TagVersions(
            version=version,
            suppressions=newest(SUPPRESSION_KINDS, known.suppressions),
            catalog=newest(CATALOG_KINDS, known.catalog),
        )
        self._newest = current
        return current


def recommendation_tag(
    pseudonyms: Pseudonyms,
    query: RecommendationQuery,
    release: str | None,
    versions: TagVersions | None,
    asker: UserVersion | None,
) -> str | None:
    """Return the entity tag of an answer to a normal query.

    Return None for an answer without a release, because a release may rank the same query the next
    moment, for visitors, and where the version of the asker's data is not known.
    """
    if release is None or versions is None or asker is None or not isinstance(query.person, str):
        return None
    return _tag(
        pseudonyms,
        "recommendation",
        query.person,
        [query.n, query.offset, query.exclude_seen, query.explain, query.fallback],
        _parts_of_filter(query.filter),
        query.item_ids,
        release,
        [versions.suppressions, versions.catalog],
        [asker.attributes, asker.interactions, asker.newest],
    )


def similar_tag(
    pseudonyms: Pseudonyms,
    item_id: str,
    n: int,
    attribute_filter: AttributeFilter,
    items: Iterable[SimilarItem],
) -> str:
    """Return the entity tag of similar items, which covers the answer itself.

    The answer is computed for every request, and no release stands for its statistics.
    """
    answer = [[item.item_id, item.title, item.score] for item in items]
    return _tag(pseudonyms, "similar", item_id, n, _parts_of_filter(attribute_filter), answer)


def _tag(pseudonyms: Pseudonyms, *parts: object) -> str:
    # JSON escapes everything beyond ASCII, and the digest is hexadecimal: no id reaches a header.
    digest = pseudonyms.opaque(_PURPOSE, json.dumps(parts, sort_keys=True))
    return f'"{digest}"'


def _parts_of_filter(attribute_filter: AttributeFilter) -> list[dict[str, list[str]]]:
    def part(values: Mapping[str, frozenset[str]]) -> dict[str, list[str]]:
        return {name: sorted(values[name]) for name in values}

    return [part(attribute_filter.include), part(attribute_filter.exclude)]
