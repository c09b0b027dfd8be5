"""The command line: what it prints, its exit statuses, and one line for every expected error."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from app.cli.data_commands import training_summary
from app.cli.demo.home import DemoRunningError, ForeignDirectoryError, fresh_home
from app.cli.installation import open_installation
from app.cli.processes import Child
from app.cli.reports import import_report
from app.cli.root import application
from app.cli.screen import Screen
from app.cli.serving import Supervised
from app.domain.catalog import Interaction
from app.services.certificates import Signer
from app.services.secrets import load_signer
from app.settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

UNUSED_PORT = "1"  # Nothing that a user starts listens there.


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LETHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    get_settings.cache_clear()
    yield tmp_path / "home"
    get_settings.cache_clear()


def lethe(*arguments: str) -> Result:
    """Run the command; an exception that is not an exit is a failure of the test."""
    get_settings.cache_clear()
    return CliRunner().invoke(application, arguments, catch_exceptions=False)


def document(*arguments: str) -> Any:
    """Run the command with --json and return its one document."""
    return json.loads(lethe(*arguments, "--json").stdout)


@pytest.fixture
def somebody() -> str:
    """A user with two ratings."""
    with open_installation(get_settings()) as installation, installation.uow() as uow:
        uow.people.upsert_items([("i1", "One", {}), ("i2", "Two", {})])
        uow.people.ensure_users(["ann"])
        uow.people.upsert_interactions(
            [Interaction(user_id="ann", item_id=i, rating=4.0, timestamp=9) for i in ("i1", "i2")]
        )
    return "ann"


def test_help_names_every_command_and_nothing_that_does_not_exist() -> None:
    shown = lethe("--help").stdout
    for name in (
        *("demo", "up", "import", "train", "recommend", "forget", "consent", "jobs"),
        *("releases", "verify", "benchmark"),
    ):
        assert f" {name} " in shown
        assert lethe(name, "--help").exit_code == 0
    measured = lethe("benchmark", "--help").stdout
    assert " unlearning " in measured
    assert " serving " in measured


@pytest.mark.parametrize("clients", ["", "two", "8,64", "1,0", "1,-3", "1,9999"])
def test_the_serving_benchmark_refuses_impossible_clients(clients: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = lethe("benchmark", "serving", "--out", str(out), "--clients", clients)
    assert result.exit_code == 2
    assert "--clients" in result.output
    assert not out.exists()


def test_lists_are_empty_on_a_new_installation_and_say_what_to_do() -> None:
    assert document("jobs") == {"items": [], "next_cursor": None}
    assert document("releases")["live"] is None
    assert "lethe train" in lethe("jobs").stdout
    assert "lethe train" in lethe("releases").stdout


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["jobs", "job_none"], 1, "The job job_none does not exist"),
        (["import", "/no/such/path"], 2, "/no/such/path does not exist"),
        (["train"], 1, "lethe import PATH"),
        (["train", "--backbone", "llama"], 2, "Known: compact, compact-t5, smollm2, hf:"),
        (["train", "--backbone", ""], 2, "Known: compact"),
        (["train", "--backbone", "hf:/no/such/model"], 2, "/no/such/model holds no language model"),
        (["forget", "nobody"], 1, "No data is stored for this user"),
        (["consent", "nobody"], 1, "No data is stored for this user"),
        (["recommend", "ann", "--url", f"http://127.0.0.1:{UNUSED_PORT}"], 1, "lethe up"),
        (["recommend", "ann", "--url", "not an address"], 2, "no address"),
        (["verify", "/no/such/file"], 1, "/no/such/file"),
        (["demo", "--data", "/no/such/path"], 2, "--data"),
    ],
)
def test_an_expected_error_is_one_line_with_a_status(
    arguments: list[str], status: int, said: str
) -> None:
    ended = lethe(*arguments)
    assert ended.exit_code == status
    assert said in ended.stdout
    assert len(ended.stdout.strip().splitlines()) == 1
    as_json = CliRunner().invoke(application, [*arguments, "--json"])
    assert said in json.loads(as_json.stdout)["error"]["message"]


def test_bad_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETHE_PORT", "many")
    ended = lethe("jobs")
    assert ended.exit_code == 2
    assert "LETHE_PORT" in ended.stdout


def test_a_backbone_of_the_settings_is_checked_by_every_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LETHE_BACKBONE", "llama")
    ended = lethe("jobs")
    assert ended.exit_code == 2
    assert "LETHE_BACKBONE: There is no backbone 'llama'. Known: compact" in ended.stdout


@pytest.mark.usefixtures("somebody")
@pytest.mark.parametrize("given", ["llama", "hf:./nowhere"])
def test_a_wrong_backbone_is_refused_before_anything_is_recorded(given: str) -> None:
    assert lethe("train", "--backbone", given).exit_code == 2
    assert document("jobs")["items"] == []


def test_training_says_how_much_of_a_model_it_changes() -> None:
    test = {"model": {"auc": 0.75, "accuracy": 0.7, "log_loss": 0.5}}
    training = {"test": test, "parameters": 134_515_008, "rows": {"train": 90_000}}
    training |= {"fit_seconds": 12.0, "trainable_parameters": 460_800}
    job = {"metrics": {"tries": [{"training": training}]}, "release": "r1"}

    said = training_summary(job)

    assert "460,800 of 134,515,008 parameters trained (0.3%), 90,000 training rows" in said[1]
    training["trainable_parameters"] = training["parameters"]
    assert training_summary(job)[1].startswith("  134,515,008 parameters, 90,000 training rows")


def test_a_database_that_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETHE_DATABASE_URL", "mysql://localhost/lethe")
    ended = lethe("jobs")
    assert ended.exit_code == 2
    assert "LETHE_DATABASE_URL" in ended.stdout


def test_import_reports_what_it_rejected_with_file_and_line(tmp_path: Path) -> None:
    data = tmp_path / "ratings.csv"
    data.write_text("user,item,rating,timestamp\nann,i1,4,10\nann,i2,many,11\nbob,i1,5,12\n")

    ended = lethe("import", str(data))

    assert ended.exit_code == 0
    assert "ratings.csv:3" in ended.stdout
    summary = document("import", str(data))
    assert (summary["lines"], summary["accepted"], summary["interactions"]) == (3, 2, 2)
    assert [group["count"] for group in summary["rejected"]] == [1]


def test_import_of_what_holds_no_data_passes_the_importers_message_on(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("nothing")
    ended = lethe("import", str(tmp_path))
    assert ended.exit_code == 2
    assert "no format that is known" in ended.stdout


def test_forget_answers_like_the_interface_and_repeats_itself(somebody: str) -> None:
    first = document("forget", somebody)
    assert first["status"] == "scheduled"
    assert first["scope"] == "user"
    assert first["job_id"] is None
    assert document("forget", somebody)["id"] == first["id"]
    assert "earlier request" in lethe("forget", somebody).stdout


def test_forget_takes_single_items(somebody: str) -> None:
    assert document("forget", somebody, "--item", "i1", "--item", "i2")["scope"] == "user_items"
    assert lethe("forget", somebody, "--item", "i9").exit_code == 1


def test_forget_waits_to_the_end_without_any_model(
    somebody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first release forgetting is rows only; a worker is started for it."""
    monkeypatch.setenv("LETHE_CANCEL_WINDOW", "0")
    monkeypatch.setenv("LETHE_BATCH_SECONDS", "0")
    assert document("forget", somebody, "--wait")["status"] == "completed"
    assert lethe("consent", somebody).exit_code == 0
    assert document("consent", somebody) == {"lifted": 0}


