"""Run a real Celery worker with the file learner instead of models."""

from __future__ import annotations

import sys
from pathlib import Path

# The script's directory has the learner, the directory above has the packages.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))

from file_learner import FileLearner

from worker.celery_app import celery_app, runtime

if __name__ == "__main__":
    runtime.make_learner = FileLearner
    celery_app.worker_main(["worker", "--loglevel", "WARNING", "--without-gossip"])
