"""Draw a batch of 32 people with 50 rows each, and a calibration, on synthetic margins."""

from __future__ import annotations

from functools import cache

import numpy as np

from benchmarks.audit_power.world import MEMORIZATION, World, WorldConfig, shadow_world
from models.audit.person_calibration import PersonCalibration

PEOPLE, ROWS = 32, 50


def config(strength: str) -> WorldConfig:
    return WorldConfig(memorization=MEMORIZATION[strength])


STRONG = config("strong")


@cache
def calibration(strength: str = "strong") -> PersonCalibration:
    shadow, model = shadow_world(config(strength), np.random.default_rng(0))
    return PersonCalibration.of(shadow.evidence(model))


@cache
def batch(strength: str = "strong") -> World:
    return World.draw(np.full(PEOPLE, ROWS), config(strength), np.random.default_rng(1))
