"""Measure the audit's power on trained models: `python -m benchmarks audit-power --data DIR`.

The recommender and its shadow are trained as a training job trains them. Retrainings with other
seeds leave two groups of people out: people with at least MANY_ROWS training rows, and the people
with the fewest rows, at least FEW_ROWS. Further trainings with other seeds know all people. The
entries of the synthetic tables are then built on these models' margins:

- a retraining is one of the retrainings, another seed is one of the trainings that know all people;
- the true memorization of a row is estimated as the difference between the mean signed margins of
  the models that know the people and of the retrainings, less the difference on the controls. The
  estimate keeps a part of the seed noise, so that fakes with it are noisier than a fake could be.

Every retraining is presented once per group, and every fake is made once per retraining.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.audit_power.candidates import REAL_ENTRIES
from benchmarks.audit_power.power import Counts
from benchmarks.audit_power.real_worlds import AuditedRows, RealWorld, real_worlds
from models.audit.calibration import CalibrationConfig, calibrate
from models.audit.person_calibration import MINIMUM_PEOPLE
from models.audit.persons import AuditConfig
from models.data.forget_split import ForgetIndices, split_for_forgetting
from models.prompts.vocabulary import Vocabulary
from models.training.trainer import TrainConfig, fit

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from models.audit.person_calibration import PersonCalibration
    from models.data.forget_split import ForgetSplit
    from models.data.interactions import Interactions
    from models.recommender.base import Recommender

#: Number of people in each group; fewer if the data set has fewer.
PEOPLE: Final = 32
#: Least number of training rows of the people of the first group.
MANY_ROWS: Final = 50
#: Least number of training rows of the people of the second group.
FEW_ROWS: Final = 10
#: Share of the people in the holdout.
HOLDOUT: Final = 0.05
#: Number of further trainings that know all people.
OTHER_SEEDS: Final = 2


class TooFewPeopleError(ValueError):
    """The data set has too few people with enough training rows to form two groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerOptions:
    """The number of retrainings and the seed."""

    retrainings: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """The calibration, and the worlds by number of rows, one world per retraining."""

    calibration: PersonCalibration
    worlds: dict[int, list[RealWorld]]


def measure_data(
    data: Interactions, options: PowerOptions, report: Callable[[str], None]
) -> list[Counts]:
    """Train all models, and return the counts of every entry in both groups.

    Raises TooFewPeopleError, and TooSmallToSplitError for a data set that cannot be split.
    """
    return count(train_worlds(data, options, report), options.seed)


def count(measured: Measured, seed: int) -> list[Counts]:
    """Return the counts of every entry in both groups."""
    config, counts = AuditConfig(), []
    for rows, worlds in measured.worlds.items():
        people = len(np.unique(worlds[0].forget.users))
        for entry in REAL_ENTRIES:
            counted = Counts(entry=entry, people=people, rows=rows)
            for draw, world in enumerate(worlds):
                rng = np.random.default_rng((seed, rows, draw))
                counted.add(world, entry.make(world, rng), measured.calibration, config)
            counts.append(counted)
    return counts


def train_worlds(
    data: Interactions, options: PowerOptions, report: Callable[[str], None]
) -> Measured:
    """Train the recommender, the shadow, the other seeds and the retrainings."""
    holdout = _holdout(data, options.seed)
    known = split_for_forgetting(data, ForgetIndices(), holdout)
    groups = _choose_people(known, options.seed)
    forget = ForgetIndices(users=frozenset(np.concatenate(list(groups.values())).tolist()))
    without = split_for_forgetting(data, forget, holdout, known.bounds)
    total = 2 + OTHER_SEEDS + options.retrainings
    done = 0

    def train(split: ForgetSplit, seed: int) -> Recommender:
        nonlocal done
        done += 1
        report(f"training {done} of {total}: {len(split.parts.train)} rows, seed {seed}")
        vocabulary = Vocabulary.from_catalog(known.catalog())
        return fit(vocabulary, split, TrainConfig().seeded(seed), lambda _: None)

    first = 1000 * options.seed
    recommender = train(known, first)
    calibration = calibrate(
        known.retained,
        recommender,
        known,
        holdout,
        CalibrationConfig(seed=options.seed + 1),
        lambda split: train(split, first),
    )
    rows = AuditedRows.of(without, groups)
    old = rows.answers(recommender)
    seeds = iter(range(first + 1, first + total))
    others = [rows.answers(train(known, next(seeds))) for _ in range(OTHER_SEEDS)]
    retrained = [rows.answers(train(without, next(seeds))) for _ in range(options.retrainings)]
    return Measured(
        calibration=calibration.persons,
        worlds={
            size: real_worlds(
                rows,
                size,
                [answers[size] for answers in (old, *others)],
                [answers[size] for answers in retrained],
            )
            for size in groups
        },
    )


def _holdout(data: Interactions, seed: int) -> frozenset[int]:
    users = np.unique(data.user)
    drawn = np.random.default_rng((seed, 1)).random(len(users)) < HOLDOUT
    return frozenset(users[drawn].tolist())


def _choose_people(known: ForgetSplit, seed: int) -> dict[int, NDArray[np.integer]]:
    """Return the user indices of both groups, by the number of rows that names the group.

    The first group is drawn. The second has the people with the fewest rows, at least FEW_ROWS.
    """
    users, counts = np.unique(known.parts.train.user, return_counts=True)
    order = np.random.default_rng((seed, 2)).permutation(len(users))
    many = users[order][counts[order] >= MANY_ROWS][: min(PEOPLE, len(users) // 4)]
    is_left = (counts >= FEW_ROWS) & ~np.isin(users, many)
    fewest = np.argsort(counts[is_left], kind="stable")[: len(many)]
    few = users[is_left][fewest]
    if min(len(many), len(few)) < MINIMUM_PEOPLE:
        raise TooFewPeopleError(TooFewPeopleError.__doc__)
    return {MANY_ROWS: many, FEW_ROWS: few}
