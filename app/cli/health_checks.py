"""The checks of `lethe doctor`. They read only; each uses the function that the service uses."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from app.cli.client import ServiceError
from app.cli.restore_check import read_report
from app.cli.restored_installation import open_unchanged
from app.domain.errors import LetheError
from app.domain.restore_check import Severity
from app.services.attention import read_attention
from app.services.signing_keys import key_of_this_machine
from app.settings import unknown_variables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.cli.client import Service
    from app.cli.restored_installation import RestoredInstallation
    from app.settings import Settings
    from app.storage.unit_of_work import UnitOfWork

#: A training writes a copy of the weights and a snapshot of the data.
LEAST_SPACE: Final = 2**30
#: Times in certificates are those of the database; people compare them with their own clocks.
MOST_SECONDS: Final = 5.0
_BROKER_SECONDS: Final = 3
_PACKAGES: Final = ("torch", "transformers", "peft")
_UNAUTHORIZED: Final = frozenset({401, 403})


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The result of a check: what was found, and for a problem what to do."""

    name: str
    ok: bool
    text: str
    advice: str = ""


def installation_checks(settings: Settings) -> Iterator[Check]:
    """Check this machine's environment, data directory, keys, database, ledger, worker, broker."""
    yield _versions(settings)
    yield from _variables()
    home = _home(settings)
    yield home
    if home.ok:
        yield _space(settings)
    if home.ok or settings.database_url:
        yield from _data(settings)
    if settings.broker_url is not None:
        yield _broker(settings.broker_url)


def service_checks(service: Service, *, with_warnings: bool) -> Iterator[Check]:
    """Check that the gateway answers, is ready, and accepts the key."""
    try:
        answer = service.readiness()
    except LetheError as error:
        yield Check(name="gateway", ok=False, text=str(error))
        return
    reasons = ", ".join(answer["reasons"])
    yield Check(
        name="gateway",
        ok=not reasons,
        text=f"{service.url} is not ready: {reasons}." if reasons else f"{service.url} is ready.",
        advice="The log of the gateway has more. Before the first training: lethe train"
        if reasons
        else "",
    )
    yield _key(service)
    if with_warnings:
        workers = answer.get("worker_count")
        if workers is not None:
            yield _workers(workers)
        for warning in answer.get("warnings") or ():
            yield _warning(warning["code"], warning["detail"])


def _versions(settings: Settings) -> Check:
    installed = {"Python": platform.python_version()}
    missing = []
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            missing.append(package)
    text = ", ".join(f"{name} {number}" for name, number in installed.items())
    text += f"; backbone {settings.backbone}"
    if not missing:
        return Check(name="versions", ok=True, text=f"{text}.")
    return Check(
        name="versions",
        ok=False,
        text=f"{text}; not installed: {', '.join(missing)}.",
        advice="Workers need these packages: make setup",
    )


def _variables() -> Iterator[Check]:
    sentences = unknown_variables(os.environ)
    for sentence in sentences:
        advice = "Correct or unset the variable. docs/settings.md lists all settings."
        yield Check(name="settings", ok=False, text=sentence, advice=advice)
    if not sentences:
        yield Check(name="settings", ok=True, text="Every variable LETHE_… is a setting.")


def _home(settings: Settings) -> Check:
    home = settings.home
    advice = "Set LETHE_HOME to a directory that this user can write to."
    if not os.path.lexists(home):
        return Check(
            name="home",
            ok=False,
            text=f"{home} does not exist.",
            advice="Create the installation with lethe import PATH, or set LETHE_HOME.",
        )
    if not home.is_dir():
        return Check(name="home", ok=False, text=f"{home} is not a directory.", advice=advice)
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        text = f"This user cannot read and write {home}."
        return Check(name="home", ok=False, text=text, advice=advice)
    return Check(name="home", ok=True, text=f"{home} can be read and written.")


def _space(settings: Settings) -> Check:
    free = shutil.disk_usage(settings.home).free
    ok = free >= LEAST_SPACE
    return Check(
        name="disk",
        ok=ok,
        text=f"{free / 2**30:.1f} GiB are free for {settings.home}.",
        advice="" if ok else "Free at least 1 GiB: a training copies the weights and the data.",
    )


