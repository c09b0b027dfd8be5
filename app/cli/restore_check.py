"""`lethe restore-check`: find deletions that a restored installation must repeat."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from app.cli.certificate_files import files_below, keys_in
from app.cli.exit_codes import ExitCode
from app.cli.failures import BadInputError, command
from app.cli.installation import open_installation
from app.cli.options import AsJson
from app.cli.restored_installation import RestoredInstallation, open_unchanged
from app.cli.screen import Screen, table
from app.domain.restore_check import SEVERITIES, Finding, Severity, worst
from app.services.ledger_check import check_ledger
from app.services.ledger_facts import LedgerFacts
from app.services.restore_apply import repeat_certified
from app.services.restore_check import RestoreReport, check_restore
from app.services.saved_certificates import (
    SEVERITY_OF,
    FileResult,
    SavedCertificate,
    compare,
    deletions_of,
    read_certificates,
)
from app.settings import get_settings

if TYPE_CHECKING:
    from app.domain.restore_check import KnownDeletion
    from app.services.signatures import TrustedKey
    from app.settings import Settings

_STATUS: Final = {
    Severity.OK: ExitCode.SUCCESS,
    Severity.REPEAT: ExitCode.REPEAT,
    Severity.ACT: ExitCode.REPEAT,
}
_STYLES: Final = {Severity.OK: "green", Severity.REPEAT: "yellow"}
#: An entry is written shortly before its transaction commits, so the head is read again.
_TRIES: Final = 3
_PAUSE: Final = 0.5
#: The text output lists at most this many ids.
_MOST_IDS: Final = 5


@command
def restore_check(
    certificates: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Directory with saved certificates, to compare."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="PUBLIC",
            help="Public keys of certificates and checkpoints, beside the installation's.",
        ),
    ] = None,
    apply: Annotated[
        bool,
        typer.Option("--apply", help="Record the deletions that only the certificates prove."),
    ] = False,
    new_ledger: Annotated[
        bool,
        typer.Option(
            "--new-ledger",
            help="The ledger is lost for good: write a new one from the database. Deletions that"
            " the database does not know are lost without their certificates.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare the database with the erasure ledger, the artifacts and saved certificates."""
    screen = Screen.make(as_json=as_json)
    if certificates is None and apply:
        raise BadInputError("--apply needs --certificates DIR. Give the directory too.")
    settings = get_settings()
    with open_unchanged(settings) as installation:
        keys = installation.trusted_keys() + ([] if key is None else keys_in(key))
        saved = [] if certificates is None else _read_saved(certificates, keys)
        if new_ledger:
            _begin_new_ledger(screen, installation)
        recorded = _record(settings, installation, saved) if apply else None
        report = read_report(installation, keys, deletions_of(saved))
    if recorded is not None:
        screen.say(f"Recorded deletions, which the worker repeats: {len(recorded)}")
    findings, compared = _with_certificates(report, saved)
    document = _document(report, findings, compared)
    extra = {} if recorded is None else {"recorded": recorded}
    screen.result({**document, **extra}, *_lines(findings, compared))
    status = _STATUS.get(worst(findings), ExitCode.DAMAGED)
    if status:
        raise typer.Exit(status)


def _with_certificates(
    report: RestoreReport, saved: list[SavedCertificate]
) -> tuple[list[Finding], list[SavedCertificate]]:
    """Return all findings, and the certificates with the results of their comparison."""
    ledger = report.ledger
    compared = [
        compare(one, report.requests, ledger.deletions, ledger.consented_at) for one in saved
    ]
    return [*report.findings, *_certificate_findings(compared, ledger)], compared


def _begin_new_ledger(screen: Screen, installation: RestoredInstallation) -> None:
    """Write a new ledger from the database; raises BadInputError unless the ledger is empty."""
    root = installation.settings.ledger_root
    ledger = installation.ledger
    if ledger.last_number() > 0 or any(map(bool, ledger.checkpoint_numbers())):
        raise BadInputError(
            f"The ledger in {root} has entries. --new-ledger is for a lost ledger: move what is"
            " left of it to another place, keep it, and repeat the command."
        )
    with installation.uow() as uow:
        uow.state.lock()
        uow.state.clear_ledger_head()
    with open_installation(installation.settings):
        pass  # Opening writes the first entries.
    screen.say(
        "[yellow]A new ledger was written from the database.[/yellow] It does not know what the"
        " lost one knew: if this database was restored from a backup, the deletions after the"
        " backup are lost unless you give their certificates with --certificates and --apply."
    )


