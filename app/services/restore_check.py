"""Check whether a database, its ledger and its artifacts belong together. Reads only.

After a restore from a backup the service repeats by itself what the ledger has. This check says
beforehand what will be repeated, and finds what the service cannot know: a lost ledger, or
deletions that only saved certificates prove.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from app.domain.jobs import OPEN_JOB_STATUSES
from app.domain.requests import RequestStatus, Scope
from app.domain.restore_check import Finding, KnownDeletion, Severity, worst
from app.services.ledger_check import LedgerReport, ProblemKind
from app.services.ledger_facts import LedgerFacts, compare_requests

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from app.domain.ledger import LedgerHead
    from app.domain.requests import ForgetRequest
    from app.domain.restore_check import StoredArtifacts
    from app.services.pseudonyms import Pseudonyms
    from app.storage.unit_of_work import UnitOfWork

_PAGE: Final = 500
#: A finding lists at most this many paths.
_MOST_PATHS: Final = 50
#: A finding names at most this many problems of the ledger.
_MOST_PROBLEMS: Final = 5
#: With these problems, the entries of the ledger cannot be read to the end.
_DAMAGE: Final = frozenset({ProblemKind.MISSING, ProblemKind.ALTERED, ProblemKind.UNCHAINED})
_HEAD_SEVERITIES: Final = {"ledger-equal": Severity.OK, "ledger-ahead": Severity.REPEAT}
_PLURAL: Final = {Scope.USER: "persons", Scope.USER_ITEMS: "pairs", Scope.ITEM: "items"}


@dataclass(slots=True, kw_only=True)
class RestoreReport:
    """The findings, and what they were derived from."""

    findings: list[Finding] = field(default_factory=list)
    database_head: LedgerHead | None = None
    ledger: LedgerFacts = field(default_factory=LedgerFacts)
    #: The check of the ledger's chain and checkpoints.
    chain: LedgerReport
    requests: dict[str, ForgetRequest] = field(default_factory=dict)

    @property
    def severity(self) -> Severity:
        return worst(self.findings)


def check_restore(
    uow: UnitOfWork,
    pseudonyms: Pseudonyms,
    ledger: LedgerFacts,
    chain: LedgerReport,
    artifacts: StoredArtifacts,
    certified: Mapping[str, KnownDeletion],
) -> RestoreReport:
    """Compare the database with ledger, artifacts and the deletions in saved certificates.

    Call this in a transaction that only reads.
    """
    report = RestoreReport(ledger=ledger, chain=chain)
    report.database_head = uow.state.ledger_head()
    report.requests = {request.id: request for request in _all_requests(uow)}
    report.findings += ledger_problems(chain)
    if all(problem.kind not in _DAMAGE for problem in chain.problems):
        report.findings.append(compare_heads(report.database_head, ledger))
    report.findings += compare_requests(ledger, report.requests, uow.suppressions.all_hashes())
    tombstones = _tombstones(uow, report, certified)
    report.findings += stored_subjects(uow, pseudonyms, tombstones, report.requests)
    report.findings += check_artifacts(uow, artifacts)
    return report


def compare_heads(head: LedgerHead | None, ledger: LedgerFacts) -> Finding:
    """Return the finding about the database's head and the last entry of an intact ledger."""
    seen, last = (0 if head is None else head.number), ledger.head.number
    ends = f"the database has seen entry {seen}, the ledger ends with entry {last}"
    other = f"entry {seen} is not the entry {seen} that the database has seen"
    cases = (
        (seen == last == 0, "ledger-equal", "neither the database nor the ledger has an entry"),
        (last == 0, "ledger-missing", f"the database has seen entry {seen}, the ledger is empty"),
        (last < seen, "ledger-behind", ends),
        (seen > 0 and ledger.digests.get(seen) != _digest(head), "ledger-differs", other),
        (last > seen, "ledger-ahead", ends),
        (True, "ledger-equal", f"the database and the ledger end with entry {seen}"),
    )
    code, text = next((code, text) for applies, code, text in cases if applies)
    severity = _HEAD_SEVERITIES.get(code, Severity.DAMAGED)
    details = {"database": None if head is None else head.number, "ledger": last}
    return Finding(code=code, severity=severity, text=text, details=details)


def ledger_problems(chain: LedgerReport) -> list[Finding]:
    """Return a finding per kind of problem in the ledger."""
    findings = []
    for kind in ProblemKind:
        problems = [problem for problem in chain.problems if problem.kind is kind]
        if problems:
            named = "; ".join(problem.text for problem in problems[:_MOST_PROBLEMS])
            more = len(problems) - _MOST_PROBLEMS
            is_foreign = kind is ProblemKind.FOREIGN
            findings.append(
                Finding(
                    code="ledger-foreign-files" if is_foreign else "ledger-damaged",
                    severity=Severity.ACT if is_foreign else Severity.DAMAGED,
                    text=f"the ledger: {named}" + (f"; and {more} more" if more > 0 else ""),
                    details={"entries": [problem.number for problem in problems if problem.number]},
                )
            )
    return findings


def _digest(head: LedgerHead | None) -> str | None:
    return None if head is None else head.digest


