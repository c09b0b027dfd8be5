"""Contents of certificates with every field, and hostile texts in all of them."""

from __future__ import annotations

from typing import Any

#: Ends elements and attributes, and is an expression of templates.
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \"'&amp; {{ 7 * 7 }}"


def full_content(text: str = "plain", **changes: Any) -> dict[str, Any]:
    """Return the content of an approximate deletion; `text` stands where texts are free."""
    shares = {
        "answers": {"share": 0.48, "interval": [-1.38, 2.34]},
        "exposure": {"share": 0.56, "interval": [-0.96, 5.08]},
    }
    audit = {
        "forget": {"mean": 0.0098, "interval": [0.0055, 0.0141], "rows": 145},
        "holdout": {"mean": 0.0004, "interval": [0.0002, None], "rows": 2475},
        "test": {"mean": -0.0004, "interval": [-0.0007, 0.0], "rows": 4833},
        "kinds": {"user": {"rows": 145, "shares": shares}},
    }
    return {
        "request_id": "req_01a22b8976d3451ca6d21d444e5361ed",
        "scope": "user",
        "kind": "deletion",
        "number": 1,
        "subject_hashes": ["a" * 64],
        "requested_at": "2026-11-30T08:19:19+00:00",
        "completed_at": "2026-11-30T09:19:29.197011+01:00",
        "issued_at": "2026-11-30T08:19:29.2+00:00",
        "method": text,
        "release": "rel_new",
        "parent_release": "rel_old",
        "outcome": "inconclusive",
        "assurance": "approximate",
        "exact": {"mode": "soon", "due_at": "2026-12-15T08:19:24+00:00"},
        "exact_at": None,
        "finding": {
            "sentence": f"The audit cannot tell from 145 rows. {text}",
            "outcome": "inconclusive",
            "reason": text,
            "share": 0.48,
            "interval": [-1.38, 2.34],
            "confidence": 0.9,
            "rows": 145,
            "persons": None,
            "failed_attempts": 1,
        },
        "batch": {"outcome": "inconclusive", "sentence": text, "figures": {"audit": audit}},
        "jobs": [
            {"id": "job_1", "method": text, "status": "failed", "error": text, "outcome": None}
        ],
        "rows_deleted": {"interactions": 150, "users": 1, text: 3},
        "replicas": [{"replica": text, "confirmed_at": text}],
        "shredded": {text: "c" * 64},
        "open": [{"kind": text, "since": "2026-11-30T08:19:28+00:00", "host": text}],
        "not_covered": ["backups of the database", text],
        "software": text,
        **changes,
    }
