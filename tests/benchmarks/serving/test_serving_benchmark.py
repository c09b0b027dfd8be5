"""The serving benchmark: options, load generator, samples and goals."""

from __future__ import annotations

import itertools
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from app.cli.client import Service
from benchmarks.cli import application
from benchmarks.serving.forgets import Forgets
from benchmarks.serving.load import Plan, Sample
from benchmarks.serving.report import goal_lines
from benchmarks.serving.scenarios import (
    Swap,
    overlapping,
    run_load,
    run_load_until,
    summary,
    swap_figures,
    training,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class _Handler(BaseHTTPRequestHandler):
    """Answers u1, refuses u2, fails for u3 and closes the connection for u4."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        user = self.path.split("/")[2].split("?")[0]
        if user == "u4":
            self.close_connection = True
            return
        body = json.dumps({"release": "rel_1"}).encode()
        self.send_response({"u2": 503, "u3": 500}.get(user, 200))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"id": "req_1"}).encode()
        self.send_response(500 if request["user_id"] == "u3" else 202)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def served() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def plan(port: int, *users: str, rate: float | None = None, seconds: float = 0.4) -> Plan:
    return Plan(
        host="127.0.0.1",
        port=port,
        users=users,
        clients=2,
        seconds=seconds,
        warm_up=0.1,
        rate=rate,
    )


@pytest.mark.parametrize("clients", ["", "two", "8,64", "1,0", "1,-3", "1,9999"])
def test_invalid_numbers_of_clients_are_refused(clients: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(application, ["serving", "--out", str(out), "--clients", clients])
    assert result.exit_code == 2
    assert "--clients" in result.output
    assert not out.exists()


@pytest.mark.parametrize(
    ("user", "outcome"),
    [("u1", "answered"), ("u2", "refused"), ("u3", "failed"), ("u4", "failed")],
)
def test_summary_counts_each_outcome(user: str, outcome: str) -> None:
    with served() as port:
        samples = run_load(plan(port, user))
    assert samples
    assert {sample.outcome for sample in samples} == {outcome}
    assert {sample.release for sample in samples} == (
        {"rel_1"} if outcome == "answered" else {None}
    )
    row = summary("x", 2, samples, 0.4)
    assert row["requests"] == len(samples)
    assert row["failed"] == (len(samples) if outcome == "failed" else 0)
    assert row["refused"] == (len(samples) if outcome == "refused" else 0)


def test_open_loop_has_a_constant_rate_and_ends_early() -> None:
    with served() as port:
        samples = run_load(plan(port, "u1", rate=50.0, seconds=1.0))
        gaps = [b.due - a.due for a, b in itertools.pairwise(samples)]
        assert gaps == pytest.approx([0.02] * len(gaps), abs=1e-6)
        early = run_load_until(plan(port, "u1", rate=50.0, seconds=600.0), lambda: True)
    assert len(early) < 600


def test_samples_are_grouped_by_overlap_with_a_swap() -> None:
    swap = Swap(requested=10.0, prepare=12.0, confirmed=13.0, completed=14.0, before="old")
    samples = [
        Sample(due=due, milliseconds=took, outcome="answered", release=release)
        for due, took, release in (
            (9.0, 5.0, "old"),
            (11.0, 5.0, "old"),
            (11.9, 200.0, "old"),
            (12.5, 5.0, "new"),
            (13.5, 5.0, "new"),
        )
    ]
    assert [sample.due for sample in overlapping(samples, [swap])] == [11.9, 12.5]
    assert [sample.due for sample in training(samples, [swap])] == [11.0, 11.9]
    assert swap_figures(samples, [swap])[0]["seconds_to_last_old_answer"] == pytest.approx(2.1)


def test_goal_lines_are_reached_not_reached_or_not_measured() -> None:
    lines = goal_lines({"ratios": {"naive": 60.0, "padded_batch": 6.0, "overhead": 0.9}})
    assert [line.split(": ", 1)[0] for line in lines] == [
        "naive",
        "padded_batch",
        "swap_p99",
        "overhead",
    ]
    assert "goal 50: reached" in lines[0]
    assert "NOT reached" in lines[1]
    assert "not measured" in lines[2]
    assert "NOT reached" in lines[3]


def test_deletions_are_due_at_a_constant_rate_and_failures_are_counted() -> None:
    with served() as port, Service(f"http://127.0.0.1:{port}", None) as service:
        forgets = Forgets(service, ["u1", "u3", "u2"], 50.0)
        forgets.start()
        forgets.join()
    assert [sample.outcome for sample in forgets.samples] == ["answered", "failed", "answered"]
    dues = [sample.due for sample in forgets.samples]
    assert [later - dues[0] for later in dues] == pytest.approx([0.0, 0.02, 0.04])


def test_deletions_end_with_the_load() -> None:
    with served() as port, Service(f"http://127.0.0.1:{port}", None) as service:
        forgets = Forgets(service, ["u1", "u2"], 0.001)
        forgets.start()
        assert len(forgets.stop()) <= 1


def test_the_database_must_be_postgresql(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        application, ["serving", "--out", str(tmp_path), "--database", "mysql://h/d"]
    )
    assert result.exit_code == 2
    assert "--database" in result.output
