"""`python -m benchmarks`: the benchmark commands, which `lethe benchmark` runs."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; an interrupt, even during imports, ends it without a traceback."""
    try:
        # Imported here so that an interrupt during the import is caught as well.
        from benchmarks.cli import application  # noqa: PLC0415

        application(prog_name="lethe benchmark")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