class TestVerify:
    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Path:
        signer = load_signer(get_settings())
        path = tmp_path / "certificate.json"
        path.write_text(json.dumps(signer.sign({"request_id": "req_1", "outcome": "passed"})))
        return path

    def test_valid_under_the_installations_key(self, certificate: Path) -> None:
        told = document("verify", str(certificate))
        assert told == {"valid": True, "payload": {"request_id": "req_1", "outcome": "passed"}}
        assert "Valid" in lethe("verify", str(certificate)).stdout

    def test_valid_under_a_given_key(self, certificate: Path, tmp_path: Path) -> None:
        public = tmp_path / "public.pem"
        public.write_bytes(load_signer(get_settings()).public_pem())
        assert lethe("verify", str(certificate), "--key", str(public)).exit_code == 0

    def test_a_changed_word_is_found(self, certificate: Path) -> None:
        certificate.write_text(certificate.read_text().replace("passed", "failed"))
        ended = lethe("verify", str(certificate))
        assert ended.exit_code == 1
        assert "not valid" in ended.stdout

    def test_another_key_is_not_trusted(self, certificate: Path, tmp_path: Path) -> None:
        other = tmp_path / "other.pem"
        other.write_bytes(Signer(Ed25519PrivateKey.generate()).public_pem())
        assert lethe("verify", str(certificate), "--key", str(other)).exit_code == 1

    def test_without_any_key_none_is_made(self, tmp_path: Path, home: Path) -> None:
        certificate = tmp_path / "certificate.json"
        certificate.write_text("{}")
        ended = lethe("verify", str(certificate))
        assert ended.exit_code == 2
        assert "--key" in ended.stdout
        assert not home.exists()

    def test_what_is_no_json_is_bad_input(self, tmp_path: Path) -> None:
        (tmp_path / "note").write_text("hello")
        assert lethe("verify", str(tmp_path / "note")).exit_code == 2


