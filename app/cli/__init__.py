"""The `lethe` command. It starts processes and calls the HTTP API; it never loads a model."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    """Run the command line; an interrupt, even during imports, ends it without a traceback."""
    try:
        # Imported here so that an interrupt during the import is caught as well.
        from app.cli.root import application  # noqa: PLC0415
        from app.logs import configure_logging  # noqa: PLC0415
        from app.private_files import use_private_umask  # noqa: PLC0415

        _replace_closed_streams()
        configure_logging("WARNING")
        if sys.argv[1:2] != ["benchmark"]:  # Its reports are for other users too.
            use_private_umask()
        application(prog_name="lethe")
    except KeyboardInterrupt:
        sys.exit(130)


def _replace_closed_streams() -> None:
    """Discard output for which the caller closed the stream (`>&-`); Python has None there."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 -- until the exit
            setattr(sys, name, stream)
