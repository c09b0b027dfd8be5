"""Test the dispersion of people: its reference, quiet candidates, and the variance over people."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.audit_power import fakes, quiet_fakes
from models.audit.batches import TOO_EVEN, judge_batch
from models.audit.dispersion import Dispersion, noise_share, own_noise
from models.audit.evidence import ANSWERS, VIEWS
from models.audit.outcomes import PASSED
from models.audit.person_model import PersonVariance, deviations
from models.audit.persons import AuditConfig
from models.audit.shares import PersonShares
from tests.support import synthetic_batches

if TYPE_CHECKING:
    from benchmarks.audit_power.world import World
    from models.audit.person_calibration import PersonCalibration

CONFIG = AuditConfig()


@pytest.fixture(scope="module")
def calibration() -> PersonCalibration:
    return synthetic_batches.calibration()


@pytest.fixture(scope="module")
def world() -> World:
    return synthetic_batches.batch()


def views_of(
    world: World, make: fakes.Make, calibration: PersonCalibration
) -> dict[str, PersonShares]:
    views = world.evidence(make(world, np.random.default_rng(2))).views()
    models = calibration.models["user"]
    return {view: PersonShares.of(views[view], models[view]) for view in VIEWS}


def test_the_variance_over_people_falls_with_their_rows() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(20, 600, 4000).astype(np.float64)
    variances = 0.0004 + 0.1 / rows + 0.2**2 / rows
    squares = np.square(rng.normal(0.0, np.sqrt(variances)))
    fitted = PersonVariance.of(squares, rows, 0.2)
    assert fitted.many == pytest.approx(0.0004, rel=0.25)
    assert fitted.by_row == pytest.approx(0.1, rel=0.25)
    assert (np.diff(fitted.at(np.array([100.0, 200.0, 5000.0]))) < 0).all()
    # Fewer rows than those of an average person do not enlarge the variance.
    assert fitted.at(np.array([1.0]))[0] == fitted.most < fitted.up_to(np.array([1.0]))[0]


def test_a_variance_over_people_is_not_negative_and_ignores_one_person() -> None:
    rows = np.full(60, 30.0)
    small = PersonVariance.of(np.full(60, 1e-6), rows, 0.2)
    assert (small.many, small.by_row) == (0.0, 0.0)
    squares = np.square(np.random.default_rng(1).normal(0.0, 0.05, 60))
    usual = PersonVariance.of(squares, rows, 0.0)
    squares[0] = 100.0
    assert PersonVariance.of(squares, rows, 0.0).most < 3 * usual.most


@pytest.mark.parametrize("make", [fakes.retrained, fakes.retrained_quietly])
def test_an_exact_removal_has_the_dispersion_of_its_reference(
    make: fakes.Make, world: World, calibration: PersonCalibration
) -> None:
    views = views_of(world, make, calibration)
    share = views[ANSWERS].pooled()
    assert share is not None
    least = Dispersion.least(views[ANSWERS], share.mean)
    most = Dispersion.most(views[ANSWERS], share.mean)
    assert 0.4 < most.ratio <= least.ratio < 2.5
    assert min(most.p_above(), least.p_below()) > CONFIG.variance_level
    assert judge_batch(views, CONFIG).outcome == PASSED


@pytest.mark.parametrize("make", [fakes.evenly, quiet_fakes.evenly, fakes.evenly_with_noise])
def test_even_change_is_less_than_the_reference(
    make: fakes.Make, world: World, calibration: PersonCalibration
) -> None:
    batch = judge_batch(views_of(world, make, calibration), CONFIG)
    assert batch.reason == TOO_EVEN


def test_the_noise_of_a_candidate_is_measured_on_controls_and_forget_rows(
    world: World, calibration: PersonCalibration
) -> None:
    """A candidate that is quiet on the controls only has the noise of its forget rows."""

    def noise_of(make: fakes.Make) -> float:
        shares = views_of(world, make, calibration)[ANSWERS]
        return own_noise(shares, deviations(shares.people, shares.own).row ** 2)

    assert noise_of(fakes.retrained_quietly) < 0.3
    assert noise_of(fakes.retrained) == pytest.approx(1.0, abs=0.3)
    noisy = views_of(world, fakes.evenly_with_noise, calibration)[ANSWERS]
    assert noisy.control_noise == pytest.approx(0.0, abs=0.01)
    assert noise_of(fakes.evenly_with_noise) > 0.4


def test_the_share_of_noise_is_below_one(calibration: PersonCalibration) -> None:
    model = calibration.models["user"][ANSWERS]
    assert 0 < noise_share(model) < 0.5
    assert noise_share(replace(model, person_variance_mean=0.0)) == pytest.approx(0.9)


def test_p_values_of_a_dispersion_by_hand() -> None:
    # F(2, 2) has the distribution function x / (1 + x).
    dispersion = Dispersion(ratio=3.0, freedom=2.0, reference_freedom=2.0)
    assert dispersion.p_below() == pytest.approx(0.75)
    assert dispersion.p_above() == pytest.approx(0.25)
