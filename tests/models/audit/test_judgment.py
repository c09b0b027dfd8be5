"""Test the judgment of persons and batches on synthetic margins, and on input it cannot judge."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.audit_power import power
from benchmarks.audit_power.candidates import ENTRIES, Entry
from benchmarks.audit_power.world import Margins, World, shadow_world
from models.audit import judgment as reasons
from models.audit.differences import Difference, paired_difference
from models.audit.evidence import AnsweredRows, Evidence
from models.audit.judgment import Judgment, judge
from models.audit.outcomes import FAILED, INCONCLUSIVE, PASSED
from models.audit.person_calibration import VERSION, PersonCalibration
from models.audit.persons import ONE_ROW, AuditConfig, holm
from models.data.forget_split import KINDS
from tests.support import synthetic_batches
from tests.support.synthetic_batches import STRONG

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.audit_power.world import Candidate

CONFIG = AuditConfig()
STILL = Difference(mean=0.0, error=0.001, freedom=50, rows=500, people=51, confidence=0.9)
#: Fakes that hide in the noise of another seed; `python -m benchmarks.audit_power` measures them.
SUBTLE = {
    "half of the rows, another seed",
    "evenly, noise like the reference",
    "drawn amounts",
    "half of the rows, blurred, fitted controls",
    "only the exact prompts, another seed",
}


@pytest.fixture(scope="module")
def calibration() -> PersonCalibration:
    return synthetic_batches.calibration()


@pytest.fixture(scope="module")
def world() -> World:
    return synthetic_batches.batch()


@pytest.fixture(scope="module")
def retrained(world: World) -> Candidate:
    return world.model(np.random.default_rng(2), knows_forget=False)


def judge_candidate(
    world: World, candidate: Candidate, calibration: PersonCalibration | None
) -> Judgment:
    return power.judge_candidate(world, candidate, calibration, CONFIG)


def judge_evidence(evidence: Evidence, calibration: PersonCalibration | None) -> Judgment:
    return judge(evidence, calibration, holdout=STILL, test=STILL, config=CONFIG)


def only(world: World, candidate: Candidate, rows: Any) -> Evidence:
    """Return the evidence with these forget rows only."""
    evidence = world.evidence(candidate)
    return replace(evidence, forget=evidence.forget.take(rows))


def test_retraining_passes(
    world: World, retrained: Candidate, calibration: PersonCalibration
) -> None:
    result = judge_candidate(world, retrained, calibration)
    assert result.outcome == PASSED, result.reason
    assert len(result.persons) == len(np.unique(world.forget.users))
    assert all(person.outcome != FAILED for person in result.persons)


@pytest.mark.parametrize(
    "entry",
    [entry for entry in ENTRIES if not entry.honest and entry.name not in SUBTLE],
    ids=lambda entry: entry.name,
)
def test_no_fake_passes(entry: Entry, calibration: PersonCalibration) -> None:
    for seed in range(3):
        rng = np.random.default_rng((7, seed))
        world = World.draw(np.array(entry.rows or (50,) * 32), STRONG, rng)
        result = judge_candidate(world, entry.make(world, rng), calibration)
        assert result.outcome != PASSED
        assert all(person.outcome != PASSED for person in result.persons)


def test_a_passed_person_has_an_interval_inside_the_band(
    world: World, retrained: Candidate, calibration: PersonCalibration
) -> None:
    persons = judge_candidate(world, retrained, calibration).persons
    passed = [person for person in persons if person.outcome == PASSED]
    assert passed
    for person in passed:
        assert person.interval is not None
        assert CONFIG.least_share <= person.interval[0] <= person.interval[1] <= CONFIG.most_share


def test_an_untouched_person_fails_and_the_others_do_not(
    world: World, retrained: Candidate, calibration: PersonCalibration
) -> None:
    kept = world.forget.users == 0
    old, new = world.old.forget, retrained.forget
    forget = Margins(
        answers=np.where(kept, old.answers, new.answers),
        neighbors=np.where(kept, old.neighbors, new.neighbors),
    )
    persons = judge_candidate(world, replace(retrained, forget=forget), calibration).persons
    failed = [person.user for person in persons if person.outcome == FAILED]
    assert failed == [0]


def test_copies_of_a_persons_rows_are_no_evidence(
    world: World, retrained: Candidate, calibration: PersonCalibration
) -> None:
    """People are the units: a person's τ does not shrink with more rows."""
    many = np.repeat(np.flatnonzero(world.forget.users == 1), 100)
    (person,) = judge_evidence(only(world, retrained, many), calibration).persons
    model = calibration.models["user"]["answers"]
    assert person.interval is not None
    width = person.interval[1] - person.interval[0]
    expected = 2 * 1.64 * model.deviations.person / (2 * STRONG.memorization)
    assert width > expected


