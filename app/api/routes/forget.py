"""Deletion requests: create, list, read, cancel, hold, release and certificate."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Query, Response, status
from fastapi.responses import HTMLResponse

from app.api.dependencies import (
    DEFAULT_PAGE,
    Cursor,
    IdempotencyKey,
    IsDryRun,
    Limit,
    Reading,
    RequestPath,
    TheGateway,
    Writing,
    WritingUnlessDryRun,
)
from app.api.followed_answers import WaitSeconds, answered_after
from app.api.request_filters import Matching
from app.api.responses import problems
from app.api.schemas.certificates import CertificateAnswer, CertificateList
from app.api.schemas.forget import DryRunAnswer, ForgetAnswer, ForgetBody, ForgetPage
from app.api.state import Gateway
from app.services.certificates import certificate_of, certificates_of
from app.services.dry_run import dry_run_forget
from app.services.forget import (
    cancel_forget,
    hold_forget,
    release_forget,
    request_forget,
)
from app.storage.unit_of_work import UnitOfWork
from app.web.certificate_page import certificate_page, content_security_policy, page_name

#: The certificates of a request are numbered from 1.
CertificateNumber = Annotated[int | None, Query(ge=1)]
WithTotal = Annotated[bool, Query(description="`false` saves the counting, and `total` is null.")]

router = APIRouter(prefix="/forget", tags=["deletion requests"])


@router.post(
    "",
    status_code=status.HTTP_202_ACCEPTED,
    response_model=ForgetAnswer,
    responses=problems(
        "unknown-user",
        "unknown-item",
        "unknown-interaction",
        "idempotency-conflict",
        "invalid-input",
        "body-too-large",
        "unsupported-media-type",
    )
    | {
        status.HTTP_200_OK: {
            "model": ForgetAnswer | DryRunAnswer,
            "description": "An earlier request covers the deletion, the deletion is completed "
            "after the preferred wait, or the result of a dry run",
        }
    },
)
def forget(  # noqa: PLR0913, PLR0917 -- each is a parameter of the call
    body: ForgetBody,
    gateway: TheGateway,
    uow: WritingUnlessDryRun,
    response: Response,
    tasks: BackgroundTasks,
    idempotency_key: IdempotencyKey = None,
    dry_run: IsDryRun = False,
    wait: WaitSeconds = None,
) -> ForgetAnswer | Response:
    """Request the deletion of a user, of some of a user's interactions, or of an item.

    `202`: the request is committed and its subject is suppressed. `200`: an earlier request already
    covers this deletion, and is returned; or the deletion is completed after the wait. With
    `dry_run=true`: `200` with the rows, the batch and the expected times; nothing is stored, nor is
    the `Idempotency-Key`.
    """
    if dry_run:
        result = dry_run_forget(
            uow, gateway.pseudonyms, gateway.settings, body.command(), idempotency_key
        )
        answer = DryRunAnswer.of(result)
        return Response(answer.model_dump_json(), media_type="application/json")
    recorded = record(body, gateway, uow, response, tasks, idempotency_key)
    return answered_after(gateway.following, recorded, wait, response)


def record(
    body: ForgetBody,
    gateway: Gateway,
    uow: UnitOfWork,
    response: Response,
    tasks: BackgroundTasks,
    idempotency_key: str | None,
) -> ForgetAnswer:
    """Record the request, and set status and headers of the response."""
    request, created = request_forget(
        uow,
        gateway.pseudonyms,
        gateway.settings,
        body.command(),
        idempotency_key,
    )
    response.headers["Location"] = f"{gateway.settings.root_path}/forget/{request.id}"
    # A background task, because the replica reads the change after the commit.
    tasks.add_task(gateway.replica.data_changed)
    if not created:
        response.status_code = status.HTTP_200_OK
    (answer,) = ForgetAnswer.read(uow, [request], gateway.settings.exact)
    return answer


@router.get("", responses=problems("invalid-input"))
def list_all(
    gateway: TheGateway,
    uow: Reading,
    matching: Matching,
    limit: Limit = DEFAULT_PAGE,
    cursor: Cursor = None,
    total: WithTotal = True,
) -> ForgetPage:
    """List the deletion requests that meet all given conditions, newest first."""
    mode = gateway.settings.exact
    return ForgetPage.read(uow, mode, matching, limit, cursor, with_total=total)


@router.get(
    "/{request_id}",
    response_model=ForgetAnswer,
    responses=problems("unknown-request", "invalid-input"),
)
def read(
    request_id: RequestPath, gateway: TheGateway, uow: Reading, wait: WaitSeconds = None
) -> ForgetAnswer | Response:
    """Return a deletion request with its status, its progress and what its audit shows."""
    request = uow.requests.get(request_id)
    (answer,) = ForgetAnswer.read(uow, [request], gateway.settings.exact)
    return answered_after(gateway.following, answer, wait)


@router.delete(
    "/{request_id}", responses=problems("unknown-request", "not-cancellable", "invalid-input")
)
def cancel(request_id: RequestPath, uow: Writing) -> ForgetAnswer:
    """Cancel a scheduled deletion request and end the suppression of its subject."""
    return ForgetAnswer.of(cancel_forget(uow, request_id))


@router.post(
    "/{request_id}/hold",
    responses=problems("unknown-request", "illegal-transition", "conflict", "invalid-input"),
)
def hold(request_id: RequestPath, uow: Writing) -> ForgetAnswer:
    """Put a scheduled deletion request on hold. Its subject stays suppressed."""
    return ForgetAnswer.of(hold_forget(uow, request_id))


@router.post(
    "/{request_id}/release",
    responses=problems("unknown-request", "illegal-transition", "conflict", "invalid-input"),
)
def release(request_id: RequestPath, gateway: TheGateway, uow: Writing) -> ForgetAnswer:
    """Resume a deletion request that is on hold or dead."""
    request = release_forget(uow, request_id)
    (answer,) = ForgetAnswer.read(uow, [request], gateway.settings.exact)
    return answer


@router.get(
    "/{request_id}/certificate",
    responses=problems(
        "unknown-request", "certificate-not-ready", "unknown-certificate", "invalid-input"
    ),
)
def certificate(
    request_id: RequestPath, uow: Reading, number: CertificateNumber = None
) -> dict[str, Any]:
    """Return the newest signed certificate of a completed deletion, for `lethe verify`.

    With `number`, return that certificate.
    """
    return certificate_of(uow, request_id, number)


@router.get(
    "/{request_id}/certificate.html",
    response_class=HTMLResponse,
    responses=problems(
        "unknown-request", "certificate-not-ready", "unknown-certificate", "invalid-input"
    ),
)
def certificate_html(
    request_id: RequestPath, uow: Reading, number: CertificateNumber = None
) -> HTMLResponse:
    """Return the certificate as a page for people, to read, print and save.

    The page holds the signed certificate, so `lethe verify` checks the saved page. `number` is as
    in the call for the certificate itself.
    """
    envelope = certificate_of(uow, request_id, number)
    headers = {
        "Content-Security-Policy": content_security_policy(),
        "Content-Disposition": f'inline; filename="{page_name(envelope)}"',
    }
    return HTMLResponse(certificate_page(envelope), headers=headers)


@router.get("/{request_id}/certificates", responses=problems("unknown-request", "invalid-input"))
def certificates(request_id: RequestPath, uow: Reading) -> CertificateList:
    """Return all certificates of a deletion request, oldest first; none before completion."""
    stored = certificates_of(uow, request_id)
    return CertificateList(items=[CertificateAnswer.of(certificate) for certificate in stored])
