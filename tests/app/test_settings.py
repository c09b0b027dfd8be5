"""Invalid combinations of settings are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings


def test_default_scorer_is_torch(tmp_path: Path) -> None:
    assert Settings(home=tmp_path).scorer == "torch"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8001",
        "ftp://engine:8001",
        "http://",
        "http://name:secret@engine:8001",
        "http://engine:8001?key=secret",
    ],
)
def test_engine_without_plain_url_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="LETHE_ENGINE_URL to be the engine's base URL"):
        Settings(home=tmp_path, scorer="vllm", engine_url=url)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine_adapters": "adapters"}, "LETHE_ENGINE_ADAPTERS must be an absolute path"),
        ({"engine_timeout": 0}, "greater than 0"),
        ({"scorer": "tgi"}, "'torch', 'vllm' or 'sglang'"),
    ],
)
def test_invalid_engine_setting_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    valid: dict[str, Any] = {"home": tmp_path, "scorer": "vllm", "engine_url": "http://engine:1/v"}
    Settings(**valid)
    with pytest.raises(ValueError, match=message):
        Settings(**{**valid, **changes})


def test_repr_does_not_show_the_engine_key(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path, scorer="sglang", engine_url="https://engine", engine_key="hush"
    )
    assert "hush" not in repr(settings)


def test_ledger_is_beside_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert Settings(home=Path("/lethe")).ledger_root == "/lethe-ledger"
    assert Settings(home=Path("lethe")).ledger_root == str(tmp_path / "below" / "lethe-ledger")
    assert Settings(home=Path()).ledger_root == str(tmp_path / "below-ledger")
    assert Settings(home=Path("../lethe")).ledger_root == str(tmp_path / "lethe-ledger")
    assert Settings(home=Path(".."), ledger_url="").ledger_root == f"{tmp_path}-ledger"


def test_relative_ledger_path_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(home=tmp_path / "home", ledger_url=" ledger ")
    assert settings.ledger_root == str(tmp_path / "ledger")


def test_home_that_is_the_root_needs_a_ledger_url() -> None:
    with pytest.raises(ValueError, match=r"LETHE_HOME is the root directory.*LETHE_LEDGER_URL"):
        Settings(home=Path("/"), artifacts_url="s3://bucket/artifacts")


@pytest.mark.parametrize(
    "changes",
    [
        {"ledger_url": "{base}/home"},
        {"ledger_url": "{base}/home/ledger"},
        {"ledger_url": "{base}/other/../home/ledger"},
        {"ledger_url": "{base}/link/ledger"},
        {"ledger_url": "file://{base}/home/ledger"},
        {"ledger_url": "{base}/store/ledger", "artifacts_url": "{base}/store"},
        {"ledger_url": "{base}/store", "artifacts_url": "local://{base}/store"},
        {"ledger_url": "s3://bucket/store/ledger", "artifacts_url": "s3://bucket/store/"},
        {"artifacts_url": "{base}"},
    ],
)
def test_ledger_inside_what_is_restored_is_refused(tmp_path: Path, changes: dict[str, str]) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "home")
    values = {name: value.format(base=tmp_path) for name, value in changes.items()}
    with pytest.raises(ValueError, match=r"would lie inside .* Set LETHE_LEDGER_URL"):
        Settings(home=tmp_path / "home", **values)  # type: ignore[arg-type] # strings only


@pytest.mark.parametrize(
    ("ledger", "artifacts"),
    [
        ("{base}/home-ledger", ""),
        ("{base}", ""),
        ("s3://bucket/store-2", "s3://bucket/store"),
        ("gs://bucket/store", "s3://bucket/store"),
    ],
)
def test_ledger_elsewhere_is_accepted(tmp_path: Path, ledger: str, artifacts: str) -> None:
    url = ledger.format(base=tmp_path)
    settings = Settings(home=tmp_path / "home", ledger_url=url, artifacts_url=artifacts)
    assert settings.ledger_root == url


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exact": "Soon"}, "'soon', 'deadline' or 'off'"),
        ({"exact": ""}, "'soon', 'deadline' or 'off'"),
        ({"exact_soon_seconds": -1}, "greater than or equal to 0"),
        ({"exact_soon_seconds": "inf"}, "finite number"),
        ({"exact_soon_seconds": "nan"}, "finite number"),
        ({"exact_soon_seconds": "ten"}, "valid number"),
        ({"exact_days": 0}, "greater than 0"),
        ({"exact_days": "inf"}, "less than or equal to 36500"),
        ({"drift_rows": 1.5}, "less than or equal to 1"),
    ],
)
def test_invalid_setting_of_renewals_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(home=tmp_path, **changes)


def test_empty_home_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETHE_HOME", " ")
    with pytest.raises(ValueError, match="is empty"):
        Settings()