class TestDemoHome:
    def test_it_is_emptied_but_for_its_marker(self, tmp_path: Path) -> None:
        with fresh_home(tmp_path / "demo") as home:
            (home / "old").mkdir()
            (home / "old" / "file").touch()
        with fresh_home(tmp_path / "demo") as home:
            assert [entry.name for entry in home.iterdir()] == [".lethe-demo"]

    def test_a_link_inside_is_removed_and_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "file").touch()
        with fresh_home(tmp_path / "demo") as home:
            (home / "link").symlink_to(tmp_path / "elsewhere")
        with fresh_home(tmp_path / "demo") as home:
            assert not (home / "link").is_symlink()
        assert (tmp_path / "elsewhere" / "file").exists()

    def test_a_second_demo_does_not_pull_the_rug_away(self, tmp_path: Path) -> None:
        with fresh_home(tmp_path / "demo") as home:
            (home / "in-use").touch()
            with pytest.raises(DemoRunningError), fresh_home(tmp_path / "demo"):
                pytest.fail("two demos at once")
            assert (home / "in-use").exists()

    def test_a_link_to_a_directory_is_refused(self, tmp_path: Path) -> None:
        with fresh_home(tmp_path / "demo"):
            pass
        (tmp_path / "link").symlink_to(tmp_path / "demo")
        with pytest.raises(ForeignDirectoryError), fresh_home(tmp_path / "link"):
            pytest.fail("a link was followed")


def test_a_child_that_keeps_ending_is_started_later_and_later() -> None:
    child = Child(name="false", module="this")
    child.start()
    child.process.wait()
    watched = Supervised(child)
    now, waited = 0.0, []
    for _ in range(6):
        assert "starting it again" in watched.check(now)
        waited.append((watched.restart_at or 0.0) - now)
        assert watched.check(now) == ""  # It waits.
        now += waited[-1]
        watched.check(now)
        child.process.wait()
    child.kill()
    assert waited == sorted(waited)
    assert waited[0] < waited[-1] == 30.0


def test_brackets_in_data_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    summary = {
        **dict.fromkeys(("lines", "accepted", "described", "duplicates"), 1),
        **dict.fromkeys(("users", "items", "interactions"), 1),
        "format": "csv",
        "skipped": {},
        "rejected": [{"reason": "[bold]odd", "count": 1, "examples": ["[red].csv:2"]}],
    }
    Screen.make(as_json=False).say(import_report(summary))
    assert "[bold]odd" in capsys.readouterr().out


def test_instants_in_documents_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    Screen.make(as_json=True).document({"at": datetime(2026, 11, 23, tzinfo=UTC)})
    assert json.loads(capsys.readouterr().out)["at"].startswith("2026-11-23")
