"""The check of the ledger finds gaps, altered entries, foreign files and false checkpoints."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.domain.ledger import LedgerEvent, LedgerHead, LedgerRecord
from app.services.ledger_check import LedgerReport, ProblemKind, check_ledger
from app.services.ledger_checkpoints import reference_to, sign_checkpoint
from app.services.signatures import Signer, TrustedKey
from app.storage import ledger_objects
from app.storage.ledger import Ledger, open_ledger

if TYPE_CHECKING:
    from pathlib import Path

    from app.services.pseudonyms import Pseudonyms

START = datetime(2026, 1, 1, tzinfo=UTC)
RECORD = LedgerRecord(event=LedgerEvent.CONSENTED, at=START, subject_hashes=("ab" * 32,))


class Written:
    """A ledger with seven entries, and checkpoints of the entries 2, 4 and 6."""

    def __init__(self, directory: Path, ledger: Ledger) -> None:
        self.directory = directory
        self.ledger = ledger
        self.signer = Signer(Ed25519PrivateKey.generate())
        self.heads = [LedgerHead()]
        for number in range(1, 8):
            self.heads.append(ledger.append(self.heads[-1], [RECORD], number))
        previous = None
        for number in (2, 4, 6):
            at = START + timedelta(hours=number)
            content = sign_checkpoint(self.signer, self.heads[number], at, previous)
            ledger.create_checkpoint(number, content)
            previous = reference_to(number, content)

    def entry(self, number: int) -> Path:
        return self.directory / "entries" / "000000000" / f"{number:012d}.json"

    def checkpoint(self, number: int) -> Path:
        return self.directory / "checkpoints" / f"{number:012d}.json"

    def replace_checkpoint(self, number: int, content: bytes) -> None:
        self.checkpoint(number).unlink()
        self.ledger.create_checkpoint(number, content)

    def check(self, *keys: TrustedKey) -> LedgerReport:
        trusted = list(keys) or [TrustedKey(public_key=self.signer.key.public_key())]
        return check_ledger(self.ledger, trusted)

    def problems(self) -> list[tuple[ProblemKind, int | None, int | None]]:
        return [(p.kind, p.number, p.last) for p in self.check().problems]


@pytest.fixture
def written(tmp_path: Path, pseudonyms: Pseudonyms) -> Written:
    ledger = open_ledger(str(tmp_path / "ledger"), pseudonyms)
    return Written(tmp_path / "ledger" / pseudonyms.fingerprint()[:16], ledger)


def test_unchanged_ledger_has_no_problem(written: Written) -> None:
    report = written.check()
    assert report.problems == ()
    assert (report.entries, report.last_number) == (7, 7)
    assert (report.checkpoints, report.covered) == (3, 6)


def test_empty_ledger_has_no_problem(tmp_path: Path, pseudonyms: Pseudonyms) -> None:
    report = check_ledger(open_ledger(str(tmp_path / "new"), pseudonyms), [])
    assert report.problems == ()
    assert (report.entries, report.last_number, report.covered) == (0, 0, 0)


def test_missing_entries_are_ranges(written: Written) -> None:
    for number in (1, 3, 4, 5):
        written.entry(number).unlink()
    report = written.check()
    assert [p.text for p in report.problems if p.kind is ProblemKind.MISSING] == [
        "entry 1 is missing",
        "entries 3 to 5 are missing",
    ]
    assert [p.number for p in report.problems if p.kind is ProblemKind.CHECKPOINT] == [4]
    assert report.entries == 3


def test_removed_end_is_found_by_the_checkpoint(written: Written) -> None:
    for number in (5, 6, 7):
        written.entry(number).unlink()
    (problem,) = written.check().problems
    assert problem.text == "checkpoint 6 cannot be trusted: entry 6 is missing"


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_altered_entry_is_one_problem(written: Written, keep: int) -> None:
    content = written.entry(5).read_bytes()
    written.entry(5).write_bytes(content[:keep])
    assert written.problems() == [(ProblemKind.ALTERED, 5, 5)]


def test_replaced_entry_does_not_continue(written: Written, tmp_path: Path) -> None:
    key = written.ledger._key
    other = Ledger(ledger_objects.LocalObjects(tmp_path, "other"), key)
    other.append(LedgerHead(), [RECORD, RECORD], 1)
    path = tmp_path / "other" / "entries" / "000000000" / "000000000001.json"
    written.entry(1).write_bytes(path.read_bytes())
    assert written.problems() == [(ProblemKind.UNCHAINED, 2, 2)]


def test_foreign_files_are_named(written: Written) -> None:
    (written.directory / "entries" / "000000000" / "x.json").write_bytes(b"")
    (written.directory / "checkpoints" / "x").write_bytes(b"")
    (written.directory / "x").write_bytes(b"")
    texts = [problem.text for problem in written.check().problems]
    assert {text.removeprefix("Lethe did not write the file ") for text in texts} == {
        "entries/000000000/x.json",
        "checkpoints/x",
        "x",
    }


def test_checkpoint_of_another_key_is_not_trusted(written: Written) -> None:
    stranger = TrustedKey(public_key=Ed25519PrivateKey.generate().public_key())
    report = written.check(stranger)
    assert report.checkpoints == 0
    assert [p.kind for p in report.problems] == [ProblemKind.CHECKPOINT] * 3
    assert "is not the id of a trusted key" in report.problems[0].text


def test_checkpoint_after_the_retirement_of_its_key_is_not_trusted(written: Written) -> None:
    key = written.signer.key.public_key()
    retired = TrustedKey(public_key=key, valid_from=START, retired_at=START + timedelta(hours=5))
    report = written.check(retired)
    assert report.covered == 4
    assert [p.number for p in report.problems] == [6]


def test_rotated_keys_verify_together(written: Written) -> None:
    at = START + timedelta(hours=7)
    new = Signer(Ed25519PrivateKey.generate())
    previous = reference_to(6, written.checkpoint(6).read_bytes())
    content = sign_checkpoint(new, written.heads[7], at, previous)
    written.ledger.create_checkpoint(7, content)
    keys = [
        TrustedKey(public_key=written.signer.key.public_key(), retired_at=at),
        TrustedKey(public_key=new.key.public_key(), valid_from=at),
    ]
    report = written.check(*keys)
    assert report.problems == ()
    assert report.covered == 7


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"payloadType": 1, "signatures": []}'])
def test_malformed_checkpoint_is_a_problem(written: Written, content: bytes) -> None:
    written.replace_checkpoint(6, content)
    assert written.problems() == [(ProblemKind.CHECKPOINT, 6, 6)]


def test_checkpoint_of_another_entry_or_chain_is_a_problem(written: Written) -> None:
    written.replace_checkpoint(4, written.checkpoint(6).read_bytes())
    assert [p.text for p in written.check().problems] == [
        "checkpoint 4 cannot be trusted: it covers entry 6",
        "checkpoint 6 cannot be trusted: the checkpoint before, 4, is missing or another one",
    ]


def test_checkpoint_of_a_rewritten_entry_is_a_problem(written: Written) -> None:
    other = LedgerHead(number=6, digest="0" * 64)
    written.replace_checkpoint(6, sign_checkpoint(written.signer, other, START, None))
    assert [p.text for p in written.check().problems] == [
        "checkpoint 6 cannot be trusted: entry 6 has another digest"
    ]


def test_missing_checkpoint_is_found_by_the_next(written: Written) -> None:
    written.checkpoint(4).unlink()
    (problem,) = written.check().problems
    assert "the checkpoint before, 4, is missing" in problem.text


def test_entries_of_several_directories(
    tmp_path: Path, pseudonyms: Pseudonyms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_objects, "sync", lambda _path: None)
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    ledger = open_ledger(str(tmp_path / "long"), pseudonyms)
    head = LedgerHead()
    for number in range(1, 1502):
        head = ledger.append(head, [RECORD], number)
    report = check_ledger(ledger, [])
    assert report.problems == ()
    assert report.entries == 1501
