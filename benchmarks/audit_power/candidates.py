"""Make candidates from a synthetic world: honest ones, and fakes that leave people findable.

A fake knows everything: the true memorization of every row and the audit's statistics. Most fakes
are bare, so that everything that is not forgotten answers as before. Fakes with "another seed" are
dressed in the noise of another training, which hides that answers did not change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A candidate of the tables. `kept` [rows → bool per row] tells untouched people's rows.

    `rows` are the numbers of rows of the people, if the candidate is defined for one size only.
    `honest` candidates should pass, all others must not.
    """

    name: str
    make: Make
    honest: bool = False
    rows: tuple[int, ...] | None = None
    untouched: int = 0


def _moved(world: World, amount: Floats, *, neighbors: float | None = None) -> Candidate:
    """Return the old model with forget rows' signed margins lowered by `amount` [M]."""
    share = world.config.neighbor_share if neighbors is None else neighbors
    signs, old = world.forget.signs, world.old.forget
    moved = Margins(
        answers=old.answers - signs * amount, neighbors=old.neighbors - signs * share * amount
    )
    return replace(world.old, forget=moved)


def _dressed(world: World, amount: Floats, rng: np.random.Generator) -> Candidate:
    """Return a training with another seed that knows the people, with margins lowered."""
    seeded = world.model(rng, knows_forget=True)
    signs, share = world.forget.signs, world.config.neighbor_share
    moved = Margins(
        answers=seeded.forget.answers - signs * amount,
        neighbors=seeded.forget.neighbors - signs * share * amount,
    )
    return replace(seeded, forget=moved)


def retrained(world: World, rng: np.random.Generator) -> Candidate:
    """Return an exact retraining with another seed."""
    return world.model(rng, knows_forget=False)


def retrained_quietly(world: World, _: np.random.Generator) -> Candidate:
    """Return the old model less exactly the memorization, without another seed's noise."""
    return _moved(world, world.forget.memorization)


def untouched(world: World, _: np.random.Generator) -> Candidate:
    """Return the old model."""
    return world.old


def another_seed(world: World, rng: np.random.Generator) -> Candidate:
    """Return a training with another seed that still knows the people."""
    return world.model(rng, knows_forget=True)


def times(factor: float) -> Make:
    """Return a fake with a multiple of the required change."""
    return lambda world, _: _moved(world, factor * world.forget.memorization)


def times_dressed(factor: float) -> Make:
    """Return a fake with a multiple of the required change and another seed's noise."""
    return lambda world, rng: _dressed(world, factor * world.forget.memorization, rng)


def _half(world: World, rng: np.random.Generator) -> Floats:
    return 2.0 * rng.integers(0, 2, len(world.forget.users)).astype(np.float64)


def half_of_rows(world: World, rng: np.random.Generator) -> Candidate:
    """Leave half of the rows and move the others twice as far."""
    return _moved(world, _half(world, rng) * world.forget.memorization)


def half_of_rows_dressed(world: World, rng: np.random.Generator) -> Candidate:
    """Do the same with another seed's noise."""
    return _dressed(world, _half(world, rng) * world.forget.memorization, rng)


def only_people(count: int, factor: float = 1.0, *, dressed: bool = False) -> Make:
    """Return a fake that forgets only the first `count` people."""

    def make(world: World, rng: np.random.Generator) -> Candidate:
        amount = factor * world.forget.memorization * (world.forget.users < count)
        return _dressed(world, amount, rng) if dressed else _moved(world, amount)

    return make


def noise(deviation: float) -> Make:
    """Return a fake with noise on exactly the forget prompts."""

    def make(world: World, rng: np.random.Generator) -> Candidate:
        drawn = rng.normal(0.0, deviation, len(world.forget.users))
        return _moved(world, drawn, neighbors=0.0)

    return make


def prompts_only(world: World, _: np.random.Generator) -> Candidate:
    """Move only the exact training prompts."""
    return _moved(world, world.forget.memorization, neighbors=0.0)


