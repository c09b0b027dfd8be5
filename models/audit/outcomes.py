"""Name the outcomes of an audit."""

from __future__ import annotations

from typing import Final

PASSED: Final = "passed"
FAILED: Final = "failed"
INCONCLUSIVE: Final = "inconclusive"