def _record(
    settings: Settings, installation: RestoredInstallation, saved: list[SavedCertificate]
) -> list[str]:
    """Apply the ledger, then record the deletions that only certificates prove."""
    facts = LedgerFacts()
    with open_installation(settings) as opened, opened.uow() as uow:
        facts.read(installation.ledger.entries(facts.head))
        return repeat_certified(
            uow, opened.pseudonyms, settings, deletions_of(saved).values(), facts
        )


def _read_saved(certificates: Path, keys: list[TrustedKey]) -> list[SavedCertificate]:
    if not keys:
        raise BadInputError(
            "This installation has no signing key. Give the public key of the certificates:"
            " --key PUBLIC"
        )
    return list(read_certificates(files_below(certificates), keys))


def read_report(
    installation: RestoredInstallation,
    keys: list[TrustedKey],
    certified: dict[str, KnownDeletion],
) -> RestoreReport:
    """Read ledger, artifacts and database, also while the service writes them."""
    ledger, facts = installation.ledger, LedgerFacts()
    attempt = 1
    while True:
        chain = check_ledger(ledger, keys)
        facts.read(ledger.entries(facts.head))
        artifacts = installation.artifacts()
        with installation.uow(write=False) as uow:
            head = uow.state.ledger_head()
            is_settled = head is None or head.number == facts.head.number == chain.last_number
            if is_settled or attempt == _TRIES:
                return check_restore(
                    uow, installation.pseudonyms, facts, chain, artifacts, certified
                )
        attempt += 1
        time.sleep(_PAUSE)


def _certificate_findings(compared: list[SavedCertificate], ledger: LedgerFacts) -> list[Finding]:
    """Return a finding per result of the saved certificates."""
    findings = []
    for result in FileResult:
        files = [one for one in compared if one.result is result]
        if not files:
            continue
        request_ids = sorted({one.deletion.request_id for one in files if one.deletion})
        severity = SEVERITY_OF[result]
        if severity is Severity.ACT and request_ids and set(request_ids) <= set(ledger.deletions):
            severity = Severity.REPEAT  # The service repeats what the ledger has.
        findings.append(
            Finding(
                code=f"certificates-{result}",
                severity=severity,
                text=f"saved certificates, {result.value.replace('-', ' ')}: {len(files)}",
                request_ids=tuple(request_ids),
            )
        )
    return findings


def _document(
    report: RestoreReport, findings: list[Finding], compared: list[SavedCertificate]
) -> dict[str, Any]:
    head = report.database_head
    return {
        "status": worst(findings).value,
        "ledger": {
            "last_entry": report.chain.last_number,
            "authentic_entries": report.chain.entries,
            "checkpoints": report.chain.checkpoints,
            "covered_by_checkpoints": report.chain.covered,
            "database_head": None if head is None else head.number,
        },
        "findings": [
            {
                "code": finding.code,
                "severity": finding.severity.value,
                "text": finding.text,
                "request_ids": list(finding.request_ids),
                **finding.details,
            }
            for finding in findings
        ],
        "certificates": [one.to_json() for one in compared],
    }


def _lines(findings: list[Finding], compared: list[SavedCertificate]) -> list[Any]:
    """Return the text: the findings, the files that need attention, and the advice."""
    ordered = sorted(findings, key=lambda finding: -SEVERITIES.index(finding.severity))
    rows = [(finding.severity.value, finding.text, _some(finding)) for finding in ordered]
    lines: list[Any] = [table("", "finding", "requests", rows=rows)]
    files = [
        (one.file, one.result.value, one.text)
        for one in compared
        if SEVERITY_OF[one.result] is not Severity.OK
    ]
    if files:
        lines += ["", table("file", "result", "", rows=files)]
    severity = worst(findings)
    style = _STYLES.get(severity, "red")
    return [*lines, "", f"[{style}]{_ADVICE[severity]}[/{style}]"]


def _some(finding: Finding) -> str:
    more = len(finding.request_ids) - _MOST_IDS
    return ", ".join(finding.request_ids[:_MOST_IDS]) + (f" and {more} more" if more > 0 else "")


_ADVICE: Final = {
    Severity.OK: "Nothing is missing.",
    Severity.REPEAT: "The service repeats this by itself when it runs, and refuses to recommend"
    " until then. See docs/backup.md.",
    Severity.ACT: "An operator must act: give the missing key, or record what the certificates"
    " prove with --apply. See docs/backup.md.",
    Severity.DAMAGED: "The ledger or a certificate cannot be trusted. Restore the ledger from its"
    " own copy. See docs/backup.md.",
}