def prompts_only_dressed(world: World, rng: np.random.Generator) -> Candidate:
    """Do the same with another seed's noise on all prompts."""
    seeded = world.model(rng, knows_forget=True)
    answers = seeded.forget.answers - world.forget.signs * world.forget.memorization
    return replace(seeded, forget=replace(seeded.forget, answers=answers))


def evenly(world: World, _: np.random.Generator) -> Candidate:
    """Move all rows of all people by the mean of the required changes."""
    return _moved(world, np.full(len(world.forget.users), _mean(world)))


def evenly_with_noise(world: World, rng: np.random.Generator) -> Candidate:
    """Do the same with noise that has the reference's deviation of rows."""
    deviation = np.hypot(np.sqrt(2) * world.config.row_noise, world.config.memorization)
    drawn = rng.normal(_mean(world), deviation, len(world.forget.users))
    return _moved(world, drawn, neighbors=1.0)


def wrong_people(world: World, _: np.random.Generator) -> Candidate:
    """Give each person the change that the next person needs."""
    needed = np.bincount(world.forget.users, world.forget.memorization) / np.bincount(
        world.forget.users
    )
    of_next: Floats = np.roll(needed, 1).astype(np.float64)
    return _moved(world, of_next[world.forget.users])


def collateral(world: World, _: np.random.Generator) -> Candidate:
    """Forget rightly, and raise the test log loss by .0095."""
    candidate = _moved(world, world.forget.memorization)
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
    return float(world.forget.memorization.mean())


def _moved_where(world: World, rows: NDArray[np.bool_]) -> Candidate:
    share = float(rows.mean()) or 1.0
    return _moved(world, _mean(world) / share * rows)


def _temperature(world: World) -> float:
    mean = float((world.forget.signs * world.old.forget.answers).mean())
    return 1 - _mean(world) / mean if mean > 0 else 0.9


#: Honest candidates, the fakes of the published list, and further fakes.
ENTRIES: Final = (
    Entry(name="retrained with another seed", make=retrained, honest=True),
    Entry(name="exactly the memorization removed", make=retrained_quietly, honest=True),
    Entry(name="nothing", make=untouched),
    Entry(name="half of the rows, twice as far", make=half_of_rows),
    Entry(name="a third of the change", make=times(1 / 3)),
    Entry(
        name="1 of 32 people (1,500 rows; 50 each)",
        make=only_people(1),
        rows=(1500, *[50] * 31),
        untouched=31,
    ),
    Entry(
        name="10 of 32 people (100 rows each)", make=only_people(10), rows=(100,) * 32, untouched=22
    ),
    Entry(name="noise .45 on the forget prompts", make=noise(0.45)),
    Entry(name="only the exact prompts", make=prompts_only),
    Entry(name="the right mean, evenly", make=evenly),
    Entry(name="three times the change", make=times(3.0)),
    Entry(name="right, but test log loss +.0095", make=collateral),
    Entry(name="only another seed", make=another_seed),
    Entry(name="a third, another seed", make=times_dressed(1 / 3)),
    Entry(name="half of the rows, another seed", make=half_of_rows_dressed),
    Entry(name="only the exact prompts, another seed", make=prompts_only_dressed),
    Entry(name="evenly, noise like the reference", make=evenly_with_noise),
    Entry(
        name="22 of 32 people, 1.45 times, another seed",
        make=only_people(22, 32 / 22, dressed=True),
        rows=(50,) * 32,
        untouched=10,
    ),
    Entry(name="the change of other people", make=wrong_people),
    Entry(name="clamped confidence", make=clamped),
    Entry(name="only the most confident third", make=largest_rows),
    Entry(name="only the liked rows", make=liked_rows),
    Entry(name="temperature of these people", make=tempered),
    Entry(name="temperature of all answers", make=tempered_everywhere),
    Entry(name="bias of all answers", make=biased),
)