@pytest.mark.parametrize("part", ["answers", "neighbors"])
def test_answers_that_are_not_numbers_fail(
    part: str, world: World, retrained: Candidate, calibration: PersonCalibration
) -> None:
    broken = getattr(retrained.forget, part).copy()
    broken[3] = math.nan
    candidate = replace(retrained, forget=replace(retrained.forget, **{part: broken}))
    result = judge_candidate(world, candidate, calibration)
    assert (result.outcome, result.reason) == (FAILED, reasons.BROKEN)
    assert {person.outcome for person in result.persons} == {FAILED}


def test_unchanged_answers_fail_without_a_calibration(world: World) -> None:
    result = judge_candidate(world, world.old, None)
    assert (result.outcome, result.reason) == (FAILED, reasons.UNCHANGED)


def assert_inconclusive(result: Judgment, reason: str) -> None:
    assert (result.outcome, result.reason) == (INCONCLUSIVE, reason)
    assert {person.outcome for person in result.persons} <= {INCONCLUSIVE}


def test_no_calibration_is_inconclusive(world: World, retrained: Candidate) -> None:
    assert_inconclusive(judge_candidate(world, retrained, None), reasons.NO_CALIBRATION)


def test_few_left_out_people_are_inconclusive(world: World, retrained: Candidate) -> None:
    shadow, model = shadow_world(replace(STRONG, left_out=9), np.random.default_rng(0))
    few = PersonCalibration.of(shadow.evidence(model))
    assert few.people["user"] == 9
    assert_inconclusive(judge_candidate(world, retrained, few), reasons.FEW_LEFT_OUT)


def test_answers_on_forget_rows_are_enough_where_no_person_can_be_judged(
    world: World, retrained: Candidate
) -> None:
    shadow, model = shadow_world(replace(STRONG, left_out=9), np.random.default_rng(0))
    few = PersonCalibration.of(shadow.evidence(model))
    evidence = world.evidence(retrained)
    assert not reasons.has_judged_kind(evidence.forget, few)
    alone = judge(evidence.forget, few, holdout=STILL, test=STILL, config=CONFIG)
    assert_inconclusive(alone, reasons.FEW_LEFT_OUT)
    assert alone.persons == judge_evidence(evidence, few).persons
    uncalibrated = judge(evidence.forget, None, holdout=STILL, test=STILL, config=CONFIG)
    assert_inconclusive(uncalibrated, reasons.NO_CALIBRATION)
    unchanged = replace(evidence.forget, new=evidence.forget.old)
    assert judge(unchanged, few, holdout=STILL, test=STILL, config=CONFIG).outcome == FAILED


def test_old_answers_that_are_not_numbers_are_inconclusive(
    world: World, retrained: Candidate, calibration: PersonCalibration
) -> None:
    evidence = world.evidence(retrained)
    broken = replace(evidence.forget, old=np.full_like(evidence.forget.old, math.nan))
    result = judge_evidence(replace(evidence, forget=broken), calibration)
    assert_inconclusive(result, reasons.OLD_BROKEN)


def test_a_calibration_that_is_not_numbers_is_inconclusive(
    world: World, retrained: Candidate, calibration: PersonCalibration
) -> None:
    values = calibration.values() | {"user.answers.row_deviation": math.nan}
    broken = PersonCalibration.from_values(values)
    assert_inconclusive(judge_candidate(world, retrained, broken), reasons.BAD_CALIBRATION)


def first_rows(rows: AnsweredRows) -> AnsweredRows:
    """Return the first row of each person."""
    return rows.take(np.unique(rows.users, return_index=True)[1])


