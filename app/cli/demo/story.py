"""The steps of the demo. Every printed figure comes from the running service."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.text import Text

from app.cli.client import ServiceError
from app.cli.demo.load import BackgroundLoad
from app.cli.demo.participants import choose_participants
from app.cli.demo.second_certificate import (
    certificate_comparison,
    checked,
    reason_not_to_wait,
    seconds_to_issue,
    state_at_completion,
)
from app.cli.failures import CommandError
from app.cli.forget import UNFINISHED
from app.cli.import_data import import_report, run_import
from app.cli.jobs import audit_report, follow_job
from app.cli.recommend import recommendations_table
from app.cli.renewals import wait_until_exact
from app.cli.screen import facts
from app.cli.train import run_training, training_summary
from app.cli.verify import certificate_summary

if TYPE_CHECKING:
    from pathlib import Path

    from app.cli.client import Service
    from app.cli.demo.second_certificate import CheckedCertificate
    from app.cli.installation import Installation
    from app.cli.screen import Screen

_GONE = 410
_READY_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Scene:
    """The screen, the installation and the worker's log file of the demo."""

    screen: Screen
    installation: Installation
    log: Path


class Story:
    """Runs and prints the steps: import, train, recommend, forget, verify, renew, compare."""

    def __init__(self, scene: Scene, data: Path) -> None:
        self._screen = scene.screen
        self._installation = scene.installation
        self._log = scene.log
        self._data = data
        self._document: dict[str, Any] = {}

    def prepare(self) -> None:
        """Import the data set and train the first release."""
        self._title(1, f"Import {escape(str(self._data))}")
        summary = run_import(self._screen, self._data, "auto")
        self._screen.say(import_report(summary))
        self._title(2, "Train a recommender on it, and publish it as the first release")
        job = run_training(
            self._screen, self._installation, self._installation.settings.backbone, log=self._log
        )
        self._screen.say(*training_summary(job))
        self._document |= {"import": summary, "train": job}

    def forget(self, service: Service) -> dict[str, Any]:
        """Forget one user while other users are served; return all figures."""
        participants = choose_participants(self._installation)
        _wait_until_ready(service)
        other = participants.others[len(participants.others) // 2]
        before = service.recommend(participants.forgotten, 5)
        self._title(
            4,
            f"Recommendations for user {participants.forgotten} ({participants.ratings} ratings)",
        )
        self._screen.say(recommendations_table(before))
        other_before = service.recommend(other, 5)
        with BackgroundLoad(service, participants.others) as load:
            request, job, seconds = self._delete(service, participants.forgotten)
        figures = load.figures()
        self._show_audit(request, job)
        self._show_swap(service, before["release"], request["release"], figures)
        self._show_forgotten(service, participants.forgotten)
        other_after = service.recommend(other, 5)
        self._show_others(job, other, other_before, other_after)
        certificate = self._show_certificate(service, request["id"])
        renewal = self._renew(service, request, certificate, participants.others)
        self._show_totals(job, (seconds, renewal["seconds_to_exact"]), figures)
        return (
            self._document
            | {
                "address": service.url,
                "request": request,
                "job": job,
                "seconds_to_completed": seconds,
                "load": figures,
                "others": {"user": other, "before": other_before, "after": other_after},
                "certificate": certificate.content,
            }
            | renewal
        )

    def _delete(self, service: Service, user: str) -> tuple[dict[str, Any], dict[str, Any], float]:
        """Send the request and follow it to completion."""
        self._title(5, f'POST /forget {{"user_id": "{user}"}}')
        started = time.monotonic()
        request = service.call("POST", "/forget", json={"user_id": user})
        self._screen.say(f"  202 Accepted: suppressed from now on, as {request['id']}")

        def read() -> dict[str, Any] | None:
            nonlocal request
            request = service.get(f"/forget/{request['id']}")
            return service.get(f"/jobs/{request['job_id']}") if request["job_id"] else None

        job = follow_job(
            self._screen,
            read,
            until=lambda job: request["status"] not in UNFINISHED and job["status"] == "succeeded",
            check=lambda: _require_progress(request),
        )
        seconds = time.monotonic() - started
        self._screen.say(f"  completed after [bold]{seconds:.1f} s[/bold]")
        return request, job, seconds

    def _show_audit(self, request: dict[str, Any], job: dict[str, Any]) -> None:
        self._title(6, f"Audit of this person: [bold]{request['outcome']}[/bold]")
        self._screen.say(Text(request["finding"]["sentence"]))
        for attempt in job["metrics"].get("tries", []):
            if attempt["audit"]:
                self._screen.say(f"  {attempt['attempt']}, {attempt['method']}:")
                self._screen.say(audit_report(attempt["audit"]))

    def _show_swap(self, service: Service, before: str, after: str, load: dict[str, Any]) -> None:
        self._title(7, "Swap to the new release while other users are served")
        page = service.get("/releases")
        serving = sum(replica["serving"] == after for replica in page["replicas"])
        old = next(release for release in page["items"] if release["id"] == before)
        self._screen.say(
            f"  before: {before}, now {old['status']}",
            f"  after:  [bold]{after}[/bold], on {serving} of {len(page['replicas'])} replicas",
            f"  other users, meanwhile: {_answers(load)}",
        )

    def _show_forgotten(self, service: Service, user: str) -> None:
        self._title(8, f"GET /recommend/{user}")
        try:
            service.recommend(user, 5)
        except ServiceError as problem:
            if problem.status != _GONE:
                raise
            self._screen.say(f"  [bold]410 Gone[/bold]: {problem}")
        else:
            raise CommandError(f"User {user} still gets recommendations.")

    def _show_others(
        self,
        job: dict[str, Any],
        other: str,
        before: dict[str, Any],
        after: dict[str, Any],
    ) -> None:
        self._title(9, "Other users, before and after")
        for attempt in job["metrics"].get("tries", [])[-1:]:
            utility = attempt["audit"].get("utility")
            if utility:
                self._screen.say(
                    f"  test AUC {utility['before']['auc']:.4f} before, "
                    f"[bold]{utility['after']['auc']:.4f}[/bold] after"
                )
        old_ids = {item["item_id"] for item in before["items"]}
        kept = sum(item["item_id"] in old_ids for item in after["items"])
        self._screen.say(
            f"  user {other}: {kept} of the {len(after['items'])} best items stay the same",
            recommendations_table(after),
        )

    def _show_certificate(self, service: Service, request_id: str) -> CheckedCertificate:
        self._title(10, "Certificate, verified offline against this installation's key")
        envelope = service.get(f"/forget/{request_id}/certificate?number=1")
        certificate = checked(self._installation, envelope)
        self._screen.say(*certificate_summary(certificate.verified))
        return certificate

    def _renew(
        self,
        service: Service,
        request: dict[str, Any],
        first: CheckedCertificate,
        others: tuple[str, ...],
    ) -> dict[str, Any]:
        """Wait until the deletion is exact, and compare the certificates; return the figures."""
        self._title(11, "Renewal: the model is trained again, without the deleted rows")
        answer: dict[str, Any] = {"renewal": None, "seconds_to_exact": None}
        path = f"/forget/{request['id']}"
        reason = reason_not_to_wait(self._installation, state_at_completion(first))
        if reason is not None:
            self._screen.say(f"  {reason}")
            return answer | {"exact_certificate": None, "load_during_renewal": None}
        with BackgroundLoad(service, others) as load:
            wait_until_exact(
                self._screen,
                lambda: service.get(path),
                lambda: service.get("/jobs")["items"],
            )
        figures = load.figures()
        second = checked(self._installation, service.get(f"{path}/certificate"))
        self._screen.say(
            f"  exact after [bold]{seconds_to_issue(second):.1f} s[/bold]",
            f"  other users, meanwhile: {_answers(figures)}",
        )
        self._title(12, "Second certificate, verified as the first, and what changed")
        self._screen.say(certificate_comparison(first, second))
        return {
            "renewal": service.get(f"/jobs/{second.content['job_id']}"),
            "seconds_to_exact": seconds_to_issue(second),
            "exact_certificate": second.content,
            "load_during_renewal": figures,
        }

    def _show_totals(
        self, job: dict[str, Any], seconds: tuple[float, float | None], load: dict[str, Any]
    ) -> None:
        """Show totals; `seconds` are those to the completion and to exactness."""
        train = self._document["train"]["metrics"]["tries"][-1]["training"]
        completed, exact = seconds
        self._title(12 if exact is None else 13, "Totals")
        self._screen.say(
            facts(
                {
                    "request to completed": f"{completed:.1f} s",
                    "request to exact": "later" if exact is None else f"{exact:.1f} s",
                    "training the first release": f"{train['fit_seconds']:.1f} s",
                    "rows deleted": job["metrics"].get("rows_deleted"),
                    "recommendations answered": load["answered"],
                    "recommendations failed": load["failed"],
                }
            )
        )

    def _title(self, number: int, text: str) -> None:
        self._screen.say(f"\n[bold]{number}[/bold]  {text}")


def _answers(load: dict[str, Any]) -> str:
    return (
        f"{load['answered']} answered, {load['failed']} failed, slowest {load['slowest_ms']:.0f} ms"
    )


def _require_progress(request: dict[str, Any]) -> None:
    """Raise CommandError if the request can no longer complete without an operator."""
    if request["status"] not in UNFINISHED and request["status"] != "completed":
        raise CommandError(f"The request {request['id']} is {request['status']}. See: lethe jobs")


def _wait_until_ready(service: Service) -> None:
    """Wait until the gateway has loaded the release; raises CommandError after the timeout."""
    deadline = time.monotonic() + _READY_TIMEOUT
    while True:
        try:
            service.get("/readyz")
        except CommandError as error:
            if time.monotonic() > deadline:
                raise CommandError(
                    f"The gateway did not load the release within {_READY_TIMEOUT:.0f} s."
                ) from error
            time.sleep(0.1)
        else:
            return
