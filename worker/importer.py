"""Imports a data set: reads it with `models.datasets`, stores it through the use case.

Emits what happens as dictionaries, one JSON document each, for whoever shows the progress:
`{"stage": "read" | "store", "done", "total"}` (bytes or rows) and at the end
`{"stage": "done", "summary": {…}}`. They hold counts and line numbers, never a line.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from app.domain.catalog import Interaction, User
from app.domain.errors import InvalidInputError
from app.services.imports import import_data
from models.datasets.detect import read
from models.datasets.errors import DataSetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from app.domain.catalog import NewItem
    from app.services.imports import ImportResult
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWorkFactory
    from models.data.interactions import Interactions
    from models.datasets.read_report import ReadReport

    Emit = Callable[[dict[str, Any]], None]

_CHUNK = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedLines:
    """Lines rejected for one reason; `examples` are the first few as "file:line"."""

    reason: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSummary:
    """What was read and what was stored. lines = accepted + described + duplicates + rejected.

    `users`, `items` and `interactions` were stored; `skipped` counts what was read but not stored,
    by reason: `forgotten` (the person or item has been forgotten here), `unknown_item`, `invalid`.
    """

    format: str
    lines: int
    accepted: int
    described: int
    duplicates: int
    rejected: tuple[RejectedLines, ...]
    notes: tuple[str, ...]
    users: int
    items: int
    interactions: int
    skipped: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """Return the summary as plain data, ready for `json.dumps`."""
        return asdict(self)


def run_import(
    path: Path,
    format: str,  # noqa: A002 -- the name of the CLI's option
    uow_factory: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    emit: Emit,
) -> ImportSummary:
    """Read the data set at `path` and store it; repeating an import is harmless.

    Raises InvalidInputError, with the message for the operator, where it cannot be read; nothing
    is stored then.
    """
    try:
        data, report = read(path, format, _progress(emit, "read"))
    except DataSetError as error:
        raise InvalidInputError(str(error)) from error
    result = _store(data, uow_factory, pseudonyms, emit)
    summary = _summary(report, result)
    emit({"stage": "done", "summary": summary.as_json()})
    return summary


def _progress(emit: Emit, stage: str) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        emit({"stage": stage, "done": done, "total": total})

    return progress


def _store(
    data: Interactions, uow_factory: UnitOfWorkFactory, pseudonyms: Pseudonyms, emit: Emit
) -> ImportResult:
    total = len(data.items) + len(data.users) + len(data)
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
        items=_items(data),
        interactions=_interactions(data),
        chunk=_CHUNK,
        on_progress=stored,
    )


def _items(data: Interactions) -> Iterator[NewItem]:
    for item in data.items:
        yield item.id, item.title, {name: list(values) for name, values in item.attributes.items()}


def _interactions(data: Interactions) -> Iterator[Interaction]:
    """Yield the ratings person by person, so that a chunk concerns few people."""
    for row in data.sorted_rows().tolist():
        yield Interaction(
            user_id=data.users[data.user[row]].id,
            item_id=data.items[data.item[row]].id,
            rating=float(data.rating[row]),
            timestamp=int(data.timestamp[row]),
        )


def _summary(report: ReadReport, result: ImportResult) -> ImportSummary:
    return ImportSummary(
        format=report.format,
        lines=report.lines,
        accepted=report.accepted,
        described=report.described,
        duplicates=report.duplicates,
        rejected=tuple(
            RejectedLines(
                reason=reason,
                count=group.count,
                examples=tuple(f"{one.file}:{one.line}" for one in group.examples),
            )
            for reason, group in report.rejected_by_reason()
        ),
        notes=tuple(report.notes),
        users=result.users,
        items=result.items,
        interactions=result.interactions,
        skipped=dict(result.skipped),
    )
