"""Run a worker process that suspends itself (SIGSTOP) at a given point of the pipeline.

The point is a stage (after the begin of the stage is recorded), `unlinked` (after the files are
unlinked, before the database is scrubbed) or `finished` (after the deletion is committed as
completed). The parent process then kills or continues the worker.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from dataclasses import fields
from pathlib import Path

# The script's directory has the learner, the directory above has the packages.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))

from file_learner import FileLearner

from app.domain.jobs import Stage
from app.logs import configure_logging
from app.settings import Settings
from worker.context import WorkerContext, build_context
from worker.loop import run_forever
from worker.process import stop_on_signals

#: The points before a scrub, and the stage that scrubs.
SCRUBS = {"unlinked": Stage.SHRED, "finished": Stage.CERTIFY}
_begun_stages: list[Stage] = []


def suspend() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


class SuspendingContext(WorkerContext):
    """Suspends the process before the scrub in the given stage."""

    suspend_in: Stage | None = None

    def scrub_database(self) -> bool:
        if _begun_stages and _begun_stages[-1] is self.suspend_in:
            suspend()
        return super().scrub_database()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stop-at", default="")
    parser.add_argument("--model", action="store_true", help="use the learner with real models")
    options = parser.parse_args()
    point = options.stop_at
    settings = Settings()
    configure_logging("WARNING")
    stop = threading.Event()
    stop_on_signals(stop)

    def on_stage(stage: Stage) -> None:
        _begun_stages.append(stage)
        if stage.value == point:
            suspend()

    built = build_context(settings, None if options.model else FileLearner)
    SuspendingContext.suspend_in = SCRUBS.get(point)
    context = SuspendingContext(**{f.name: getattr(built, f.name) for f in fields(built)})
    try:
        run_forever(context, stop, until_idle=True, on_stage=on_stage)
    finally:
        context.close()


if __name__ == "__main__":
    main()
