"""List the candidates whose outcomes are counted: honest ones, and fakes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.audit_power import fakes, quiet_fakes

if TYPE_CHECKING:
    from benchmarks.audit_power.fakes import Make


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A candidate of the tables.

    `rows` are the numbers of rows of the people, if the candidate is defined for one size only; the
    last `untouched` people are not forgotten. `honest` candidates should pass, all others must not.
    No line is drawn for `shown_only` candidates.
    """

    name: str
    make: Make
    honest: bool = False
    rows: tuple[int, ...] | None = None
    untouched: int = 0
    shown_only: bool = False


#: Honest candidates, the fakes of the published list, and further fakes.
ENTRIES: Final = (
    Entry(name="retrained with another seed", make=fakes.retrained, honest=True),
    Entry(
        name="exactly the memorization removed",
        make=fakes.retrained_quietly,
        honest=True,
        shown_only=True,
    ),
    Entry(name="nothing", make=fakes.untouched),
    Entry(name="half of the rows, twice as far", make=fakes.half_of_rows),
    Entry(name="a third of the change", make=fakes.times(1 / 3)),
    Entry(
        name="1 of 32 people (1,500 rows; 50 each)",
        make=fakes.only_people(1),
        rows=(1500, *[50] * 31),
        untouched=31,
    ),
    Entry(
        name="10 of 32 people (100 rows each)",
        make=fakes.only_people(10),
        rows=(100,) * 32,
        untouched=22,
    ),
    Entry(name="noise .45 on the forget prompts", make=fakes.noise(0.45)),
    Entry(name="only the exact prompts", make=fakes.prompts_only),
    Entry(name="the right mean, evenly", make=fakes.evenly),
    Entry(name="three times the change", make=fakes.times(3.0)),
    Entry(name="right, but test log loss +.0095", make=fakes.collateral),
    Entry(name="only another seed", make=fakes.another_seed),
    Entry(name="a third, another seed", make=fakes.times_dressed(1 / 3)),
    Entry(name="half of the rows, another seed", make=fakes.half_of_rows_dressed),
    Entry(name="only the exact prompts, another seed", make=fakes.prompts_only_dressed),
    Entry(name="evenly, noise like the reference", make=fakes.evenly_with_noise),
    Entry(
        name="22 of 32 people, 1.45 times, another seed",
        make=fakes.only_people(22, 32 / 22, dressed=True),
        rows=(50,) * 32,
        untouched=10,
    ),
    Entry(name="the change of other people", make=fakes.wrong_people),
    Entry(name="clamped confidence", make=fakes.clamped),
    Entry(name="only the most confident third", make=fakes.largest_rows),
    Entry(name="only the liked rows", make=fakes.liked_rows),
    Entry(name="temperature of these people", make=fakes.tempered),
    Entry(name="temperature of all answers", make=fakes.tempered_everywhere),
    Entry(name="bias of all answers", make=fakes.biased),
    Entry(name="half of the rows, blurred", make=quiet_fakes.half_of_rows),
    Entry(
        name="half of the rows, blurred, noisy controls",
        make=quiet_fakes.half_of_rows_noisy_controls,
    ),
    Entry(
        name="half of the rows, blurred, fitted controls",
        make=quiet_fakes.half_of_rows_fitted_controls,
    ),
    Entry(name="evenly, rows like memorization", make=quiet_fakes.evenly),
    Entry(
        name="21 of 32 people, 1.5 times, blurred",
        make=quiet_fakes.two_thirds_of_people,
        rows=(50,) * 32,
        untouched=11,
    ),
    Entry(name="drawn amounts", make=quiet_fakes.drawn_amounts),
    Entry(name="half of the change, quietly", make=quiet_fakes.half_of_change),
)

#: Candidates of trained models: the entries for every size, parts of the people, and fakes that
#: move the forgotten people's answers along a retraining.
REAL_ENTRIES: Final = (
    *(entry for entry in ENTRIES if entry.rows is None),
    Entry(name="10 of 32 people", make=fakes.only_people(10), untouched=22),
    Entry(
        name="22 of 32 people, 1.45 times, another seed",
        make=fakes.only_people(22, 32 / 22, dressed=True),
        untouched=10,
    ),
    Entry(
        name="two thirds of the people, 1.5 times, blurred",
        make=quiet_fakes.two_thirds_of_people,
    ),
    Entry(name="half of the rows, twice as far, along a retraining", make=fakes.along_half),
    Entry(name="a third, along a retraining", make=fakes.along(1 / 3)),
    Entry(name="three times, along a retraining", make=fakes.along(3.0)),
    Entry(name="10 of 32 people, along a retraining", make=fakes.along_people(10), untouched=22),
)