def stored_subjects(
    uow: UnitOfWork,
    pseudonyms: Pseudonyms,
    tombstones: Mapping[str, KnownDeletion],
    requests: Mapping[str, ForgetRequest],
) -> list[Finding]:
    """Return findings about stored data whose deletion was completed without a later consent.

    `tombstones` has keyed hash → deletion.
    """
    if not tombstones:
        return []
    stored: dict[bool, Counter[Scope]] = {True: Counter(), False: Counter()}
    request_ids: dict[bool, set[str]] = {True: set(), False: set()}
    for hashes in _hashes_of_stored(uow, pseudonyms, tombstones):
        deletion = next((tombstones[h] for h in hashes if h in tombstones), None)
        if deletion is not None:
            request = requests.get(deletion.request_id)
            is_known = request is None or request.status is not RequestStatus.COMPLETED
            stored[is_known][deletion.scope] += 1
            request_ids[is_known].add(deletion.request_id)
    findings = []
    for is_known, severity in ((True, Severity.REPEAT), (False, Severity.ACT)):
        if stored[is_known]:
            numbers = {_PLURAL[scope]: n for scope, n in sorted(stored[is_known].items())}
            named = ", ".join(f"{name} {n}" for name, n in numbers.items())
            findings.append(
                Finding(
                    code="stored" if is_known else "stored-again",
                    severity=severity,
                    text=f"stored although the deletion was completed: {named}",
                    request_ids=tuple(sorted(request_ids[is_known])),
                    details=numbers,
                )
            )
    return findings


def check_artifacts(uow: UnitOfWork, artifacts: StoredArtifacts) -> list[Finding]:
    """Return files of shredded or unknown releases, and whether the live release is missing."""
    kept = {release.path: release for release in uow.releases.unshredded()}
    live = uow.releases.alias().live
    kept_ids = {release.id for release in kept.values()}
    leftover = [
        path
        for path in artifacts.published
        if path not in kept and not _is_of_open_job(uow, path.rpartition("/")[2].split(".")[1:2])
    ]
    leftover += [f"adapters/{name}" for name in artifacts.adapters if name not in kept_ids]
    leftover += [
        f"staging/{job}" for job in artifacts.staged_jobs if not _is_of_open_job(uow, [job])
    ]
    findings = []
    if leftover:
        findings.append(
            Finding(
                code="artifacts-left",
                severity=Severity.REPEAT,
                text=f"artifacts of shredded or unknown releases: {len(leftover)}",
                details={"paths": leftover[:_MOST_PATHS], "count": len(leftover)},
            )
        )
    path = next((path for path, release in kept.items() if release.id == live), None)
    if live is not None and path not in artifacts.complete:
        text = f"the weights of the live release {live} are missing: they are trained from scratch"
        details = {"release": live, "root": artifacts.root}
        findings.append(
            Finding(code="weights-missing", severity=Severity.REPEAT, text=text, details=details)
        )
    return findings


def _all_requests(uow: UnitOfWork) -> Iterator[ForgetRequest]:
    newest_id = ""
    while requests := uow.requests.after(newest_id, _PAGE):
        yield from requests
        newest_id = requests[-1].id


def _tombstones(
    uow: UnitOfWork, report: RestoreReport, certified: Mapping[str, KnownDeletion]
) -> dict[str, KnownDeletion]:
    """Return keyed hash → the completed deletion, without those that consent has lifted."""
    consented_at = report.ledger.consented_at
    suppressed = uow.suppressions.all_hashes()
    tombstones: dict[str, KnownDeletion] = {}
    in_database = {
        request.id: _known(request)
        for request in report.requests.values()
        if request.status is RequestStatus.COMPLETED
    }
    for deletion in (*in_database.values(), *certified.values(), *report.ledger.deletions.values()):
        at = deletion.completed_at
        if at is None:
            continue
        for subject_hash in deletion.subject_hashes:
            is_lifted = deletion.request_id in in_database and subject_hash not in suppressed
            if not is_lifted and consented_at.get(subject_hash, at) <= at:
                tombstones[subject_hash] = deletion
    return tombstones


def _known(request: ForgetRequest) -> KnownDeletion:
    return KnownDeletion(
        request_id=request.id,
        scope=request.scope,
        subject_hashes=request.subject_hashes,
        requested_at=request.created_at,
        completed_at=request.completed_at,
    )


def _hashes_of_stored(
    uow: UnitOfWork, pseudonyms: Pseudonyms, tombstones: Mapping[str, KnownDeletion]
) -> Iterator[Iterable[str]]:
    """Yield the keyed hashes of each stored user, item and pair, where a deletion has the scope."""
    scopes = {deletion.scope for deletion in tombstones.values()}
    if Scope.USER in scopes:
        yield from map(pseudonyms.user_hashes, uow.identity.user_ids())
    if Scope.ITEM in scopes:
        yield from map(pseudonyms.item_hashes, uow.identity.item_ids())
    if Scope.USER_ITEMS in scopes:
        for row in uow.people.interactions():
            yield pseudonyms.interaction_hashes(row.user_id, row.item_id)


def _is_of_open_job(uow: UnitOfWork, job_ids: Iterable[str]) -> bool:
    """Return whether one of the jobs is open, so that its files are in use."""
    jobs = map(uow.jobs.find, job_ids)
    return any(job is not None and job.status in OPEN_JOB_STATUSES for job in jobs)