def _data(settings: Settings) -> Iterator[Check]:
    """Check keys, database, clock, ledger and worker, as far as the installation opens."""
    checks: list[Check] = []
    try:
        with open_unchanged(settings) as installation:
            text = "The database answers and has the newest schema; the hash key fits."
            checks.append(Check(name="database", ok=True, text=text))
            checks += _opened(installation)
    except LetheError as error:
        # The message says what to do.
        checks.append(Check(name="database", ok=False, text=str(error)))
    except OSError as error:
        checks.append(Check(name="database", ok=False, text=f"A file cannot be read: {error}"))
    yield from checks


def _opened(installation: RestoredInstallation) -> Iterator[Check]:
    with installation.uow(write=False) as uow:
        yield _clock(uow)
        yield _signing_key(uow, installation.settings)
        attention = read_attention(uow, installation.settings)
    yield _workers(attention.live_workers)
    for warning in attention.warnings:
        yield _warning(warning.code, warning.detail)
    yield from _ledger(installation)


def _clock(uow: UnitOfWork) -> Check:
    difference = (datetime.now(UTC) - uow.state.now()).total_seconds()
    ok = abs(difference) <= MOST_SECONDS
    return Check(
        name="clock",
        ok=ok,
        text=f"The clocks of this machine and of the database differ by {abs(difference):.1f} s.",
        advice="" if ok else "Set both by NTP: times in certificates are those of the database.",
    )


def _signing_key(uow: UnitOfWork, settings: Settings) -> Check:
    try:
        own = key_of_this_machine(settings)
    except LetheError as error:
        return Check(name="signing-key", ok=False, text=str(error))
    if own is None:
        text = "This machine has no signing key. Workers create the key at their first start."
        return Check(name="signing-key", ok=True, text=text)
    registered = uow.signing_keys.get(own.key_id)
    if registered is not None and registered.retired_at is not None:
        return Check(
            name="signing-key",
            ok=False,
            text=f"The key {own.key_id} was retired at {registered.retired_at}.",
            advice="Give the workers the newest key or a new one: docs/guides/certificates.md",
        )
    return Check(name="signing-key", ok=True, text=f"The key is {own.key_id}.")


def _ledger(installation: RestoredInstallation) -> Iterator[Check]:
    """Compare ledger, database and artifacts as `lethe restore-check` does."""
    try:
        report = read_report(installation, installation.trusted_keys(), {})
    except LetheError as error:
        yield Check(name="ledger", ok=False, text=str(error))
        return
    findings = [each for each in report.findings if each.severity is not Severity.OK]
    for finding in findings:
        advice = "See: lethe restore-check"
        yield Check(name="ledger", ok=False, text=f"{finding.code}: {finding.text}.", advice=advice)
    if not findings:
        entries = report.chain.last_number
        text = f"The ledger is intact and agrees with database and artifacts ({entries} entries)."
        yield Check(name="ledger", ok=True, text=text)


def _workers(number: int) -> Check:
    if number:
        return Check(name="worker", ok=True, text=f"Workers with a current heartbeat: {number}.")
    return Check(
        name="worker",
        ok=False,
        text="No worker runs, so no deletion completes.",
        advice="Start a worker: lethe up, or python -m worker run",
    )


def _warning(code: str, detail: str) -> Check:
    advice = "See the warnings in docs/guides/operations.md."
    return Check(name=code, ok=False, text=detail, advice=advice)


def _key(service: Service) -> Check:
    try:
        service.get("/jobs", limit=1)
    except ServiceError as error:
        if error.status in _UNAUTHORIZED:
            return Check(name="key", ok=False, text=str(error))
        return Check(name="key", ok=False, text=f"The list of jobs cannot be read: {error}")
    except LetheError as error:
        return Check(name="key", ok=False, text=str(error))
    return Check(name="key", ok=True, text="The service accepts calls from here.")


def _broker(url: str) -> Check:
    # Other commands do not need Celery.
    from celery import Celery  # noqa: PLC0415
    from kombu.exceptions import OperationalError  # noqa: PLC0415

    try:
        client = Celery("lethe", broker=url, broker_connection_timeout=_BROKER_SECONDS)
        with client.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=_BROKER_SECONDS)
    except (OperationalError, OSError, ValueError, KeyError, ImportError) as error:
        return Check(
            name="broker",
            ok=False,
            text=f"The broker does not answer: {error}",
            advice="Start Redis, or correct LETHE_BROKER_URL. Deletions are recorded meanwhile.",
        )
    return Check(name="broker", ok=True, text="The broker answers.")
