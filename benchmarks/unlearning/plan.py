"""The plan that comparable runs share, and the lock of a results directory to one plan."""

from __future__ import annotations

import fcntl
import hashlib
import json
import platform
from contextlib import contextmanager
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.unlearning.errors import BenchmarkInputError
from benchmarks.unlearning.setting import write_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.unlearning.setting import Setting
    from models.data.interactions import Interactions

PLAN: Final = "plan.json"
RESULTS: Final = "results.json"
#: Version of the measures that runs save. Runs of an earlier version lack some of them.
MEASURES: Final = 2
_LOCK: Final = ".lock"
_LIBRARIES: Final = ("torch", "transformers", "peft", "numpy", "scipy")


def make_plan(setting: Setting) -> dict[str, Any]:
    """Return the properties that must be equal for runs to be comparable."""
    return {
        "rows": len(setting.data),
        "data_sha256": data_digest(setting.data),
        "protocol": setting.protocol,
        "forget_seed": setting.forget_seed,
        "measures": MEASURES,
        "recipe": setting.recipe.manifest(),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _LIBRARIES},
        },
    }


def data_digest(data: Interactions) -> str:
    """Return the SHA-256 of all ratings in order and of the user and item records.

    The catalog is included, because vocabulary and prompts are built from it.
    """
    digest = hashlib.sha256()
    for column in (data.user, data.item, data.rating, data.timestamp):
        digest.update(np.ascontiguousarray(column).tobytes())
    users = [[user.id, dict(user.attributes)] for user in data.users]
    items = [[item.id, item.title, dict(item.attributes)] for item in data.items]
    digest.update(json.dumps([users, items], sort_keys=True).encode())
    return digest.hexdigest()


@contextmanager
def hold_directory(out: Path, plan: dict[str, Any]) -> Iterator[None]:
    """Lock the results directory for one benchmark and write its plan.

    Raises BenchmarkInputError if the directory has runs of another plan, or another benchmark runs
    in it.
    """
    if out.exists() and not out.is_dir():
        raise BenchmarkInputError(f"{out} is a file. Choose a directory for --out.")
    _check(out, plan)
    out.mkdir(parents=True, exist_ok=True)
    with (out / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BenchmarkInputError(
                f"Another benchmark runs in {out}. Wait for its end, or choose another --out."
            ) from error
        _check(out, plan)  # Repeated, because another benchmark may have written a plan meanwhile.
        write_json(out / PLAN, plan)
        yield


def _check(out: Path, plan: dict[str, Any]) -> None:
    """Raise BenchmarkInputError if the directory has results of another plan."""
    if not any((out / name).exists() for name in ("runs", "work", RESULTS)):
        return
    try:
        stored = json.loads((out / PLAN).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        stored = {}
    if not isinstance(stored, dict):
        stored = {}
    if stored != json.loads(json.dumps(plan)):
        differs = ", ".join(sorted(key for key in plan if stored.get(key) != plan[key]))
        raise BenchmarkInputError(
            f"{out} holds runs of another benchmark (different {differs}). Choose another --out."
        )
