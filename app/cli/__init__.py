"""The `lethe` command. It starts worker processes and speaks HTTP; it never loads a model."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl-C, even while modules load, ends it without a trace."""
    try:
        # Imported here so that an interrupt while loading is caught as well.
        from app.cli.root import application  # noqa: PLC0415

        application(prog_name="lethe")
    except KeyboardInterrupt:
        sys.exit(130)
