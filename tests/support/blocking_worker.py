"""Run a worker process that suspends itself (SIGSTOP) at a given point of the pipeline.

The point is a stage (after the begin of the stage is recorded), `publishing` (in the midst of the
publication of a release), `unlinked` (after the files are unlinked, before the database is
scrubbed), `scrubbed` (before the owed erasure is closed), `signed` or `chunk` (before or after the
first exact certificate is committed, where each transaction certifies one deletion) or `finished`
(after the deletion is committed as completed). The parent process then kills or continues the
worker.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.logs import configure_logging
from app.services import exactness
from app.settings import Settings
from app.storage.artifacts import ArtifactStore
from tests.support.file_learner import FileLearner
from worker import loop
from worker.context import WorkerContext, build_context
from worker.loop import run_forever
from worker.process import stop_on_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.domain.jobs import Stage


def suspend() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


class SuspendingContext(WorkerContext):
    """Suspends the process before or after the erasure of remains in the database."""

    suspend_at: str = ""

    def erase_remains(self, *, transaction_id: int | None, wait_seconds: float) -> str | None:
        if self.suspend_at == "unlinked":
            suspend()
        error = super().erase_remains(transaction_id=transaction_id, wait_seconds=wait_seconds)
        if self.suspend_at == "scrubbed":
            suspend()
        return error


def suspend_after(module: Any, name: str) -> None:
    """Let the function `name` of a module suspend the process when it returns."""
    function = getattr(module, name)

    def call(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        suspend()
        return result

    setattr(module, name, call)


def suspend_after_first_certificate(*, before_commit: bool) -> None:
    """Suspend the process in the first transaction that certifies, or right after it."""
    function = exactness.certify_exact
    issued: list[str] = []

    def call(*arguments: Any, **options: Any) -> list[str]:
        if issued and not before_commit:
            suspend()
        issued[:] = function(*arguments, **options)
        if issued and before_commit:
            suspend()
        return list(issued)

    exactness.certify_exact = call


class SuspendingStore(ArtifactStore):
    """Suspends the process in the midst of a publication."""

    def publish(
        self, local_dir: Path, relative: str, check: Callable[[], None] = lambda: None
    ) -> None:
        if self._remote is not None:
            suspend_in_upload(self._remote._files)
            super().publish(local_dir, relative, check)
            return

        def check_and_suspend() -> None:
            check()
            suspend()

        super().publish(local_dir, relative, check_and_suspend)


def suspend_in_upload(file_system: Any) -> None:
    """Let the next upload of a file suspend the process when the content has been read."""

    def put_file(source: str, target: str, **_options: object) -> None:
        content = Path(source).read_bytes()
        suspend()
        file_system.pipe_file(target, content)

    file_system.put_file = put_file


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stop-at", default="")
    parser.add_argument("--model", action="store_true", help="use the learner with real models")
    options = parser.parse_args(arguments)
    point = options.stop_at
    settings = Settings()
    configure_logging("WARNING")
    stop = threading.Event()
    stop_on_signals(stop)

    def on_stage(stage: Stage) -> None:
        if stage.value == point:
            suspend()

    built = build_context(settings, None if options.model else FileLearner)
    SuspendingContext.suspend_at = point
    if point in ("chunk", "signed"):
        exactness.REQUESTS_PER_TRANSACTION = 1  # type: ignore[misc] # a constant elsewhere
        suspend_after_first_certificate(before_commit=point == "signed")
    if point == "finished":
        suspend_after(loop, "run_job")
    context = SuspendingContext(**{f.name: getattr(built, f.name) for f in fields(built)})
    if point == "publishing":
        store = SuspendingStore(settings.artifacts_root, settings.home / "cache")
        context = replace(context, artifacts=store)
    try:
        run_forever(context, stop, until_idle=True, on_stage=on_stage)
    finally:
        context.close()
