"""The `lethe` command. It starts processes and calls the HTTP API; it never loads a model."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; an interrupt, even during imports, ends it without a traceback."""
    try:
        # Imported here so that an interrupt during the import is caught as well.
        from app.cli.root import application  # noqa: PLC0415
        from app.logs import configure_logging  # noqa: PLC0415
        from app.private_files import use_private_umask  # noqa: PLC0415

        configure_logging("WARNING")
        if sys.argv[1:2] != ["benchmark"]:  # Its reports are for other users too.
            use_private_umask()
        application(prog_name="lethe")
    except KeyboardInterrupt:
        sys.exit(130)
