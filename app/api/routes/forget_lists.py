"""Lists of deletions: record many users, and read the outcome of each row."""

from __future__ import annotations

import csv
import io
from email.message import Message
from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio
from fastapi import APIRouter, Header, HTTPException, Path, Query, Request, Response, status
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from app.api.dependencies import Reading, TheGateway
from app.api.responses import problems
from app.api.schemas.common import Reference, Token
from app.api.schemas.forget_lists import ForgetListAnswer, RowResultAnswer, RowResultPage
from app.api.subject_lists import MAX_ROWS, READERS, ListReader, Row
from app.domain.errors import InvalidInputError
from app.domain.forget_lists import RowOutcome
from app.domain.requests import Attribution, RequestReason
from app.services.forget_lists import ListCommand, ListRecorder
from app.services.pagination import invalid_cursor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.api.state import Gateway
    from app.domain.forget_lists import ForgetList

router = APIRouter(prefix="/forget/bulk", tags=["deletion requests"])

#: Lists that one process records at a time. Each holds a thread, and often the data lock.
_LIMITER: Final = anyio.CapacityLimiter(2)
#: Rows per page of the results, at most and by default, and per part of a CSV answer.
_MAX_RESULTS: Final = 10_000
_RESULTS: Final = 1_000
_CSV: Final = "text/csv"
_ROW_ID: Final = {"type": "string", "maxLength": 200}
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": f"Up to {MAX_ROWS:,} rows in UTF-8, one user per row.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["user_ids"],
                    "additionalProperties": False,
                    "properties": {
                        "user_ids": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": MAX_ROWS,
                            "items": {"anyOf": [_ROW_ID, {"type": "integer"}]},
                        }
                    },
                },
                "example": {"user_ids": ["42", "43"]},
            },
            _CSV: {"schema": {"type": "string"}, "example": "user_id\n42\n43\n"},
            "application/x-ndjson": {
                "schema": {"type": "string"},
                "example": '{"user_id": "42"}\n{"user_id": "43"}\n',
            },
        },
    }
}

ListPath = Annotated[Token, Path(description="The deletion list's id.")]
ListKey = Annotated[
    Token | None,
    Header(
        alias="Idempotency-Key",
        description="A repeated call with the same key continues or returns the same list.",
    ),
]


@router.post(
    "",
    status_code=status.HTTP_202_ACCEPTED,
    response_model=ForgetListAnswer,
    openapi_extra=_BODY,
    responses=problems(
        "idempotency-conflict",
        "invalid-input",
        "body-too-large",
        "list-too-long",
        "unsupported-media-type",
        "ledger-unavailable",
        "unavailable",
    )
    | {
        status.HTTP_200_OK: {
            "model": ForgetListAnswer,
            "description": "The list of this Idempotency-Key was recorded before",
        }
    },
)
async def forget_many(  # noqa: PLR0913, PLR0917 -- each is a parameter of the call
    request: Request,
    response: Response,
    gateway: TheGateway,
    suppress_unknown: Annotated[
        bool, Query(description="Suppress users without data too, so that later data is refused.")
    ] = False,
    requested_by: Annotated[
        Reference | None,
        Query(description="Who requested the deletions, for every row. No personal data."),
    ] = None,
    reason: Annotated[
        RequestReason, Query(description="Why the deletions are requested, for every row.")
    ] = RequestReason.USER_REQUEST,
    reference: Annotated[
        Reference | None,
        Query(description="The caller's own ticket id, for every row. No personal data."),
    ] = None,
    idempotency_key: ListKey = None,
) -> ForgetListAnswer:
    """Request the deletion of up to 100,000 users, with one outcome per row.

    `202`: every row has its outcome, all requests are committed and their users suppressed. An
    invalid or unknown id affects no other row. `200`: the list was recorded before.
    """
    rows = await _read(request)
    command = ListCommand(
        rows=rows,
        suppress_unknown=suppress_unknown,
        attribution=Attribution(requested_by=requested_by, reason=reason, reference=reference),
    )
    recorder = ListRecorder(
        factory=gateway.uow,
        pseudonyms=gateway.pseudonyms,
        settings=gateway.settings,
        on_chunk=gateway.replica.data_changed,
        is_stopping=lambda: gateway.following.is_stopped,
    )

    def record() -> tuple[ForgetListAnswer, bool]:
        forget_list, recorded_any = recorder.record(command, idempotency_key)
        return _answer(gateway, forget_list), recorded_any

    answer, recorded_any = await anyio.to_thread.run_sync(record, limiter=_LIMITER)
    if not recorded_any:
        response.status_code = status.HTTP_200_OK
    response.headers["Location"] = f"{gateway.settings.root_path}/forget/bulk/{answer.id}"
    return answer


