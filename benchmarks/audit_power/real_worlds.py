"""Turn the margins of trained models into worlds of which the fakes are made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from benchmarks.audit_power.world import Candidate, Group, Margins, World, WorldConfig, answered
from models.audit.answers import control_samples, neighbors
from models.audit.evidence import ANSWERS, NEIGHBORS, Evidence
from models.audit.person_model import Fit
from models.training.trainer import row_margins

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from models.audit.evidence import View
    from models.data.forget_split import ForgetSplit
    from models.data.interactions import Interactions
    from models.data.samples import Samples
    from models.recommender.base import Recommender

    Floats = NDArray[np.float64]

#: Parts of a candidate beside the forget rows.
_OTHER_PARTS = ("controls", "holdout", "test")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RealWorld(World):
    """A world whose models were trained: one retraining, and trainings that know the people.

    `mean_change` is the old model with the mean change from the knowing models to the retrainings,
    on all rows. It has the little seed noise of two means, also on the controls.
    """

    mean_change: Candidate
    retraining: Candidate
    other_seeds: tuple[Candidate, ...]

    def model(self, rng: np.random.Generator, *, knows_forget: bool) -> Candidate:
        """Return one of the trained models."""
        if not knows_forget:
            return self.retraining
        return self.other_seeds[int(rng.integers(len(self.other_seeds)))]

    def exact_removal(self) -> Candidate:
        """Return the old model with the mean change of the retrainings."""
        return self.mean_change


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AuditedRows:
    """The samples that an audit reads: forget rows by group, and controls, holdout and test."""

    forget: Mapping[int, Samples]
    others: Mapping[str, Samples]
    data: Interactions

    @classmethod
    def of(cls, without: ForgetSplit, groups: Mapping[int, NDArray[np.integer]]) -> Self:
        """Select the rows; `groups` are user indices."""
        forget = {
            size: without.forget.take(np.isin(without.forget.user, users))
            for size, users in groups.items()
        }
        others = {
            "controls": control_samples(without),
            "holdout": without.parts.holdout,
            "test": without.parts.test,
        }
        return cls(forget=forget, others=others, data=without.retained)

    def answers(self, recommender: Recommender) -> dict[int, Candidate]:
        """Return a recommender's margins by group."""

        def margins(samples: Samples, *, near: bool) -> Margins:
            answers = row_margins(recommender, samples, self.data)
            if not near:
                return Margins(answers=answers, neighbors=answers)
            near_answers = row_margins(recommender, neighbors(samples), self.data)
            return Margins(answers=answers, neighbors=near_answers)

        others = {name: margins(self.others[name], near=name == "controls") for name in self.others}
        return {
            size: Candidate(forget=margins(samples, near=True), **others)
            for size, samples in self.forget.items()
        }


def real_worlds(
    rows: AuditedRows,
    size: int,
    knowing: Sequence[Candidate],
    retrained: Sequence[Candidate],
) -> list[RealWorld]:
    """Return the worlds of one group, one per retraining; the first knowing model is the old one.

    The memorization of a row is the difference of mean signed margins between the knowing models
    and the retrainings, less the difference that the controls share.
    """
    old = knowing[0]
    forget = _group(rows.forget[size], old.forget)
    parts = {name: _group(rows.others[name], getattr(old, name)) for name in _OTHER_PARTS}
    controls = parts["controls"]
    before, after = _mean(knowing), _mean(retrained)
    views = Evidence(
        forget=answered(forget, before.forget, after.forget),
        controls=answered(controls, before.controls, after.controls),
    ).views()
    memorization, near = (_memorization(views[view]) for view in (ANSWERS, NEIGHBORS))
    seeds = Evidence(
        forget=answered(forget, old.forget, knowing[1].forget),
        controls=answered(controls, old.controls, knowing[1].controls),
    ).views()[ANSWERS]
    noise = Fit.of(seeds.controls, seeds.controls.change).deviations
    config = WorldConfig(
        memorization=float(memorization.mean()),
        neighbor_share=float(np.clip(near.mean() / memorization.mean(), 0.0, 1.0)),
        row_noise=noise.row / np.sqrt(2),
        person_noise=noise.person / np.sqrt(2),
    )
    return [
        RealWorld(
            config=config,
            forget=replace(forget, memorization=memorization),
            **parts,
            old=old,
            mean_change=_plus(old, before, after),
            retraining=retraining,
            other_seeds=tuple(knowing[1:]),
        )
        for retraining in retrained
    ]


def _memorization(view: View) -> Floats:
    general = Fit.of(view.controls, view.controls.change)
    return np.asarray(view.forget.features @ general.coefficients - view.forget.change)


def _group(samples: Samples, old: Margins) -> Group:
    """Return the rows as a group; people are numbered from 0."""
    _, users = np.unique(samples.user, return_inverse=True)
    labels = samples.label.astype(np.float64)
    signs = 2 * labels - 1
    return Group(
        users=users.astype(np.int64),
        labels=labels,
        answers=signs * old.answers,
        neighbors=signs * old.neighbors,
        memorization=np.zeros(len(users)),
        noise_scale=np.ones(len(users)),
    )


def _plus(old: Candidate, before: Candidate, after: Candidate) -> Candidate:
    """Return old + after − before."""

    def sums(part: str) -> Margins:
        first, second, third = (getattr(candidate, part) for candidate in (old, after, before))
        return Margins(
            answers=first.answers + second.answers - third.answers,
            neighbors=first.neighbors + second.neighbors - third.neighbors,
        )

    return Candidate(**{part: sums(part) for part in ("forget", *_OTHER_PARTS)})


def _mean(candidates: Sequence[Candidate]) -> Candidate:
    def mean(part: str) -> Margins:
        of_part = [getattr(candidate, part) for candidate in candidates]
        return Margins(
            answers=np.mean([margins.answers for margins in of_part], axis=0),
            neighbors=np.mean([margins.neighbors for margins in of_part], axis=0),
        )

    return Candidate(**{part: mean(part) for part in ("forget", *_OTHER_PARTS)})
