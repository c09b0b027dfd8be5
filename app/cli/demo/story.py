"""The demo's story. Every figure in it is read from the running service."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from app.cli import reports
from app.cli.client import ServiceError
from app.cli.data_commands import training_summary
from app.cli.demo.load import BackgroundLoad
from app.cli.demo.people import Cast, choose
from app.cli.failures import CommandError
from app.cli.following import follow_job
from app.cli.importing import run_import
from app.cli.status_commands import certificate_summary
from app.cli.training import run_training
from app.services.certificates import verify_certificate
from app.services.secrets import load_signer

if TYPE_CHECKING:
    from pathlib import Path

    from app.cli.client import Service
    from app.cli.installation import Installation
    from app.cli.screen import Screen

_GONE = 410
_READY_TIMEOUT = 60.0
_OPEN = frozenset({"scheduled", "batched", "unlearning", "auditing", "rolling_out"})


@dataclass(frozen=True, slots=True)
class Scene:
    """Where the story is told and what it plays on."""

    screen: Screen
    installation: Installation
    log: Path


class Story:
    """Import, train, recommend, forget, prove."""

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
        self._screen.say(reports.import_report(summary))
        self._title(2, "Train a recommender on it, and publish it as the first release")
        job = run_training(
            self._screen, self._installation, self._installation.settings.backbone, log=self._log
        )
        self._screen.say(*training_summary(job))
        self._document |= {"import": summary, "train": job}

    def forget(self, service: Service) -> dict[str, Any]:
        """Forget one person while others are being served; return every figure."""
        cast = choose(self._installation)
        _wait_until_ready(service)
        other = cast.staying[len(cast.staying) // 2]
        before = service.recommend(cast.leaving, 5)
        self._title(4, f"What user {cast.leaving} ({cast.ratings} ratings) is recommended")
        self._screen.say(reports.recommendations(before))
        other_before = service.recommend(other, 5)
        with BackgroundLoad(service, cast.staying) as load:
            request, job, seconds = self._delete(service, cast)
        figures = load.figures()
        self._tell_audit(job)
        self._tell_swap(service, before["release"], request["release"], figures)
        self._tell_gone(service, cast)
        other_after = service.recommend(other, 5)
        self._tell_others(job, other, other_before, other_after)
        payload = self._tell_certificate(service, request["id"])
        self._tell_totals(job, seconds, figures)
        return self._document | {
            "address": service.url,
            "request": request,
            "job": job,
            "seconds_to_completed": seconds,
            "load": figures,
            "others": {"user": other, "before": other_before, "after": other_after},
            "certificate": payload,
        }

    def _delete(self, service: Service, cast: Cast) -> tuple[dict[str, Any], dict[str, Any], float]:
        """Send the request and follow it to completion."""
        self._title(5, f'POST /forget {{"user_id": "{cast.leaving}"}}')
        started = time.monotonic()
        request = service.call("POST", "/forget", json={"user_id": cast.leaving})
        self._screen.say(f"  202 Accepted: suppressed from now on, as {request['id']}")

        def read() -> dict[str, Any] | None:
            nonlocal request
            request = service.get(f"/forget/{request['id']}")
            return service.get(f"/jobs/{request['job_id']}") if request["job_id"] else None

        job = follow_job(
            self._screen,
            read,
            until=lambda job: request["status"] not in _OPEN and job["status"] == "succeeded",
            check=lambda: _must_go_on(request),
        )
        seconds = time.monotonic() - started
        self._screen.say(f"  completed after [bold]{seconds:.1f} s[/bold]")
        return request, job, seconds

    def _tell_audit(self, job: dict[str, Any]) -> None:
        for tried in job["metrics"].get("tries", []):
            self._title(6, f"The audit of {tried['method']}: [bold]{tried['outcome']}[/bold]")
            if tried["audit"]:
                self._screen.say(f"  {tried['audit']['reason']}")
                self._screen.say(reports.audit_report(tried["audit"]))

    def _tell_swap(self, service: Service, before: str, after: str, load: dict[str, Any]) -> None:
        self._title(7, "The swap, while recommendations kept flowing")
        page = service.get("/releases")
        serving = sum(replica["serving"] == after for replica in page["replicas"])
        old = next(one for one in page["items"] if one["id"] == before)
        self._screen.say(
            f"  before: {before}, now {old['status']}",
            f"  after:  [bold]{after}[/bold], on {serving} of {len(page['replicas'])} replicas",
            f"  others, meanwhile: {load['answered']} answered, {load['failed']} failed, "
            f"slowest {load['slowest_ms']:.0f} ms",
        )

    def _tell_gone(self, service: Service, cast: Cast) -> None:
        self._title(8, f"GET /recommend/{cast.leaving}")
        try:
            service.recommend(cast.leaving, 5)
        except ServiceError as problem:
            if problem.status != _GONE:
                raise
            self._screen.say(f"  [bold]410 Gone[/bold]: {problem}")
        else:
            raise CommandError(f"User {cast.leaving} is still recommended to.")

    def _tell_others(
        self,
        job: dict[str, Any],
        other: str,
        before: dict[str, Any],
        after: dict[str, Any],
    ) -> None:
        self._title(9, "Everybody else, before and after")
        for tried in job["metrics"].get("tries", [])[-1:]:
            utility = tried["audit"].get("utility")
            if utility:
                self._screen.say(
                    f"  test AUC {utility['before']['auc']:.4f} before, "
                    f"[bold]{utility['after']['auc']:.4f}[/bold] after"
                )
        old = {item["item_id"] for item in before["items"]}
        kept = sum(item["item_id"] in old for item in after["items"])
        self._screen.say(
            f"  user {other}: {kept} of the {len(after['items'])} best stay the same",
            reports.recommendations(after),
        )

    def _tell_certificate(self, service: Service, request_id: str) -> dict[str, Any]:
        self._title(10, "The certificate, checked offline against this installation's key")
        certificate = service.get(f"/forget/{request_id}/certificate")
        public = load_signer(self._installation.settings).public_pem()
        payload = verify_certificate(certificate, public)
        self._screen.say(*certificate_summary(payload))
        return payload

    def _tell_totals(self, job: dict[str, Any], seconds: float, load: dict[str, Any]) -> None:
        train = self._document["train"]["metrics"]["tries"][-1]["training"]
        self._title(11, "Totals")
        self._screen.say(
            reports.facts(
                {
                    "request to completed": f"{seconds:.1f} s",
                    "training the first release": f"{train['fit_seconds']:.1f} s",
                    "rows deleted": job["metrics"].get("rows_deleted"),
                    "recommendations answered": load["answered"],
                    "recommendations failed": load["failed"],
                }
            )
        )

    def _title(self, number: int, words: str) -> None:
        self._screen.say(f"\n[bold]{number}[/bold]  {words}")


def _must_go_on(request: dict[str, Any]) -> None:
    if request["status"] not in _OPEN and request["status"] != "completed":
        raise CommandError(f"The request {request['id']} is {request['status']}. See: lethe jobs")


def _wait_until_ready(service: Service) -> None:
    """Return once the gateway has loaded the release; raises with its reasons otherwise."""
    deadline = time.monotonic() + _READY_TIMEOUT
    while True:
        try:
            service.get("/readyz")
        except CommandError as error:
            if time.monotonic() > deadline:
                raise CommandError("The gateway has not loaded the release in time.") from error
            time.sleep(0.1)
        else:
            return
