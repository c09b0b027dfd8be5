"""What runs must agree in to be compared, and the folder that is kept to one such plan."""

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
_LOCK: Final = ".lock"
_LIBRARIES: Final = ("torch", "transformers", "peft", "numpy", "scipy")


def make_plan(setting: Setting) -> dict[str, Any]:
    """Return what must agree between runs that are compared with each other."""
    return {
        "rows": len(setting.data),
        "data_sha256": data_digest(setting.data),
        "protocol": setting.protocol,
        "forget_seed": setting.forget_seed,
        "recipe": setting.recipe.manifest(),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _LIBRARIES},
        },
    }


def data_digest(data: Interactions) -> str:
    """Return the SHA-256 of all rows in order, as (user, item, rating, time), and of the records.

    The catalogue counts too: the vocabulary and the prompts are made of it.
    """
    digest = hashlib.sha256()
    for column in (data.user, data.item, data.rating, data.timestamp):
        digest.update(np.ascontiguousarray(column).tobytes())
    records = [[user.id, dict(user.attributes)] for user in data.users]
    titled = [[item.id, item.title, dict(item.attributes)] for item in data.items]
    digest.update(json.dumps([records, titled], sort_keys=True).encode())
    return digest.hexdigest()


@contextmanager
def claimed(out: Path, plan: dict[str, Any]) -> Iterator[None]:
    """Keep a folder to one plan and to one benchmark at a time.

    Raises BenchmarkInputError where it holds the runs of another, or another is at work in it.
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
                f"Another benchmark is at work in {out}. Wait for it, or choose another --out."
            ) from error
        _check(out, plan)  # Another may have claimed it meanwhile.
        write_json(out / PLAN, plan)
        yield


def _check(out: Path, plan: dict[str, Any]) -> None:
    place = out / PLAN
    if not any((out / made).exists() for made in ("runs", "work", RESULTS)):
        return  # Whatever was planned here, nothing came of it.
    if place.exists():
        try:
            held = json.loads(place.read_text(encoding="utf-8"))
        except ValueError:
            held = {}
        if not isinstance(held, dict):
            held = {}
    else:
        held = {}
    if held != json.loads(json.dumps(plan)):
        differs = ", ".join(sorted(key for key in plan if held.get(key) != plan[key]))
        raise BenchmarkInputError(
            f"{out} holds runs of another benchmark (other {differs}). Choose another --out."
        )