@router.get("/{list_id}", responses=problems("unknown-list", "invalid-input"))
def read(list_id: ListPath, uow: Reading) -> ForgetListAnswer:
    """Return a deletion list with the number of rows of each outcome."""
    return ForgetListAnswer.read(uow, uow.forget_lists.get(list_id))


@router.get(
    "/{list_id}/results",
    response_model=RowResultPage,
    responses=problems("unknown-list", "invalid-input")
    | {
        status.HTTP_200_OK: {
            "description": "A page of outcomes; with `Accept: text/csv` all of them",
            "content": {
                _CSV: {
                    "schema": {"type": "string"},
                    "example": "row,outcome,request_id,detail\r\n1,accepted,req_…,\r\n",
                }
            },
        }
    },
)
def results(
    list_id: ListPath,
    gateway: TheGateway,
    uow: Reading,
    outcome: Annotated[
        tuple[RowOutcome, ...], Query(description="May be repeated: any of these outcomes.")
    ] = (),
    limit: Annotated[int, Query(ge=1, le=_MAX_RESULTS, description="Rows per page.")] = _RESULTS,
    cursor: Annotated[
        str | None,
        Query(max_length=len(str(MAX_ROWS)), description="`next_cursor` of the previous page."),
    ] = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "application/json",
) -> RowResultPage | Response:
    """Return the outcomes of the rows in the order of the list.

    With `Accept: text/csv`, `limit` and `cursor` have no effect.
    """
    uow.forget_lists.get(list_id)
    if _first_type(accept) == _CSV:
        lines = _csv_lines(gateway, list_id, outcome)
        return StreamingResponse(lines, media_type=_CSV, headers={"Vary": "Accept"})
    after = 0
    if cursor is not None:
        if not (cursor.isascii() and cursor.isdigit()):
            raise invalid_cursor()
        after = int(cursor)
    numbered = uow.forget_lists.results(list_id, after, limit + 1, outcome)
    items = [RowResultAnswer.of(entry) for entry in numbered[:limit]]
    is_last = len(numbered) <= limit
    page = RowResultPage(items=items, next_cursor=None if is_last else str(items[-1].row))
    return Response(
        page.model_dump_json(), media_type="application/json", headers={"Vary": "Accept"}
    )


async def _read(request: Request) -> list[Row]:
    """Return the rows of the body. The parts are read in a thread while further parts arrive."""
    reader = _reader(request)
    try:
        async for part in request.stream():
            await anyio.to_thread.run_sync(reader.feed, part)
    except ClientDisconnect as error:
        raise HTTPException(status.HTTP_400_BAD_REQUEST) from error
    return await anyio.to_thread.run_sync(reader.close)


def _reader(request: Request) -> ListReader:
    """Return the reader for the content type, which the access guard has checked."""
    header = Message()
    header["Content-Type"] = request.headers.get("content-type", "")
    if header.get_content_charset("utf-8") not in {"utf-8", "utf8", "us-ascii"}:
        raise InvalidInputError("The charset of the body must be UTF-8.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise InvalidInputError(
            "The body must not be compressed: send it without Content-Encoding."
        )
    return READERS.get(header.get_content_type(), READERS["application/json"])()


def _answer(gateway: Gateway, forget_list: ForgetList) -> ForgetListAnswer:
    with gateway.uow(write=False) as uow:
        return ForgetListAnswer.read(uow, forget_list)


def _first_type(accept: str) -> str:
    """Return the media type that an Accept header names first."""
    return accept.partition(",")[0].partition(";")[0].strip().lower()


def _csv_lines(gateway: Gateway, list_id: str, outcomes: tuple[RowOutcome, ...]) -> Iterator[str]:
    """Yield the outcomes as CSV (RFC 4180), a page of rows at a time."""
    after = 0
    yield _csv([("row", "outcome", "request_id", "detail")])
    while True:
        with gateway.uow(write=False) as uow:
            numbered = uow.forget_lists.results(list_id, after, _MAX_RESULTS, outcomes)
        if not numbered:
            return
        after = numbered[-1].row
        yield _csv(
            (entry.row, entry.result.outcome.value, entry.result.request_id, entry.result.detail)
            for entry in numbered
        )


def _csv(rows: Any) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue()
