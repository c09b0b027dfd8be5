"""Settings that make no sense are refused, with what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from app.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def test_torch_needs_no_engine(tmp_path: Path) -> None:
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
def test_an_engine_needs_a_plain_address(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="LETHE_ENGINE_URL to be the engine's base URL"):
        Settings(home=tmp_path, scorer="vllm", engine_url=url)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"engine_adapters": "adapters"}, "LETHE_ENGINE_ADAPTERS must be an absolute path"),
        ({"engine_timeout": 0}, "greater than 0"),
        ({"scorer": "tgi"}, "'torch', 'vllm' or 'sglang'"),
    ],
)
def test_what_an_engine_cannot_mean_is_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    sound: dict[str, Any] = {"home": tmp_path, "scorer": "vllm", "engine_url": "http://engine:1/v"}
    Settings(**sound)
    with pytest.raises(ValueError, match=says):
        Settings(**{**sound, **changes})


def test_the_engines_key_is_not_shown(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path, scorer="sglang", engine_url="https://engine", engine_key="hush"
    )
    assert "hush" not in repr(settings)
