"""The events of a deletion request."""

from __future__ import annotations

from fastapi import APIRouter, Response, status

from app.api.dependencies import Reading, RequestPath, TheGateway
from app.api.followed_answers import LastEventId, event_stream
from app.api.responses import problems
from app.api.schemas.forget import ForgetAnswer

router = APIRouter(prefix="/forget", tags=["deletion requests"])


@router.get(
    "/{request_id}/events",
    response_class=Response,
    responses=problems("unknown-request", "invalid-input", "overloaded")
    | {
        status.HTTP_200_OK: {
            "description": "Events of the type `request`, each with a `ForgetAnswer` as its data",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        status.HTTP_204_NO_CONTENT: {
            "description": "The request has ended, and `Last-Event-ID` is its last event"
        },
    },
)
def events(
    request_id: RequestPath,
    gateway: TheGateway,
    uow: Reading,
    last_event_id: LastEventId = None,
) -> Response:
    """Stream the states of a deletion request as server-sent events.

    The first event has the state now, unless `Last-Event-ID` names this state. The stream ends when
    the request is cancelled, or completed and, if promised, exact. An event is a state and not a
    history: states between two reads of the database are not reported.
    """
    request = uow.requests.get(request_id)
    (answer,) = ForgetAnswer.read(uow, [request], gateway.settings.exact)
    return event_stream(gateway.following, answer, last_event_id)
