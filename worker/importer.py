"""Import a data set: read it with `models.datasets` and store it with `app.services.imports`.

Progress is emitted as events, which `app/cli/import_data.py` reads as lines of JSON:
`{"stage": "read" | "store", "done", "total"}`, in bytes or rows, and at the end
`{"stage": "done", "summary": {…}}`. Events have counts and line numbers, never a line's content.
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
    """The lines rejected for one reason; `examples` are the first of them, as "file:line"."""

    reason: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSummary:
    """Counts of lines and rows. lines = accepted + described + duplicates + rejected.

    `users`, `items` and `interactions` count stored rows. `skipped` counts rows that were read but
    not stored, by reason: `forgotten` (the user or item is suppressed), `unknown_item`, `invalid`.
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


def run_import(
    path: Path,
    format: str,  # noqa: A002 -- the name of the CLI's option
    uow_factory: UnitOfWorkFactory,
    pseudonyms: Pseudonyms,
    emit: Emit,
) -> ImportSummary:
    """Read the data set at `path` and store it. A repeated import changes nothing.

    Raises InvalidInputError if the data set cannot be read; then nothing is stored.
    """
    try:
        data, report = read(path, format, _progress(emit, "read"))
    except DataSetError as error:
        raise InvalidInputError(str(error)) from error
    result = _store(data, uow_factory, pseudonyms, emit)
    summary = _summary(report, result)
    emit({"stage": "done", "summary": asdict(summary)})
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
    """Yield the ratings user by user, so that a transaction concerns few users."""
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
                examples=tuple(f"{line.file}:{line.line}" for line in group.examples),
            )
            for reason, group in report.rejected_by_reason()
        ),
        notes=tuple(report.notes),
        users=result.users,
        items=result.items,
        interactions=result.interactions,
        skipped=dict(result.skipped),
    )