def of_one_row_each(evidence: Evidence) -> Evidence:
    return replace(evidence, forget=first_rows(evidence.forget))


def of_one_row_each_with_controls(evidence: Evidence) -> Evidence:
    return replace(of_one_row_each(evidence), controls=first_rows(evidence.controls))


def of_the_same_answers(evidence: Evidence) -> Evidence:
    forget, controls = evidence.forget, evidence.controls
    return Evidence(
        forget=replace(forget, new=forget.old, new_neighbors=forget.old_neighbors),
        controls=replace(controls, new=controls.old, new_neighbors=controls.old_neighbors),
    )


@pytest.mark.parametrize(
    "change", [of_one_row_each, of_one_row_each_with_controls, of_the_same_answers]
)
def test_left_out_rows_that_do_not_differ_are_inconclusive(
    change: Callable[[Evidence], Evidence], world: World, retrained: Candidate
) -> None:
    shadow, model = shadow_world(STRONG, np.random.default_rng(0))
    flat = PersonCalibration.of(change(shadow.evidence(model)))
    json.dumps(flat.values(), allow_nan=False)
    evidence = world.evidence(retrained)
    for judged in (evidence, of_one_row_each(evidence), of_one_row_each_with_controls(evidence)):
        assert_inconclusive(judge_evidence(judged, flat), reasons.FLAT_CALIBRATION)


@pytest.mark.parametrize("people", [0, 1, 9])
def test_a_shadow_compared_with_few_other_people_is_inconclusive(
    people: int, world: World, retrained: Candidate
) -> None:
    shadow, model = shadow_world(STRONG, np.random.default_rng(0))
    evidence = shadow.evidence(model)
    chosen = np.isin(evidence.controls.users, np.unique(evidence.controls.users)[:people])
    alone = PersonCalibration.of(replace(evidence, controls=evidence.controls.take(chosen)))
    json.dumps(alone.values(), allow_nan=False)
    assert_inconclusive(judge_candidate(world, retrained, alone), reasons.FEW_COMPARED)
    forget = world.evidence(retrained).forget
    result = judge(forget, alone, holdout=STILL, test=STILL, config=CONFIG)
    assert_inconclusive(result, reasons.FEW_COMPARED)


def test_one_row_is_inconclusive(
    world: World, retrained: Candidate, calibration: PersonCalibration
) -> None:
    result = judge_evidence(only(world, retrained, np.array([0])), calibration)
    assert_inconclusive(result, ONE_ROW)


def test_the_adjustment_over_persons_covers_all_kinds_of_rows(
    world: World, retrained: Candidate, calibration: PersonCalibration
) -> None:
    """A person who just fails alone does not fail beside a person with rows of another kind."""
    models = calibration.models["user"]
    both = replace(
        calibration,
        models={"user": models, "pair": models},
        people={**calibration.people, "pair": calibration.people["user"]},
    )
    evidence = world.evidence(retrained)
    person = evidence.forget.take(evidence.forget.users == 0)
    other = evidence.forget.take(evidence.forget.users == 1)
    other = replace(other, kinds=np.full(len(other), KINDS.index("pair")))

    def moved(rows: AnsweredRows, amount: float) -> AnsweredRows:
        """Move the answers of one person on both prompts, against forgetting."""
        shift = amount * rows.signs
        return replace(rows, new=rows.new + shift, new_neighbors=rows.new_neighbors + shift)

    def outcome(*parts: AnsweredRows) -> str:
        columns = [column.name for column in fields(AnsweredRows)]
        joined = AnsweredRows(
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in columns}
        )
        judged = judge_evidence(replace(evidence, forget=joined), both)
        return next(verdict.outcome for verdict in judged.persons if verdict.user == 0)

    low, high = 0.0, 2.0
    for _ in range(12):
        middle = (low + high) / 2
        is_failed = outcome(moved(person, middle)) == FAILED
        low, high = (low, middle) if is_failed else (middle, high)
    assert outcome(moved(person, high)) == FAILED
    assert outcome(moved(person, high), other) == INCONCLUSIVE
    assert outcome(moved(person, 2.0), other) == FAILED


