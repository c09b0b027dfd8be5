"""The demo's steps after the deletion: renewal, and the comparison of both certificates."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from app.cli.failures import CommandError
from app.cli.renewals import exact_outlook
from app.cli.screen import table
from app.domain.renewal import ExactMode, RenewalPolicy, effective_mode
from app.services.certificates import is_cited
from app.services.signatures import verify
from app.services.signing_keys import trusted_key

if TYPE_CHECKING:
    from rich.table import Table

    from app.cli.installation import Installation
    from app.services.signatures import VerifiedCertificate

_COMPARED: Final = ("number", "kind", "method", "outcome", "release")


@dataclass(frozen=True, slots=True)
class CheckedCertificate:
    """A certificate as the service sends it, and its content after the check of the signature."""

    envelope: dict[str, Any]
    verified: VerifiedCertificate

    @property
    def content(self) -> dict[str, Any]:
        return self.verified.content


def checked(installation: Installation, envelope: dict[str, Any]) -> CheckedCertificate:
    """Verify the certificate against the keys of the installation."""
    with installation.uow(write=False) as uow:
        keys = [trusted_key(key) for key in uow.signing_keys.all()]
    return CheckedCertificate(envelope, verify(envelope, keys))


def state_at_completion(first: CheckedCertificate) -> dict[str, Any]:
    """Return the assurance and the due time of a request when its deletion completed.

    On a slow machine, the renewal may be over before the demo shows it, so that the present state
    would tell that no renewal was needed.
    """
    content = first.content
    return {"assurance": content["assurance"], "exact_due_at": content["exact"]["due_at"]}


def reason_not_to_wait(installation: Installation, request: dict[str, Any]) -> str | None:
    """Return why the demo does not wait for a renewal; None if the renewal starts at once."""
    outlook = exact_outlook(request, installation.settings.exact)
    if outlook is None:
        return "No renewal is needed: the deletion was exact when it completed."
    with installation.uow(write=False) as uow:
        live = uow.releases.alias().live
        release = None if live is None else uow.releases.get(live)
    seconds = None if release is None else release.training_seconds
    settings = installation.settings
    policy = RenewalPolicy(mode=settings.exact, soon_seconds=settings.exact_soon_seconds)
    mode = effective_mode(policy, seconds)
    if mode is ExactMode.SOON:
        return None
    if mode is ExactMode.OFF:
        return outlook
    return f"{outlook} With LETHE_EXACT=deadline this starts shortly before that time."


def certificate_comparison(first: CheckedCertificate, second: CheckedCertificate) -> Table:
    """Return what changed between the certificates.

    Raises CommandError unless the second one cites the first.
    """
    if not is_cited(first.envelope, second.content):
        raise CommandError("The second certificate does not cite the first one.")
    cited = second.content["cites"]
    pair = (first.content, second.content)
    rows = [(name, *(content[name] for content in pair)) for name in _COMPARED]
    rows += [
        (
            "after the 202",
            *(f"{seconds_to_issue(each):.1f} s" for each in (first, second)),
        ),
        ("cites", "nothing", f"{cited['number']}: {cited['sha256'][:16]}…"),
    ]
    return table("", "first", "second", rows=rows)


def seconds_to_issue(certificate: CheckedCertificate) -> float:
    """Return the seconds from the request to the signing of the certificate."""
    issued, requested = (
        datetime.fromisoformat(certificate.content[name]) for name in ("issued_at", "requested_at")
    )
    return (issued - requested).total_seconds()
