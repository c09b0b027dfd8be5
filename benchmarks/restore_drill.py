"""Restore drill: forget, restore a backup of each kind, and check that deletions are repeated.

    python -m benchmarks.restore_drill --database sqlite
    python -m benchmarks.restore_drill --database postgresql --redis redis://127.0.0.1:6379/11

The drill runs the real service (`lethe up`, with PostgreSQL also a Celery worker and a relay) on
its own data directory. It takes a backup, then forgets a person, cancels a deletion and records a
consent. Each part restores other pieces of the backup, starts the service and polls the service
until it is ready again. The drill fails if the forgotten person is ever served, or if anything
stays missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.restored_service import PERSON_STATES, Backup, Service, ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable

#: What each part of the drill puts back.
MIXES: Final = ("database", "artifacts", "both", "home")
_TIMEOUT: Final = 420.0
_PAUSE: Final = 0.1


class DrillError(Exception):
    """A part of the drill did not go as it must."""


@dataclass(slots=True)
class Transcript:
    """Prints lines with the seconds since the start of the part, and keeps them."""

    started: float = field(default_factory=time.monotonic)
    lines: list[str] = field(default_factory=list)

    def part(self, title: str) -> None:
        self.started = time.monotonic()
        self.write(f"\n{title}")

    def note(self, text: str) -> None:
        self.write(f"  {time.monotonic() - self.started:7.1f} s  {text}")

    def write(self, line: str) -> None:
        self.lines.append(line)
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """The users of the drill and their requests."""

    forgotten: str
    cancelled: str
    consented: str
    waiting: str
    other: str


class Drill:
    """One drill on one database."""

    def __init__(self, service: Service, transcript: Transcript, certificates: Path) -> None:
        self._service = service
        self._transcript = transcript
        self._certificates = certificates
        self._requests: dict[str, str] = {}

    def prepare(self, data: Path, people: People) -> tuple[Backup, Backup]:
        """Train, back up, forget, and return the backup and the state after all deletions."""
        note = self._transcript.note
        service = self._service
        self._transcript.part("Prepare")
        imported = service.command("import", str(data))
        note(f"lethe import: {imported['users']} users, {imported['interactions']} ratings")
        service.command("train")
        note("lethe train: the first release is live")
        service.start()
        self._requests["consented"] = self._forget(people.consented)
        service.stop()
        backup = service.back_up("backup")
        note("backup of database, artifacts and home; the ledger is not in it")
        service.start()
        self._requests["forgotten"] = self._forget(people.forgotten)
        service.call("POST", "/consents", {"user_id": people.consented})
        service.call("POST", "/interactions", _rating(people.consented))
        note("the person who was forgotten before the backup consents and rates again")
        # With a cancel window, in which no batch takes the requests.
        waiting = service.command("forget", people.waiting, LETHE_CANCEL_WINDOW="3600")
        cancelled = service.command("forget", people.cancelled, LETHE_CANCEL_WINDOW="3600")
        service.call("DELETE", f"/forget/{cancelled['id']}")
        self._requests |= {"waiting": waiting["id"], "cancelled": cancelled["id"]}
        note("two more deletions are accepted, and one of them is cancelled")
        self._save_certificates()
        service.stop()
        return backup, service.back_up("after")

    def restore(self, mix: str, backup: Backup, after: Backup, people: People) -> dict[str, Any]:
        """Put back what the mix names, start the service and watch until all is well."""
        service, note = self._service, self._transcript.note
        self._transcript.part(f"Restore: {_TITLES[mix]}")
        service.put_back(after, backup, mix)
        status, answer = service.restore_check()
        note(f"lethe restore-check: status {status}, {_findings(answer)}")
        before = answer
        status, answer = service.restore_check("--certificates", str(self._certificates))
        results = sorted({one["result"] for one in answer["certificates"]})
        note(f"lethe restore-check --certificates: status {status}, {', '.join(results)}")
        started = time.monotonic()
        service.start(wait=False)
        served = self._watch(people)
        seconds = time.monotonic() - started
        self._check_requests(people)
        status, answer = self._wait_until_well()
        note(f"lethe restore-check: status {status}, {answer['status']}")
        service.stop()
        return {
            "mix": mix,
            "findings_before": sorted(f["code"] for f in before["findings"]),
            "seconds_until_served": round(seconds, 1),
            "answers_refused": served["refused"],
            "answers_about_the_person": served["person"],
        }

    def _forget(self, user_id: str) -> str:
        request = self._service.call("POST", "/forget", {"user_id": user_id})
        self._service.wait_for(
            lambda: self._service.call("GET", f"/forget/{request['id']}")["status"] == "completed",
            _TIMEOUT,
            "the deletion is not completed",
        )
        self._transcript.note(f"POST /forget: {request['id']} is completed")
        return str(request["id"])

    def _save_certificates(self) -> None:
        self._certificates.mkdir(exist_ok=True)
        for name in ("consented", "forgotten"):
            answer = self._service.call("GET", f"/forget/{self._requests[name]}/certificates")
            (self._certificates / f"{name}.json").write_text(json.dumps(answer))

    def _watch(self, people: People) -> dict[str, Any]:
        """Ask until the service is well; raise DrillError if the person is ever served."""
        service = self._service
        seen: dict[str, str] = {}
        refused = 0
        deadline = time.monotonic() + _TIMEOUT
        answers: dict[str, str] = {}
        while time.monotonic() < deadline:
            for name in service.restart_ended():
                self._transcript.note(f"{name} ended, and is started again")
            answers = {
                "/readyz": service.answer("GET", "/readyz"),
                "/recommend/{forgotten}": service.answer("GET", f"/recommend/{people.forgotten}"),
                "/users/{forgotten}": service.answer("GET", f"/users/{people.forgotten}"),
                "/recommend/{other}": service.answer("GET", f"/recommend/{people.other}"),
            }
            for path, answer in answers.items():
                if seen.get(path) != answer:
                    self._transcript.note(f"GET {path}: {answer}")
                seen[path] = answer
            refused += not answers["/recommend/{other}"].startswith("200")
            if any(answers[path].startswith("200") for path in PERSON_STATES):
                raise DrillError(f"the forgotten person is served: {answers}")
            if self._is_well(answers):
                return {"refused": refused, "person": 0}
            time.sleep(_PAUSE)
        raise DrillError(f"the service does not get well: {answers}\n{service.log_tail()}")

    def _is_well(self, answers: dict[str, str]) -> bool:
        is_up = answers["/readyz"].startswith("200")
        is_served = answers["/recommend/{other}"].startswith("200")
        if not (is_up and is_served):
            return False
        request = self._service.call("GET", f"/forget/{self._requests['forgotten']}")
        return bool(request["status"] == "completed")

    def _check_requests(self, people: People) -> None:
        """Check what became of every request; raises DrillError."""
        service, note = self._service, self._transcript.note
        expected = {"forgotten": "completed", "consented": "completed"}
        expected |= {"cancelled": "cancelled", "waiting": "scheduled"}
        for name, status in expected.items():
            request = service.call("GET", f"/forget/{self._requests[name]}")
            if request["status"] != status:
                raise DrillError(f"the deletion of {name} is {request['status']}, not {status}")
        note("two deletions are completed, one is cancelled and one still waits")
        answer = service.answer("GET", f"/recommend/{people.waiting}")
        note(f"GET /recommend/{{waiting}}: {answer}")
        if not answer.startswith("410"):
            raise DrillError(f"the person whose deletion waits gets {answer}")
        listed = service.call("GET", f"/forget/{self._requests['forgotten']}/certificates")
        envelope = listed["items"][-1]["certificate"]
        path = self._certificates.with_name("newest.json")
        path.write_text(json.dumps(envelope))
        verified = service.command("verify", str(path))
        note(
            f"certificates: {', '.join(one['kind'] for one in listed['items'])}; the newest is"
            f" {'valid' if verified['valid'] else 'not valid'}"
        )
        for name in ("cancelled", "consented"):
            user_id = getattr(people, name)
            answer = service.answer("GET", f"/recommend/{user_id}")
            note(f"GET /recommend/{{{name}}}: {answer}")
            if answer.startswith("410"):
                raise DrillError(f"the {name} person is refused: {answer}")

    def _wait_until_well(self) -> tuple[int, dict[str, Any]]:
        result: tuple[int, dict[str, Any]] = (1, {})

        def is_well() -> bool:
            nonlocal result
            result = self._service.restore_check("--certificates", str(self._certificates))
            return result[0] == 0

        self._service.wait_for(is_well, _TIMEOUT, "restore-check still finds something")
        return result


_TITLES: Final = {
    "database": "the database alone",
    "artifacts": "the artifacts alone",
    "both": "the database and the artifacts",
    "home": "LETHE_HOME as a whole, with the database",
}


def _rating(user_id: str) -> list[dict[str, Any]]:
    return [{"user_id": user_id, "item_id": "1", "rating": 4.0, "timestamp": 1_500_000_000}]


def _findings(answer: dict[str, Any]) -> str:
    shown = [f["text"] for f in answer["findings"] if f["severity"] != "ok"]
    return "; ".join(shown) or "nothing is missing"


def run_drill(
    options: argparse.Namespace, directory: Path, report: Callable[[], Transcript] = Transcript
) -> dict[str, Any]:
    """Run the drill in this directory and return its figures. Raises DrillError."""
    transcript = report()
    transcript.write(f"$ python -m benchmarks.restore_drill {' '.join(sys.argv[1:])}")
    people = People(**dict(zip(People.__slots__, options.people.split(","), strict=True)))
    service = Service.create(directory, options.database, options.redis, options.holdout_share)
    try:
        drill = Drill(service, transcript, directory / "certificates")
        backup, after = drill.prepare(options.data, people)
        parts = [drill.restore(mix, backup, after, people) for mix in options.mixes.split(",")]
    finally:
        service.close()
    return {"database": options.database, "parts": parts, "transcript": transcript.lines}


def main() -> None:
    """Run the drill from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--data", type=Path, default=Path("data/ml-latest-small"))
    parser.add_argument("--mixes", default=",".join(MIXES))
    parser.add_argument("--people", default="626,15,73,547,1", help="forgotten, cancelled, …")
    parser.add_argument("--redis", default="redis://127.0.0.1:6379/11")
    parser.add_argument("--holdout-share", type=float, default=0.03)
    parser.add_argument("--out", type=Path, help="file for the transcript")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lethe-drill-") as directory:
        try:
            results = run_drill(options, Path(directory))
        except (DrillError, ServiceError) as error:
            sys.exit(f"The drill failed: {error}")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text("\n".join(results["transcript"]) + "\n")


if __name__ == "__main__":
    main()
