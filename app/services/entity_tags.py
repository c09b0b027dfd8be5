"""Entity tags of answers: keyed digests of everything that decides whether an answer is current.

The tag of a recommendation covers the query, the release, the newest change of suppressions, the
asker's own data and the newest change of the catalog. Ratings by other users do not change the
tag: they may change the answer a little, and any release may take them up.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from app.domain.catalog import CATALOG_KINDS, SUPPRESSION_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from app.domain.catalog import LoggedRange, UserVersion
    from app.domain.recommendations import (
        AttributeFilter,
        RecommendationQuery,
        SimilarItem,
    )
    from app.services.pseudonyms import Pseudonyms

#: The purpose of the keyed digest, so that a tag equals no other keyed hash.
_PURPOSE: Final = "entity-tag"


@dataclass(frozen=True, slots=True, kw_only=True)
class TagVersions:
    """The newest changes of suppressions and of the catalog up to some data version.

    The change log may be shortened from its beginning. A version that can no longer be read from
    the log is replaced by the version before the beginning, which is never smaller. So a tag from
    before a deletion is never valid again.
    """

    #: No deletion was accepted or canceled after this version.
    suppressions: int
    #: No item was changed after this version.
    catalog: int

    @classmethod
    def of_log(cls, ranges: Mapping[str, LoggedRange], version: int) -> Self:
        """Return the versions at data version `version` from all entries that the log has."""
        first = min((logged.first for logged in ranges.values()), default=version + 1)
        beginning = cls(suppressions=first - 1, catalog=first - 1)
        return beginning.after((kind, logged.last) for kind, logged in ranges.items())

    def after(self, changes: Iterable[tuple[str, int]]) -> Self:
        """Return the versions after further entries of the log, given as (kind, version)."""
        suppressions, catalog = self.suppressions, self.catalog
        for kind, version in changes:
            if kind in SUPPRESSION_KINDS:
                suppressions = max(suppressions, version)
            elif kind in CATALOG_KINDS:
                catalog = max(catalog, version)
        return type(self)(suppressions=suppressions, catalog=catalog)


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
