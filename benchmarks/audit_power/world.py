"""Draw synthetic margins of people before and after forgetting.

The signed margin of a model on row i of person u is

    base_i + memorization_i [if the model trained on the row] + noise of the model's seed

Memorization differs over people and rows. Seed noise has a part per model (bias of all answers), a
part per person and a part per row. On neighbor prompts, memorization is a little smaller, and the
base and the seed noise are nearly the same. The two strengths of memorization (`MEMORIZATION`) were
measured on retrainings of the compact backbone on ml-latest-small (`weak`: one epoch, 116 people
left out) or chosen (`strong`: a model that memorizes four times as much).

The audit sees what it sees in production: a calibration with one shadow model, and the margins of
the old model and of the candidate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.special import expit

from models.audit.differences import Difference, paired_difference
from models.audit.evidence import AnsweredRows, Evidence
from models.data.metrics import log_losses

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: Mean memorization of a row, in logits.
MEMORIZATION: Final = {"weak": 0.07, "strong": 0.28}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """Sizes and standard deviations (logits) of a synthetic installation."""

    memorization: float
    #: Coefficients of variation of the memorization over people and over the rows of a person.
    people_variation: float = 0.4
    row_variation: float = 1.0
    #: Memorization of a neighbor prompt, as a share of that of the trained prompt.
    neighbor_share: float = 0.93
    #: Seed noise of one model: all answers, a person, a row. A row of a person has about .14.
    bias_noise: float = 0.08
    person_noise: float = 0.02
    row_noise: float = 0.137
    #: Deviation over people of the logarithm of the row noise.
    noise_variation: float = 0.2
    left_out: int = 110
    controls: int = 300
    holdout: int = 20
    test: int = 150
    #: Median number of rows of a left-out person, and the deviation of the logarithm.
    rows: float = 50.0
    rows_variation: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """M rows of people with their labels (0 or 1) and parts of their signed margins, all [M].

    `answers` and `neighbors` are the base of both prompts, `memorization` the part of a trained
    row, `noise_scale` the factor of the row noise.
    """

    users: NDArray[np.int64]
    labels: Floats
    answers: Floats
    neighbors: Floats
    memorization: Floats
    noise_scale: Floats

    @property
    def signs(self) -> Floats:
        """Return [M] 1 for likes, -1 for dislikes."""
        return 2 * self.labels - 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Margins:
    """Margins (logits) of one model on the two prompts of each of M rows, both [M]."""

    answers: Floats
    neighbors: Floats


def draw_group(
    rows: NDArray[np.int64], config: WorldConfig, first_user: int, rng: np.random.Generator
) -> Group:
    """Draw people with these [U] numbers of rows; user indices start at `first_user`."""
    position = np.repeat(np.arange(len(rows)), rows)
    margins = rng.normal(0.0, 0.3, len(rows))[position] + rng.normal(0.5, 1.0, len(position))
    labels = (rng.random(len(position)) < expit(margins)).astype(np.float64)
    signed = margins * (2 * labels - 1)
    of_person = _gamma(config.people_variation, len(rows), rng)
    return Group(
        users=position + first_user,
        labels=labels,
        answers=signed,
        neighbors=signed + rng.normal(0.0, 0.15, len(position)),
        memorization=config.memorization
        * of_person[position]
        * _gamma(config.row_variation, len(position), rng),
        noise_scale=np.exp(rng.normal(0.0, config.noise_variation, len(rows)))[position],
    )


def draw_model(
    group: Group, config: WorldConfig, bias: float, rng: np.random.Generator, *, trained: bool
) -> Margins:
    """Return the margins of a model with another seed, which trained on the rows or did not."""
    _, position = np.unique(group.users, return_inverse=True)
    person = rng.normal(0.0, config.person_noise, position.max() + 1)[position]
    shared, first, second = rng.normal(0.0, config.row_noise, (3, len(position)))
    scale = group.noise_scale
    # Nine tenths of the variance of the row noise are the same on both prompts.
    answers = group.answers + person + scale * (shared * 0.95 + first * 0.31)
    neighbors = group.neighbors + person + scale * (shared * 0.95 + second * 0.31)
    if trained:
        answers = answers + group.memorization
        neighbors = neighbors + config.neighbor_share * group.memorization
    return Margins(answers=group.signs * answers + bias, neighbors=group.signs * neighbors + bias)


def answered(group: Group, old: Margins, new: Margins) -> AnsweredRows:
    """Return the rows with both models' answers, as the audit sees them."""
    return AnsweredRows(
        users=group.users,
        labels=group.labels,
        kinds=np.zeros(len(group.users), np.int64),
        old=old.answers,
        new=new.answers,
        old_neighbors=old.neighbors,
        new_neighbors=new.neighbors,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A candidate's margins on the forget rows, the controls, and the holdout and test rows."""

    forget: Margins
    controls: Margins
    holdout: Margins
    test: Margins


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class World:
    """People to forget, and people of the controls, the holdout and the test rows, with `old`."""

    config: WorldConfig
    forget: Group
    controls: Group
    holdout: Group
    test: Group
    old: Candidate

    @classmethod
    def draw(cls, rows: NDArray[np.int64], config: WorldConfig, rng: np.random.Generator) -> World:
        """Draw an installation that forgets people with these [U] numbers of rows."""
        forget = draw_group(rows, config, 0, rng)
        controls = draw_group(np.full(config.controls, 30), config, 10_000, rng)
        holdout = draw_group(np.full(config.holdout, 68), config, 20_000, rng)
        test = draw_group(np.full(config.test, 20), config, 30_000, rng)
        world = cls(
            config=config, forget=forget, controls=controls, holdout=holdout, test=test, old=_NONE
        )
        return replace(world, old=world.model(rng, knows_forget=True))

    def model(self, rng: np.random.Generator, *, knows_forget: bool) -> Candidate:
        """Return a training with another seed, with or without the people to forget."""
        bias = float(rng.normal(0.0, self.config.bias_noise))

        def answers(group: Group, *, trained: bool) -> Margins:
            return draw_model(group, self.config, bias, rng, trained=trained)

        return Candidate(
            forget=answers(self.forget, trained=knows_forget),
            controls=answers(self.controls, trained=True),
            holdout=answers(self.holdout, trained=False),
            test=answers(self.test, trained=False),
        )

    def exact_removal(self) -> Candidate:
        """Return the old model less exactly the memorization, without another seed's noise."""
        forget, signs, old = self.forget, self.forget.signs, self.old.forget
        amount = signs * forget.memorization
        removed = Margins(
            answers=old.answers - amount,
            neighbors=old.neighbors - self.config.neighbor_share * amount,
        )
        return replace(self.old, forget=removed)

    def evidence(self, candidate: Candidate) -> Evidence:
        """Return what the audit reads of a candidate."""
        return Evidence(
            forget=answered(self.forget, self.old.forget, candidate.forget),
            controls=answered(self.controls, self.old.controls, candidate.controls),
        )

    def increase(self, candidate: Candidate, group: str, confidence: float) -> Difference:
        """Return the loss increase (nats) of the group `forget`, `holdout` or `test`."""
        rows: Group = getattr(self, group)
        old, new = (
            log_losses(rows.labels, getattr(model, group).answers)
            for model in (self.old, candidate)
        )
        return paired_difference(
            old.astype(np.float64), new.astype(np.float64), rows.users, confidence
        )


def shadow_world(config: WorldConfig, rng: np.random.Generator) -> tuple[World, Candidate]:
    """Draw the calibration: a world whose forgotten people are left out, and the shadow model."""
    spread = rng.normal(0.0, config.rows_variation, config.left_out)
    rows = np.maximum(1, np.rint(config.rows * np.exp(spread))).astype(np.int64)
    world = World.draw(np.minimum(rows, 2000), config, rng)
    return world, world.model(rng, knows_forget=False)


def _gamma(variation: float, count: int, rng: np.random.Generator) -> Floats:
    """Return positive numbers with mean 1 and this coefficient of variation."""
    shape = 1 / variation**2
    return np.asarray(rng.gamma(shape, 1 / shape, count))


_NOTHING: Final = Margins(answers=np.empty(0), neighbors=np.empty(0))
_NONE: Final = Candidate(forget=_NOTHING, controls=_NOTHING, holdout=_NOTHING, test=_NOTHING)
