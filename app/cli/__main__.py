"""`python -m app.cli`: the `lethe` command without an installed script."""

from __future__ import annotations

from app.cli import main

if __name__ == "__main__":
    main()
