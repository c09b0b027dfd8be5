"""Count outcomes of the audit, and of the earlier gate, over draws of synthetic installations."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.audit_power import earlier_gate
from benchmarks.audit_power.candidates import ENTRIES, Entry
from benchmarks.audit_power.world import MEMORIZATION, World, WorldConfig, shadow_world
from models.audit.judgment import judge
from models.audit.outcomes import PASSED
from models.audit.person_calibration import PersonCalibration
from models.audit.persons import AuditConfig
from models.data.metrics import log_losses

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from benchmarks.audit_power.world import Candidate, Group, Margins
    from models.audit.judgment import Judgment

    Floats = NDArray[np.float64]

#: Numbers of people of a batch, and of rows of each person.
PEOPLE: Final = (1, 32)
ROWS: Final = (10, 50, 150)


def judge_candidate(
    world: World, candidate: Candidate, calibration: PersonCalibration | None, config: AuditConfig
) -> Judgment:
    """Judge a candidate by its answers on the forget, control, holdout and test rows of a world."""
    return judge(
        world.evidence(candidate),
        calibration,
        holdout=world.increase(candidate, "holdout", config.confidence),
        test=world.increase(candidate, "test", config.confidence),
        config=config,
    )


@dataclass(slots=True, kw_only=True)
class Counts:
    """Outcomes of one candidate at one size: of batches, of persons, and by the earlier gate."""

    entry: Entry
    people: int
    rows: int | None
    batches: Counter[str] = field(default_factory=Counter)
    persons: Counter[str] = field(default_factory=Counter)
    untouched: Counter[str] = field(default_factory=Counter)
    earlier: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(
        self,
        world: World,
        candidate: Candidate,
        calibration: PersonCalibration,
        config: AuditConfig,
    ) -> None:
        """Judge a candidate and count the outcomes of the batch and of its persons."""
        judgment = judge_candidate(world, candidate, calibration, config)
        self.batches[judgment.outcome] += 1
        self.reasons[judgment.reason] += 1
        self.persons.update(person.outcome for person in judgment.persons)
        first = self.people - self.entry.untouched
        self.untouched.update(p.outcome for p in judgment.persons if p.user >= first)

    def values(self) -> dict[str, Any]:
        """Return the shares of outcomes as JSON values."""
        return {
            "candidate": self.entry.name,
            "honest": self.entry.honest,
            "people": self.people,
            "rows": self.rows,
            "draws": self.batches.total(),
            **{
                name: _shares(counter)
                for name, counter in (
                    ("batch", self.batches),
                    ("persons", self.persons),
                    ("untouched_persons", self.untouched),
                    ("earlier_gate", self.earlier),
                    ("reasons", self.reasons),
                )
            },
        }


def measure(strength: str, draws: int, seed: int) -> list[Counts]:
    """Return the counts of every candidate at every size for a strength of memorization.

    Each draw has a shadow model of its own, which all candidates of the draw share.
    """
    config = WorldConfig(memorization=MEMORIZATION[strength])
    audit_config = AuditConfig()
    counts = _sizes()
    for draw in range(draws):
        rng = np.random.default_rng((seed, draw))
        shadow, model = shadow_world(config, rng)
        calibration = PersonCalibration.of(shadow.evidence(model))
        expected = _expected(shadow, model)
        worlds: dict[tuple[int, ...], World] = {}
        for count in counts:
            sizes = count.entry.rows or (count.rows or 0,) * count.people
            if sizes not in worlds:
                worlds[sizes] = World.draw(np.array(sizes), config, rng)
            world = worlds[sizes]
            candidate = count.entry.make(world, rng)
            count.add(world, candidate, calibration, audit_config)
            count.earlier[_earlier_outcome(world, candidate, expected)] += 1
    return counts


def missed_lines(counts: Iterable[Counts]) -> list[str]:
    """Return the lines that a result misses, in words."""
    missed = []
    for count in counts:
        if count.entry.shown_only:
            continue
        total = count.batches.total()
        size = f"{count.entry.name}, {count.people} people, {count.rows or 'given'} rows"
        passed = count.batches[PASSED] / total
        failed = count.batches["failed"] / total
        if not count.entry.honest and passed > 0.05:  # noqa: PLR2004 -- the line of the issue
            missed.append(f"{size}: passed in {passed:.0%}")
        if count.entry.honest and failed > 0.05:  # noqa: PLR2004
            missed.append(f"{size}: failed in {failed:.0%}")
        is_large = count.people >= 32 and (count.rows or 0) >= 50  # noqa: PLR2004
        if count.entry.honest and is_large and passed < 0.8:  # noqa: PLR2004
            missed.append(f"{size}: passed in {passed:.0%} only")
        if count.untouched and count.untouched[PASSED] / count.untouched.total() > 0.05:  # noqa: PLR2004
            missed.append(f"{size}: untouched persons passed")
    return missed


def _sizes() -> list[Counts]:
    counts = []
    for entry in ENTRIES:
        if entry.rows is not None:
            counts.append(Counts(entry=entry, people=len(entry.rows), rows=None))
            continue
        counts += [
            Counts(entry=entry, people=people, rows=rows) for people in PEOPLE for rows in ROWS
        ]
    return counts


def _shares(counter: Counter[str]) -> dict[str, float]:
    return {name: counter[name] / counter.total() for name in sorted(counter)}


def _losses(group: Group, margins: Margins) -> Floats:
    return np.asarray(log_losses(group.labels, margins.answers), dtype=np.float64)


def _expected(shadow: World, model: Candidate) -> earlier_gate.Expectation:
    """Return what the earlier calibration stored: mean, error and spread of the loss increase."""
    general = float(
        (
            _losses(shadow.holdout, model.holdout) - _losses(shadow.holdout, shadow.old.holdout)
        ).mean()
    )
    increase = _losses(shadow.forget, model.forget) - _losses(shadow.forget, shadow.old.forget)
    users = shadow.forget.users
    means = np.bincount(users, increase - general) / np.bincount(users)
    return earlier_gate.Expectation(
        mean=float(increase.mean()) - general,
        error=float(means.std(ddof=1)) / math.sqrt(len(means)),
        spread=float(means.std(ddof=1)),
        units=1,
    )


def _earlier_outcome(world: World, candidate: Candidate, expected: earlier_gate.Expectation) -> str:
    config = earlier_gate.GateConfig()
    forget, holdout, test = (
        earlier_gate.paired_difference(
            _losses(group, getattr(world.old, name)),
            _losses(group, getattr(candidate, name)),
            config.confidence,
        )
        for name, group in (
            ("forget", world.forget),
            ("holdout", world.holdout),
            ("test", world.test),
        )
    )
    batch = earlier_gate.Expectation(
        mean=expected.mean,
        error=expected.error,
        spread=expected.spread,
        units=len(np.unique(world.forget.users)),
    )
    return earlier_gate.decide(
        earlier_gate.contrast(forget, holdout),
        holdout,
        test,
        batch,
        config,
        unchanged=bool(np.array_equal(world.old.forget.answers, candidate.forget.answers)),
    ).outcome
