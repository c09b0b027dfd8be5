"""`lethe jobs`, `lethe releases` and `lethe verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from app.api.schemas import JobAnswer, ReleasePage, ReplicaAnswer
from app.cli.failures import BadInputError, command
from app.cli.installation import open_installation
from app.cli.options import AsJson
from app.cli.reports import audit_report, facts, stage_seconds
from app.cli.reports import jobs as jobs_table
from app.cli.reports import releases as releases_table
from app.cli.screen import Screen
from app.cli.training import read_job
from app.services.certificates import verify_certificate
from app.services.pagination import list_jobs, list_releases
from app.services.secrets import SIGNING_KEY_FILE, load_signer
from app.settings import get_settings


@command
def jobs(
    job_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One job, with its figures.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what training and unlearning are doing."""
    screen = Screen.make(as_json=as_json)
    with open_installation(get_settings()) as installation:
        if job_id is not None:
            job = read_job(installation, job_id)
            screen.result(job, *_one_job(job))
            return
        with installation.uow(write=False) as uow:
            page = list_jobs(uow)
    items = [JobAnswer.of(job).model_dump(mode="json") for job in page.items]
    shown = jobs_table(items) if items else "No job yet. Run: lethe train"
    screen.result({"items": items, "next_cursor": page.next_cursor}, shown)


@command
def releases(as_json: AsJson = False) -> None:
    """Show the releases, the live one marked, and the replicas that serve it."""
    screen = Screen.make(as_json=as_json)
    with open_installation(get_settings()) as installation, installation.uow(write=False) as uow:
        found = list_releases(uow)
        now = uow.state.now()
        replicas = [ReplicaAnswer.of(replica, now) for replica in uow.replicas.all()]
        page = ReleasePage.of(found.items, found.next_cursor, uow.releases.alias(), replicas)
    document = page.model_dump(mode="json")
    shown = releases_table(document) if document["items"] else "No release yet. Run: lethe train"
    screen.result(document, shown)


@command
def verify(
    certificate: Annotated[
        Path, typer.Argument(metavar="CERTIFICATE", help="The file.", show_default=False)
    ],
    key: Annotated[
        Path | None,
        typer.Option(metavar="PUBLIC", help="Public key (PEM). [default: this installation's]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a certificate of deletion offline. Only the given key is trusted."""
    screen = Screen.make(as_json=as_json)
    try:
        document = json.loads(certificate.read_bytes())
    except ValueError as error:
        raise BadInputError(f"{certificate} is not JSON: {error}") from error
    public = _own_public_key() if key is None else key.read_bytes()
    payload = verify_certificate(document, public)
    screen.result({"valid": True, "payload": payload}, *certificate_summary(payload))


def _own_public_key() -> bytes:
    """Return this installation's key, without making one where there is none."""
    settings = get_settings()
    if settings.signing_key is None and not (settings.keys_directory / SIGNING_KEY_FILE).exists():
        raise BadInputError(
            f"There is no signing key under {settings.keys_directory}. Give the public key of the "
            "installation that made the certificate: --key PUBLIC"
        )
    return load_signer(settings).public_pem()


def certificate_summary(payload: dict[str, Any]) -> list[Any]:
    """Return what people read of a certificate that was found to be signed."""
    names = ("request_id", "scope", "completed_at", "method", "outcome", "parent_release")
    told = {name.replace("_", " "): payload.get(name) for name in (*names, "release")}
    told["shredded"] = f"{len(payload.get('shredded', {}))} files"
    told["not covered"] = "; ".join(payload.get("not_covered", ()))
    return ["[green]Valid[/green]: this key signed exactly what the certificate says.", facts(told)]


def _one_job(job: dict[str, Any]) -> list[Any]:
    names = ("id", "kind", "status", "stage", "method", "attempts", "release", "error")
    shown: list[Any] = [facts({name: job[name] for name in names})]
    if job["metrics"].get("stage_seconds"):
        shown.append(stage_seconds(job["metrics"]["stage_seconds"]))
    for one in job["metrics"].get("tries", []):
        if one["audit"]:
            shown += [f"{one['attempt']}: {one['outcome']}", audit_report(one["audit"])]
    return shown
