"""`lethe verify`: check the signature of a deletion certificate offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from app.cli.certificate_files import keys_in, read_certificate
from app.cli.failures import BadInputError, CommandError, command
from app.cli.options import AsJson
from app.cli.screen import Screen, facts
from app.domain.errors import DatabaseUnavailableError
from app.domain.findings import certified_sentence
from app.services.certificates import is_cited
from app.services.signatures import TrustedKey, VerifiedCertificate
from app.services.signatures import verify as verify_signature
from app.services.signing_keys import key_of_this_machine, trusted_key
from app.settings import get_settings
from app.storage.engine import make_database
from app.storage.unit_of_work import UnitOfWorkFactory
from app.version import VERSION
from app.web.certificate_page import certificate_page

if TYPE_CHECKING:
    from app.settings import Settings


@command
def verify(
    certificate: Annotated[
        Path, typer.Argument(metavar="CERTIFICATE", help="Certificate file.", show_default=False)
    ],
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="PUBLIC",
            help="Public key (PEM), or a saved /.well-known/lethe-keys. Default: this"
            " installation's keys.",
        ),
    ] = None,
    cites: Annotated[
        Path | None,
        typer.Option(metavar="FIRST", help="Check also that the certificate cites this one."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify a deletion certificate offline, also one in a saved page.

    Keys are read from files, never fetched. The text of a page must be what this version of Lethe
    writes for the certificate in the page.
    """
    screen = Screen.make(as_json=as_json)
    document, page = read_certificate(certificate)
    keys = _own_keys() if key is None else keys_in(key)
    verified = verify_signature(document, keys)
    if page is not None:
        _check_page(certificate, page, document)
    if cites is not None:
        first, _ = read_certificate(cites)
        verify_signature(first, keys)
        if not is_cited(first, verified.content):
            raise CommandError(f"{certificate} does not cite {cites}.")
    answer = {
        "valid": True,
        "key_id": verified.key_id,
        "subject": list(verified.subject),
        "payload": verified.content,
    }
    screen.result(answer, *certificate_summary(verified))


def _check_page(path: Path, page: str, envelope: dict[str, Any]) -> None:
    """Raise CommandError unless the page is what Lethe writes for the embedded certificate."""
    # Git and some mail programs change the line ends. Texts of certificates can have both kinds.
    read, written = (text.replace("\r\n", "\n") for text in (page, certificate_page(envelope)))
    if read.removeprefix("\ufeff") != written:
        raise CommandError(
            f"The signature of the certificate in {path} is valid, but the page around it is not"
            f" what Lethe {VERSION} writes for this certificate: the page was changed, or written"
            " by another version. Do not rely on its text. Save the page again, or check the"
            " embedded certificate alone: the end of the page has the command."
        )


def certificate_summary(verified: VerifiedCertificate) -> list[Any]:
    """Return the text for a certificate whose signature is valid."""
    content = verified.content
    names = ("request_id", "scope", "kind", "number", "completed_at", "issued_at", "method")
    values = {name.replace("_", " "): content.get(name) for name in names if name in content}
    for name in ("outcome", "parent_release", "release"):
        values[name.replace("_", " ")] = content.get(name)
    if "assurance" in content:
        values |= _assurance(content)
    if verified.version > 1:
        values |= _evidence(content)
    values["shredded"] = f"{len(content.get('shredded') or {})} files"
    values["not covered"] = "; ".join(content.get("not_covered") or ())
    values["key id"] = verified.key_id
    sentence = certified_sentence(content)
    return [
        "[green]Valid[/green]: this key signed the certificate's content.",
        *([] if sentence is None else [Text(sentence)]),
        facts(values),
    ]


def _assurance(content: dict[str, Any]) -> dict[str, str]:
    """Return whether the deletion is exact, since when or until when, and by which training."""
    terms = content.get("exact") or {}
    values = {"assurance": content["assurance"]}
    if content.get("exact_at") is not None:
        values["exact at"] = content["exact_at"]
    elif content["assurance"] == "approximate":
        due_at = terms.get("due_at") or "no time is promised"
        values["exact due"] = f"{due_at} (LETHE_EXACT: {terms.get('mode') or 'not recorded'})"
    if content.get("training") is not None:
        training = content["training"]
        values["exact training"] = (
            f"{training['ratings']} ratings at data version {training['data_version']}, "
            f"seed {training['seed']}, {training['trained_at']}"
        )
    if content.get("cites") is not None:
        cites = content["cites"]
        values["cites"] = f"certificate {cites['number']}, SHA-256 {cites['sha256']}"
    if content.get("returned") is not None:
        values["returned"] = f"with new consent since {content['returned']['since']}"
    return values


def _evidence(content: dict[str, Any]) -> dict[str, str]:
    rows, replicas = content.get("rows_deleted"), content.get("replicas")
    still_open = [f"{owed['kind']} since {owed['since']}" for owed in content.get("open") or ()]
    jobs = [f"{job['id']} ({job['method']}, {job['status']})" for job in content.get("jobs") or ()]
    return {
        "jobs": "; ".join(jobs),
        "rows deleted": "not recorded"
        if rows is None
        else ", ".join(f"{table} {count}" for table, count in sorted(rows.items())),
        "replicas": "not recorded"
        if replicas is None
        else "; ".join(f"{r['replica']} at {r['confirmed_at']}" for r in replicas) or "none",
        "still open": "; ".join(still_open) or "nothing",
        "software": str(content.get("software")),
    }


def _own_keys() -> list[TrustedKey]:
    """Return the keys of the installation on this machine; raises BadInputError without any."""
    settings = get_settings()
    keys = _registered_keys(settings)
    own = key_of_this_machine(settings)
    if own is not None and own.key_id not in {key.key_id for key in keys}:
        keys.append(own)
    if not keys:
        raise BadInputError(
            f"There is no signing key under {settings.keys_directory}. Give the public key of the "
            "installation that issued the certificate: --key PUBLIC"
        )
    return keys


def _registered_keys(settings: Settings) -> list[TrustedKey]:
    """Return the keys in this installation's SQLite file; a database server is not asked."""
    if settings.database_url or not (settings.home / "lethe.db").exists():
        return []
    database = make_database(settings.sqlalchemy_url)
    try:
        with UnitOfWorkFactory(database)(write=False) as uow:
            return [trusted_key(key) for key in uow.signing_keys.all()]
    except DatabaseUnavailableError:
        return []  # The file is of an earlier version, or not a database.
    finally:
        database.dispose()
