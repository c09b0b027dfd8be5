"""`python -m benchmarks.audit_power`: the command `lethe benchmark audit-power`."""

from __future__ import annotations

import sys

from benchmarks.__main__ import main

if __name__ == "__main__":
    sys.argv.insert(1, "audit-power")
    main()