def test_no_rows_are_inconclusive(
    world: World, retrained: Candidate, calibration: PersonCalibration
) -> None:
    result = judge_evidence(only(world, retrained, np.array([], np.int64)), calibration)
    assert_inconclusive(result, reasons.NO_ROWS)


def test_a_batch_larger_than_calibrated_is_inconclusive(world: World, retrained: Candidate) -> None:
    shadow, model = shadow_world(replace(STRONG, left_out=20), np.random.default_rng(0))
    small = PersonCalibration.of(shadow.evidence(model))
    assert_inconclusive(judge_candidate(world, retrained, small), reasons.LARGE_BATCH)


def test_a_batch_with_all_people_is_inconclusive(
    world: World, retrained: Candidate, calibration: PersonCalibration
) -> None:
    evidence = world.evidence(retrained)
    without_people = replace(evidence, controls=evidence.controls.take(np.array([], np.int64)))
    assert_inconclusive(judge_evidence(without_people, calibration), reasons.NO_CONTROLS)


def test_surely_higher_loss_on_other_rows_fails(
    world: World, retrained: Candidate, calibration: PersonCalibration
) -> None:
    worse = replace(STILL, mean=0.02)
    for holdout, test in ((worse, STILL), (STILL, worse)):
        result = judge(
            world.evidence(retrained), calibration, holdout=holdout, test=test, config=CONFIG
        )
        assert result.outcome == FAILED
        assert "rose as well" in result.reason


def test_test_rows_that_cannot_rule_out_an_increase_are_inconclusive(
    world: World, retrained: Candidate, calibration: PersonCalibration
) -> None:
    """An increase of .0095 in each of 50 batches would add up."""
    creeping = replace(STILL, mean=0.0095)
    result = judge(
        world.evidence(retrained), calibration, holdout=STILL, test=creeping, config=CONFIG
    )
    assert result.outcome == INCONCLUSIVE
    assert "test rows" in result.reason


def test_stored_parameters_give_the_same_judgment(
    world: World, retrained: Candidate, calibration: PersonCalibration
) -> None:
    values = json.loads(json.dumps(calibration.values(), allow_nan=False))
    assert all(not isinstance(value, dict) for value in values.values())
    stored = PersonCalibration.from_values(values)
    first, second = (judge_candidate(world, retrained, each) for each in (calibration, stored))
    assert first == second


def test_stored_parameters_hold_no_value_per_person(calibration: PersonCalibration) -> None:
    lists = [value for value in calibration.values().values() if isinstance(value, list)]
    assert max(map(len, lists)) == 9  # a covariance of three coefficients


@pytest.mark.parametrize("values", [None, {}, {"version": VERSION + 1}, {"version": VERSION}])
def test_parameters_of_other_versions_are_no_calibration(values: dict[str, Any] | None) -> None:
    assert PersonCalibration.from_values(values) is None


p_values = st.lists(st.floats(0, 1), min_size=1, max_size=40)


@given(p_values)
@settings(deadline=None)
def test_holm_rejects_between_bonferroni_and_no_adjustment(values: list[float]) -> None:
    rejected = holm(values, 0.05)
    for value, is_rejected in zip(values, rejected, strict=True):
        assert not is_rejected or value <= 0.05
        assert is_rejected or value > 0.05 / len(values)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]
    assert holm([math.nan, 0.001], 0.05) == [False, True]


def test_a_difference_is_clustered_by_person_by_hand() -> None:
    change = np.array([1.0, 3.0, 2.0, 2.0])
    paired = paired_difference(np.zeros(4), change, np.array([1, 1, 2, 3]), 0.9)
    # The sums of differences from the mean 2 are 0, 0 and 0.
    assert (paired.mean, paired.error, paired.people) == (2.0, 0.0, 3)
    paired = paired_difference(np.zeros(4), change, np.array([1, 2, 2, 3]), 0.9)
    assert paired.error == pytest.approx(math.sqrt(2 * 3 / 2) / 4)


def test_a_difference_of_one_row_is_unbounded() -> None:
    paired = paired_difference(np.zeros(1), np.ones(1), np.array([1]), 0.9)
    assert paired.figures() == {"mean": 1.0, "interval": [None, None], "rows": 1, "people": 1}
    assert (paired.p_below(5.0), paired.p_above(0.0)) == (1.0, 1.0)
