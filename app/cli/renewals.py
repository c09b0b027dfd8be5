"""Wait until a deletion is exact, and tell when and how that happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from app.cli.jobs import ENDED, follow_job
from app.cli.screen import moment
from app.domain.renewal import ExactMode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.cli.screen import Screen

Job = dict[str, Any]
Request = dict[str, Any]


def wait_until_exact(
    screen: Screen,
    read_request: Callable[[], Request],
    read_jobs: Callable[[], Sequence[Job]],
    *,
    check: Callable[[], None] = lambda: None,
) -> Request:
    """Show the progress of renewals until the deletion is exact, and return the request.

    `read_jobs` returns the newest jobs first. `check` is as in `follow_job`.
    """
    request = read_request()
    #: Renewals that ended without success before or during the wait.
    reported = {job["id"] for job in read_jobs() if job["status"] in ENDED}

    def read() -> Job | None:
        nonlocal request
        request = read_request()
        if request["assurance"] == "exact":
            # The display ends with the request; the job may still have other requests to certify.
            return {"status": "succeeded", "stage": "done", "progress": 1.0}
        renewals = [job for job in read_jobs() if job["kind"] == "renew"]
        for job in renewals:
            if job["status"] in ENDED - {"succeeded"} and job["id"] not in reported:
                reported.add(job["id"])
                # A Text, so that brackets are not read as markup.
                screen.say(Text(f"  The renewal is {job['status']}, and repeated: {job['error']}"))
        return next((job for job in renewals if job["status"] not in ENDED), None)

    follow_job(screen, read, check=check, until=lambda _: request["assurance"] == "exact")
    return request


def exact_outlook(request: Request, mode: ExactMode | None) -> str | None:
    """Return what becomes of a completed deletion; None if the deletion is exact already.

    `mode` is LETHE_EXACT, or None if the mode is not known here.
    """
    if request["assurance"] == "exact":
        return None
    if mode is ExactMode.OFF:
        return (
            "The deletion is approximate and stays so, because LETHE_EXACT is off. An exact"
            " training makes it exact: lethe train"
        )
    due = f" by {moment(request['exact_due_at'])} UTC" if request["exact_due_at"] else ""
    return (
        f"The deletion is approximate. Lethe trains the model again without the deleted rows{due},"
        " and then signs a second certificate, which cites the first one."
    )
