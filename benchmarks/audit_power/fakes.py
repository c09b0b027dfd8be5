"""Make fakes that leave people findable, and honest candidates, from a synthetic world.

A fake knows everything: the true memorization of every row and the audit's statistics. Most fakes
are bare, so that everything that is not forgotten answers as before. Fakes with "another seed" are
dressed in the noise of another training, which hides that answers did not change.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq

from benchmarks.audit_power.world import Candidate, Margins
from models.data.metrics import log_losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from benchmarks.audit_power.world import World

    Floats = NDArray[np.float64]
    Make = Callable[[World, np.random.Generator], Candidate]


def moved(world: World, amount: Floats, *, neighbors: float | None = None) -> Candidate:
    """Return the old model with forget rows' signed margins lowered by `amount` [M]."""
    share = world.config.neighbor_share if neighbors is None else neighbors
    signs, old = world.forget.signs, world.old.forget
    lowered = Margins(
        answers=old.answers - signs * amount, neighbors=old.neighbors - signs * share * amount
    )
    return replace(world.old, forget=lowered)


def moved_by_need(
    world: World,
    factor: float | Floats,
    *,
    neighbors: float | None = None,
    blur: Floats | None = None,
) -> Candidate:
    """Return the old model with forget rows moved by `factor` (scalar or [M]) of what each needs.

    The needed change of trained models is an estimate with a little seed noise. The controls have
    this noise, too, so that it does not give the fake away.
    """
    amount = factor * world.forget.memorization
    if blur is not None:
        amount = amount + blur
    fake = moved(world, amount, neighbors=neighbors)
    return replace(fake, controls=world.exact_removal().controls)


def _dressed(world: World, amount: Floats, rng: np.random.Generator) -> Candidate:
    """Return a training with another seed that knows the people, with margins lowered."""
    seeded = world.model(rng, knows_forget=True)
    signs, share = world.forget.signs, world.config.neighbor_share
    lowered = Margins(
        answers=seeded.forget.answers - signs * amount,
        neighbors=seeded.forget.neighbors - signs * share * amount,
    )
    return replace(seeded, forget=lowered)


def retrained(world: World, rng: np.random.Generator) -> Candidate:
    """Return an exact retraining with another seed."""
    return world.model(rng, knows_forget=False)


def retrained_quietly(world: World, _: np.random.Generator) -> Candidate:
    """Return the old model less exactly the memorization, without another seed's noise."""
    return world.exact_removal()


def untouched(world: World, _: np.random.Generator) -> Candidate:
    """Return the old model."""
    return world.old


def another_seed(world: World, rng: np.random.Generator) -> Candidate:
    """Return a training with another seed that still knows the people."""
    return world.model(rng, knows_forget=True)


def times(factor: float) -> Make:
    """Return a fake with a multiple of the required change."""
    return lambda world, _: moved_by_need(world, factor)


def times_dressed(factor: float) -> Make:
    """Return a fake with a multiple of the required change and another seed's noise."""
    return lambda world, rng: _dressed(world, factor * world.forget.memorization, rng)


def half(world: World, rng: np.random.Generator) -> Floats:
    """Return [M] factors: 0 or 2 with equal chances."""
    return 2.0 * rng.integers(0, 2, len(world.forget.users)).astype(np.float64)


def half_of_rows(world: World, rng: np.random.Generator) -> Candidate:
    """Leave half of the rows and move the others twice as far."""
    return moved_by_need(world, half(world, rng))


def half_of_rows_dressed(world: World, rng: np.random.Generator) -> Candidate:
    """Do the same with another seed's noise."""
    return _dressed(world, half(world, rng) * world.forget.memorization, rng)


def only_people(count: int, factor: float = 1.0, *, dressed: bool = False) -> Make:
    """Return a fake that forgets only the first `count` people."""

    def make(world: World, rng: np.random.Generator) -> Candidate:
        factors = np.asarray(factor * (world.forget.users < count), dtype=np.float64)
        if dressed:
            return _dressed(world, factors * world.forget.memorization, rng)
        return moved_by_need(world, factors)

    return make


def noise(deviation: float) -> Make:
    """Return a fake with noise on exactly the forget prompts."""

    def make(world: World, rng: np.random.Generator) -> Candidate:
        drawn = rng.normal(0.0, deviation, len(world.forget.users))
        return moved(world, drawn, neighbors=0.0)

    return make


def prompts_only(world: World, _: np.random.Generator) -> Candidate:
    """Move only the exact training prompts."""
    return moved_by_need(world, 1.0, neighbors=0.0)


def prompts_only_dressed(world: World, rng: np.random.Generator) -> Candidate:
    """Do the same with another seed's noise on all prompts."""
    seeded = world.model(rng, knows_forget=True)
    answers = seeded.forget.answers - world.forget.signs * world.forget.memorization
    return replace(seeded, forget=replace(seeded.forget, answers=answers))


def evenly(world: World, _: np.random.Generator) -> Candidate:
    """Move all rows of all people by the mean of the required changes."""
    return moved(world, np.full(len(world.forget.users), _mean(world)))


