"""Make fakes that exploit what the audit allows methods with little seed noise.

The audit measures a candidate's seed noise on the controls, and expects less dispersion of a quiet
candidate. These fakes leave the controls as they are, or give them more noise than the forget rows,
and blur rows that they do not forget, so that no answer is exactly the old one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.audit_power.fakes import half, moved, moved_by_need
from benchmarks.audit_power.world import Margins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.audit_power.world import Candidate, World

    Floats = NDArray[np.float64]


def half_of_rows(world: World, rng: np.random.Generator) -> Candidate:
    """Leave half of the rows but for a blur, and move the others twice as far."""
    return moved_by_need(world, half(world, rng), blur=_blur(world, rng))


def half_of_rows_noisy_controls(world: World, rng: np.random.Generator) -> Candidate:
    """Do the same, with the controls of a training with another seed."""
    seeded = world.model(rng, knows_forget=True)
    return replace(seeded, forget=half_of_rows(world, rng).forget)


def half_of_rows_fitted_controls(world: World, rng: np.random.Generator) -> Candidate:
    """Do the same, with as much noise on the controls as hides the variance of the forget rows."""
    fake = half_of_rows(world, rng)
    change = world.forget.signs * (fake.forget.answers - world.old.forget.answers)
    excess = _within(world, change).var() - _within(world, world.forget.memorization).var()
    controls = world.old.controls
    noise = rng.normal(0.0, np.sqrt(max(excess, 0.0)), len(controls.answers))
    noisy = Margins(answers=controls.answers + noise, neighbors=controls.neighbors + noise)
    return replace(fake, controls=noisy)


def evenly(world: World, rng: np.random.Generator) -> Candidate:
    """Move all people by the mean change, with rows that differ as memorization does."""
    needed = world.forget.memorization
    drawn = rng.normal(float(needed.mean()), _deviation_of_rows(world), len(needed))
    return moved(world, drawn)


def two_thirds_of_people(world: World, rng: np.random.Generator) -> Candidate:
    """Leave a third of the people but for a blur, and move the others 1.5 times as far."""
    users = world.forget.users
    is_moved = users < 2 * (users.max() + 1) / 3
    return moved_by_need(world, 1.5 * is_moved, blur=_blur(world, rng))


def drawn_amounts(world: World, rng: np.random.Generator) -> Candidate:
    """Move each person by a drawn amount with the right mean and deviation over people."""
    users, needed = world.forget.users, world.forget.memorization
    means = np.bincount(users, needed) / np.bincount(users)
    drawn = rng.normal(means.mean(), means.std(), len(means))[users]
    return moved(world, drawn + rng.normal(0.0, _deviation_of_rows(world), len(users)))


def half_of_change(world: World, _: np.random.Generator) -> Candidate:
    """Move every row half as far as required."""
    return moved_by_need(world, 0.5)


def _blur(world: World, rng: np.random.Generator) -> Floats:
    """Return [M] noise that is a quarter of the noise between two seeds."""
    deviation = 0.25 * np.sqrt(2) * world.config.row_noise
    return rng.normal(0.0, deviation, len(world.forget.users))


def _deviation_of_rows(world: World) -> float:
    """Return the deviation of the memorization over the rows of a person."""
    return float(_within(world, world.forget.memorization).std())


def _within(world: World, values: Floats) -> Floats:
    """Return [M] values less their person's mean."""
    users = world.forget.users
    return np.asarray(values - (np.bincount(users, values) / np.bincount(users))[users])
