"""`lethe recommend`, `lethe forget` and `lethe consent`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.api.schemas import ForgetAnswer
from app.cli.client import Service
from app.cli.failures import CommandError, command
from app.cli.following import follow_job
from app.cli.installation import open_installation
from app.cli.options import AsJson, Items, Url, User
from app.cli.processes import Children
from app.cli.reports import facts, recommendations
from app.cli.screen import Screen
from app.cli.training import ensure_worker, must_be_at_work, read_job
from app.services.forget import ForgetCommand, request_forget
from app.services.suppression import record_consent
from app.settings import get_settings

if TYPE_CHECKING:
    from app.cli.installation import Installation

_OPEN = frozenset({"scheduled", "batched", "unlearning", "auditing", "rolling_out"})


@command
def recommend(
    user: User,
    n: Annotated[int, typer.Option("-n", min=1, max=100, help="How many items.")] = 10,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Ask the running service what a user will like."""
    screen = Screen.make(as_json=as_json)
    with Service.of(get_settings(), url) as service:
        answer = service.recommend(user, n)
    screen.result(answer, recommendations(answer), f"  release {answer['release']}")


@command
def forget(
    user: User,
    item: Items = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is completed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Request the deletion of a user, or of single interactions of a user."""
    screen = Screen.make(as_json=as_json)
    settings = get_settings()
    with open_installation(settings) as installation:
        with installation.uow() as uow:
            request, created = request_forget(
                uow,
                installation.pseudonyms,
                settings,
                ForgetCommand.of(user, item or (), None),
            )
        answer = _answer(installation, request.id)
        if wait and answer["status"] != "completed":
            if created:
                screen.say(f"Recorded as {request.id}; suppressed from now on.")
            answer = _wait(screen, installation, request.id)
    told = {name: answer[name] for name in ("id", "status", "scope", "outcome", "release")}
    note = [] if created else ["An earlier request covers this one."]
    screen.result(answer, *note, facts({**told, "due": answer["due_at"]}))


@command
def consent(user: User, item: Items = None, as_json: AsJson = False) -> None:
    """Record that a forgotten user consents anew: data about them is accepted again."""
    screen = Screen.make(as_json=as_json)
    with open_installation(get_settings()) as installation, installation.uow() as uow:
        lifted = record_consent(uow, installation.pseudonyms, user, item or ())
    screen.result({"lifted": lifted}, f"Consent recorded; {lifted} tombstone(s) lifted.")


def _answer(installation: Installation, request_id: str) -> dict[str, Any]:
    with installation.uow(write=False) as uow:
        return ForgetAnswer.of(uow.requests.get(request_id)).model_dump(mode="json")


def _wait(screen: Screen, installation: Installation, request_id: str) -> dict[str, Any]:
    """Follow the request to its end, with a worker started where none is up."""
    log = Path(installation.settings.home) / "logs" / "worker.log"
    with Children() as children:
        # Not one that ends when idle: nothing is due before the cancel window is over.
        helper = ensure_worker(installation, children, log=log, until_idle=False)

        def read() -> dict[str, Any] | None:
            request = _answer(installation, request_id)
            if request["status"] not in _OPEN:
                # The bar ends with the request, not with the job: both end in one transaction.
                return {"status": request["status"], "stage": "done", "progress": 1.0}
            job_id = request["job_id"]
            return {**read_job(installation, job_id), "status": ""} if job_id else None

        follow_job(
            screen,
            read,
            check=lambda: must_be_at_work(helper),
            until=lambda job: bool(job["status"]),
        )
    answer = _answer(installation, request_id)
    if answer["status"] != "completed":
        raise CommandError(f"The request {request_id} is {answer['status']}. See: lethe jobs")
    return answer
