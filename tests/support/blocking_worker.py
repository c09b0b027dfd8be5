"""A real worker process that stops itself (SIGSTOP) at a given point of the pipeline.

The points are the stages, as their beginning is recorded, and two more: `unlinked`, when the
files are gone and the database is not scrubbed, and `finished`, when the deletion has just been
committed as completed. The parent then kills the process, or lets it go on.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from dataclasses import fields
from pathlib import Path

# The script's own directory holds the learner, the directory above it the packages.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))

from file_learner import FileLearner

from app.domain.jobs import Stage
from app.logs import configure_logging
from app.settings import Settings
from worker.context import WorkerContext, build_context
from worker.loop import run_forever
from worker.process import stop_on_signals

SCRUBS = {"unlinked": Stage.SHRED, "finished": Stage.CERTIFY}
_seen: list[Stage] = []


def stop_here() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


class StoppingContext(WorkerContext):
    """Stops the process before the scrubbing that follows the given stage."""

    stop_after: Stage | None = None

    def scrub_database(self) -> bool:
        if _seen and _seen[-1] is self.stop_after:
            stop_here()
        return super().scrub_database()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stop-at", default="")
    parser.add_argument("--model", action="store_true", help="learn with torch")
    options = parser.parse_args()
    point = options.stop_at
    settings = Settings()
    configure_logging("WARNING")
    stop = threading.Event()
    stop_on_signals(stop)

    def on_stage(stage: Stage) -> None:
        _seen.append(stage)
        if stage.value == point:
            stop_here()

    built = build_context(settings, None if options.model else FileLearner)
    StoppingContext.stop_after = SCRUBS.get(point)
    context = StoppingContext(**{f.name: getattr(built, f.name) for f in fields(built)})
    try:
        run_forever(context, stop, until_idle=True, on_stage=on_stage)
    finally:
        context.close()


if __name__ == "__main__":
    main()
