"""Import a data set: read it with `models.datasets` and store it with `app.services.imports`.

Progress is emitted as events, which `app/cli/import_data.py` reads as lines of JSON:
`{"stage": "read" | "store", "done", "total"}`, in bytes or rows, and at the end
`{"stage": "done", "summary": {…}}`. Events have counts and line numbers, never a line's content.

In the summary, lines = accepted + described + duplicates + rejected. `users`, `items` and
`interactions` count stored rows; `skipped` counts rows that were read but not stored, by reason:
`forgotten` (a rating whose user, item or pair is suppressed), `forgotten_users`,
`forgotten_items`, `unknown_item`, `older` or `invalid`; `invalid` counts the invalid rows by
fault. Rejected lines are grouped by reason, with the first of them as examples ("file:line").
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from app.domain.catalog import Interaction, User
from app.domain.errors import InvalidInputError
from app.services.imports import authors_of_texts, import_data, items_to_name
from models.datasets.detect import read
from models.datasets.errors import DataSetError
from models.datasets.options import ReadOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from app.domain.catalog import NewItem
    from app.services.imports import ImportResult
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWorkFactory
    from models.data.interactions import Interactions, ItemRecord
    from models.datasets.read_report import ReadReport

    Emit = Callable[[dict[str, Any]], None]

_CHUNK = 5000


def run_import(
    path: Path,
    format: str,  # noqa: A002 -- the name of the CLI's option
    uow_factory: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    emit: Emit,
    options: ReadOptions | None = None,
) -> dict[str, Any]:
    """Read the data set at `path`, store it and return the summary.

    A repeated import changes nothing. Raises InvalidInputError if the data set cannot be read; then
    nothing is stored.
    """
    with uow_factory(write=False) as uow:
        authors = authors_of_texts(uow, pseudonyms)
    options = replace(options or ReadOptions(), author=authors)
    try:
        data, report = read(path, format, _progress(emit, "read"), options)
    except DataSetError as error:
        raise InvalidInputError(str(error)) from error
    if report.no_timestamps:
        with uow_factory() as uow:
            uow.state.record_drawn_times(report.no_timestamps)
    result = _store(data, uow_factory, pseudonyms, emit)
    summary = _summary(report, result)
    emit({"stage": "done", "summary": summary})
    return summary


def _progress(emit: Emit, stage: str) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        emit({"stage": stage, "done": done, "total": total})

    return progress


def _store(
    data: Interactions, uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms, emit: Emit
) -> ImportResult:
    catalog_items = [item for item in data.items if not item.from_ratings]
    rated_items = _rated_items(data, uow_factory, pseudonyms)
    described_by = {item.id: item.described_by for item in rated_items if item.described_by}
    total = len(described_by) + len(catalog_items) + len(rated_items) + len(data.users) + len(data)
    done = 0
    progress = _progress(emit, "store")
    progress(done, total)

    def stored(rows: int) -> None:
        nonlocal done
        done += rows
        progress(done, total)

    return import_data(
        uow_factory,
        pseudonyms,
        users=(User(id=user.id, attributes=dict(user.attributes)) for user in data.users),
        items=_items(catalog_items),
        rated_items=_items(rated_items),
        described_by=described_by,
        interactions=_interactions(data),
        chunk=_CHUNK,
        on_progress=stored,
    )


def _rated_items(
    data: Interactions, uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms
) -> list[ItemRecord]:
    """Return the items without a line in a catalog file that a row of a user to store names."""
    candidates = np.array([item.from_ratings for item in data.items])
    rows = np.flatnonzero(candidates[data.item])
    pairs = (
        (data.users[user].id, data.items[item].id)
        for user, item in zip(data.user[rows].tolist(), data.item[rows].tolist(), strict=True)
    )
    with uow_factory(write=False) as uow:
        named = items_to_name(uow, pseudonyms, pairs)
    return [item for item in data.items if item.from_ratings and item.id in named]


def _items(items: Iterable[ItemRecord]) -> Iterator[NewItem]:
    for item in items:
        # The reader gives an item without a title its id as title. Storing decides that again,
        # because an empty title erases none.
        title = "" if item.title == item.id else item.title
        yield item.id, title, {name: list(values) for name, values in item.attributes.items()}


def _interactions(data: Interactions) -> Iterator[Interaction]:
    """Yield the ratings user by user, so that a transaction concerns few users."""
    for row in data.sorted_rows().tolist():
        yield Interaction(
            user_id=data.users[data.user[row]].id,
            item_id=data.items[data.item[row]].id,
            rating=float(data.rating[row]),
            timestamp=int(data.timestamp[row]),
        )


def _summary(report: ReadReport, result: ImportResult) -> dict[str, Any]:
    return {
        "format": report.format,
        "lines": report.lines,
        "accepted": report.accepted,
        "described": report.described,
        "duplicates": report.duplicates,
        "rejected": [
            {
                "reason": reason,
                "count": group.count,
                "examples": [f"{line.file}:{line.line}" for line in group.examples],
            }
            for reason, group in report.rejected_by_reason()
        ],
        "notes": list(report.notes),
        **asdict(result),
    }
