"""Invalid combinations of settings are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from app.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


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
