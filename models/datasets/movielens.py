"""Shared functions of the readers of the three MovieLens layouts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from models.datasets.errors import DataSetError, RejectedLineError
from models.datasets.values import age_bracket

if TYPE_CHECKING:
    from pathlib import Path

_UNKNOWN_GENRES: Final = frozenset({"", "(no genres listed)", "unknown"})
_UNKNOWN_OCCUPATIONS: Final = frozenset({"", "none", "other"})


def directory_with(path: Path, *names: str) -> Path | None:
    """Return the directory with all these files, or None; `path` may be the first file itself."""
    directory = path.parent if path.name == names[0] and path.is_file() else path
    return directory if all((directory / name).is_file() for name in names) else None


def require_directory(path: Path, *names: str) -> Path:
    """Return the directory with all these files; raises DataSetError listing missing files."""
    directory = directory_with(path, *names)
    if directory is None:
        base = path if path.is_dir() else path.parent
        missing = ", ".join(name for name in names if not (base / name).is_file())
        raise DataSetError(f"{base} lacks {missing}. Give the directory of the unpacked archive.")
    return directory


def fields_of(parts: list[str], expected: int) -> list[str]:
    """Return `parts`; raises RejectedLineError unless there are `expected` of them."""
    if len(parts) != expected:
        raise RejectedLineError(f"the line does not have {expected} fields")
    return parts


def genre_attribute(genres: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the attribute `genre`, or no attribute if no genre is known."""
    known = tuple(g for g in dict.fromkeys(map(str.strip, genres)) if g not in _UNKNOWN_GENRES)
    return {"genre": known} if known else {}


def demographics(gender: str, age: str, occupation: str) -> dict[str, str]:
    """Return the known attributes among gender, age (given in years) and occupation."""
    attributes = {
        "gender": gender.strip().upper(),
        "age": age_bracket(age),
        "occupation": occupation.strip().lower(),
    }
    if attributes["gender"] not in {"F", "M"}:
        del attributes["gender"]
    if attributes["occupation"] in _UNKNOWN_OCCUPATIONS:
        del attributes["occupation"]
    return {name: value for name, value in attributes.items() if value is not None}