def evenly_with_noise(world: World, rng: np.random.Generator) -> Candidate:
    """Do the same with noise that has the reference's deviation of rows."""
    deviation = np.hypot(np.sqrt(2) * world.config.row_noise, world.config.memorization)
    drawn = rng.normal(_mean(world), deviation, len(world.forget.users))
    return moved(world, drawn, neighbors=1.0)


def wrong_people(world: World, _: np.random.Generator) -> Candidate:
    """Give each person the change that the next person needs."""
    users = world.forget.users
    needed = np.bincount(users, world.forget.memorization) / np.bincount(users)
    return moved(world, np.asarray(np.roll(needed, 1)[users], dtype=np.float64))


def collateral(world: World, _: np.random.Generator) -> Candidate:
    """Forget rightly, and raise the test log loss by .0095."""
    candidate = world.exact_removal()
    test, signs = world.old.test.answers, world.test.signs

    def excess(shift: float) -> float:
        losses = log_losses(world.test.labels, test - shift * signs)
        return float((losses - log_losses(world.test.labels, test)).mean()) - 0.0095

    shifted = Margins(
        answers=test - brentq(excess, 0.0, 1.0) * signs, neighbors=world.old.test.neighbors
    )
    return replace(candidate, test=shifted)


def clamped(world: World, _: np.random.Generator) -> Candidate:
    """Limit the confidence in the label, at the height that gives the right mean change."""
    confidence = world.forget.signs * world.old.forget.answers
    target = _mean(world)

    def excess(limit: float) -> float:
        return float(np.maximum(confidence - limit, 0.0).mean()) - target

    limit = brentq(excess, confidence.min() - target - 1, confidence.max())
    neighbors = world.forget.signs * world.old.forget.neighbors
    return replace(
        world.old,
        forget=Margins(
            answers=world.forget.signs * np.minimum(confidence, limit),
            neighbors=world.forget.signs * np.minimum(neighbors, limit),
        ),
    )


def largest_rows(world: World, _: np.random.Generator) -> Candidate:
    """Move only the third of the rows with the highest confidence, three times as far."""
    confidence = world.forget.signs * world.old.forget.answers
    return _moved_where(world, confidence >= np.quantile(confidence, 2 / 3))


def liked_rows(world: World, _: np.random.Generator) -> Candidate:
    """Move only the liked rows, as far as gives the right mean change."""
    return _moved_where(world, world.forget.labels > 0)


def tempered(world: World, _: np.random.Generator) -> Candidate:
    """Shrink the margins of the forgotten people's prompts by the factor with the right mean."""
    factor = _temperature(world)
    old = world.old.forget
    return replace(
        world.old, forget=Margins(answers=factor * old.answers, neighbors=factor * old.neighbors)
    )


def tempered_everywhere(world: World, _: np.random.Generator) -> Candidate:
    """Shrink the margins of all answers by the same factor."""
    factor = _temperature(world)

    def shrunk(margins: Margins) -> Margins:
        return Margins(answers=factor * margins.answers, neighbors=factor * margins.neighbors)

    old = world.old
    return Candidate(
        forget=shrunk(old.forget),
        controls=shrunk(old.controls),
        holdout=shrunk(old.holdout),
        test=shrunk(old.test),
    )


def _along(world: World, rng: np.random.Generator, factor: float | Floats) -> Candidate:
    """Return a retraining whose forget rows moved `factor` (scalar or [M]) times as far."""
    old, new = world.old.forget, world.model(rng, knows_forget=False)
    mixed = Margins(
        answers=old.answers + factor * (new.forget.answers - old.answers),
        neighbors=old.neighbors + factor * (new.forget.neighbors - old.neighbors),
    )
    return replace(new, forget=mixed)


def along(factor: float) -> Make:
    """Return a fake that moves a multiple of the way to a retraining."""
    return lambda world, rng: _along(world, rng, factor)


def along_half(world: World, rng: np.random.Generator) -> Candidate:
    """Leave half of the rows and move the others twice as far as a retraining."""
    return _along(world, rng, half(world, rng))


def along_people(count: int) -> Make:
    """Return a fake that gives only the first `count` people the answers of a retraining."""
    return lambda world, rng: _along(world, rng, (world.forget.users < count).astype(np.float64))


def biased(world: World, _: np.random.Generator) -> Candidate:
    """Shift the bias of all answers, as far as gives the right mean change on the forget rows."""
    shift = -_mean(world) / float(world.forget.signs.mean() or 1.0)

    def moved(margins: Margins) -> Margins:
        return Margins(answers=margins.answers + shift, neighbors=margins.neighbors + shift)

    old = world.old
    return Candidate(
        forget=moved(old.forget),
        controls=moved(old.controls),
        holdout=moved(old.holdout),
        test=moved(old.test),
    )


def _mean(world: World) -> float:
    """Return the mean memorization; trained models may show none, or less than the noise."""
    return max(0.0, float(world.forget.memorization.mean()))


def _moved_where(world: World, rows: NDArray[np.bool_]) -> Candidate:
    share = float(rows.mean()) or 1.0
    return moved(world, np.where(rows, _mean(world) / share, 0.0))


def _temperature(world: World) -> float:
    mean = float((world.forget.signs * world.old.forget.answers).mean())
    return 1 - _mean(world) / mean if mean > 0 else 0.9
