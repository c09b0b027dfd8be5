"""Judge for every person whether the answers moved as if the person had never been trained on.

The test is one of equivalence, by two one-sided tests (TOST, Schuirmann 1987): `passed` needs a
confidence interval of the person's share of the expected change (`models.audit.shares`) that lies
inside the band from `least_share` to `most_share`. A person whose interval is wide, because few
rows are known or the expected change is small, is `inconclusive`, never `passed`.

The methods move the mean answer on the forget prompts. `passed` therefore also needs evidence that
no method optimizes: the answers on neighbor prompts and the exposure must surely have moved, no
more than a part of the rows may be unchanged, and the rows must vary as rows of unseen people do.

A person fails if one of the tests rejects after Bonferroni's adjustment over the tests of a person
and Holm's (1979) over the persons of the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.special import bdtr, bdtrc, ndtri

from models.audit.evidence import ANSWERS, EXPOSURE, NEIGHBORS
from models.audit.outcomes import FAILED, INCONCLUSIVE, PASSED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.audit.shares import PersonShares, Share


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditConfig:
    """Levels and limits of the audit."""

    #: Level of each one-sided test that `passed` needs. Intervals have the confidence 1 − 2 level.
    pass_level: float = 0.05
    #: Level of the failures of a batch, and of Holm's adjustment over persons. The kinds of rows of
    #: a batch share it equally.
    fail_level: float = 0.05
    #: The band around the expected change, as shares of the expected change.
    least_share: float = 0.4
    most_share: float = 2.0
    #: Share of unchanged rows that is too many, above the share among left-out people's rows.
    excess_unchanged: float = 0.25
    #: Level below which the variance of rows or people is not that of unseen people.
    variance_level: float = 0.02
    #: Limit of the loss increase (nats) on the holdout users' rows and on the test rows.
    collateral: float = 0.009

    @property
    def confidence(self) -> float:
        """Return the confidence of reported intervals."""
        return 1 - 2 * self.pass_level


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonVerdict:
    """The outcome for one person, with the reason in words.

    `interval` is that of the share of the expected change on the forgotten prompts: 0 means that
    nothing was forgotten, 1 that the answers changed as if the person had never been trained on. It
    is None where the expected change cannot be measured.
    """

    user: int
    kind: str
    outcome: str
    reason: str
    rows: int
    share: float | None = None
    interval: tuple[float, float] | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """Return JSON values without the user."""
        return {
            "outcome": self.outcome,
            "reason": self.reason,
            "kind": self.kind,
            "rows": self.rows,
            "share": self.share,
            "interval": None if self.interval is None else list(self.interval),
            **self.figures,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A p value of failure and one of passing, with the reasons if either decides."""

    p_fail: float
    p_pass: float
    failed: str
    unsure: str


#: Most of a person's row variance that the old answers may explain. Among 32 people of a
#: retraining (ml-latest-small), they explained more for one person only.
MOST_EXPLAINED: Final = 0.5

#: Reasons in words for a privacy officer.
TOO_LITTLE: Final = "the answers about this data changed less than forgetting requires"
TOO_MUCH: Final = "the answers about this data changed more than forgetting explains"
UNSURE_LITTLE: Final = "the rows cannot tell forgetting from too little change"
UNSURE_MUCH: Final = "the rows cannot tell forgetting from too much change"
SAME_NEIGHBORS: Final = "similar questions, which were not trained, are answered as before"
UNSURE_NEIGHBORS: Final = "the rows cannot tell whether similar questions changed as well"
SAME_EXPOSURE: Final = "the liked items surface as before"
UNSURE_EXPOSURE: Final = "the rows cannot tell whether the liked items still surface"
UNTOUCHED: Final = "too many answers did not change at all"
UNSURE_UNTOUCHED: Final = "the rows cannot rule out that many answers did not change"
UNLIKE_ROWS: Final = "single answers do not vary as they do for people who were never trained on"
FORGOTTEN: Final = "the answers changed as if the data had never been trained on"
NOT_MEASURABLE: Final = "the expected change is too small to be measured"
ONE_ROW: Final = "one row cannot tell forgetting from chance"


def share_checks(shares: Mapping[str, Share], config: AuditConfig) -> list[Check]:
    """Return the tests of the three views; `shares` has a share for each view."""
    answers, neighbors, exposure = (shares[view] for view in (ANSWERS, NEIGHBORS, EXPOSURE))
    least, most = config.least_share, config.most_share
    return [
        Check(
            p_fail=answers.p_below(least),
            p_pass=answers.p_above(least),
            failed=TOO_LITTLE,
            unsure=UNSURE_LITTLE,
        ),
        Check(
            p_fail=answers.p_above(most),
            p_pass=answers.p_below(most),
            failed=TOO_MUCH,
            unsure=UNSURE_MUCH,
        ),
        Check(
            p_fail=neighbors.p_below(least),
            p_pass=neighbors.p_above(0.0),
            failed=SAME_NEIGHBORS,
            unsure=UNSURE_NEIGHBORS,
        ),
        Check(
            p_fail=exposure.p_below(least),
            p_pass=exposure.p_above(0.0),
            failed=SAME_EXPOSURE,
            unsure=UNSURE_EXPOSURE,
        ),
    ]


def judge_persons(
    views: Mapping[str, PersonShares], kind: str, config: AuditConfig
) -> list[PersonVerdict]:
    """Judge the persons of one kind of row, with Holm's adjustment over them."""
    people = views[ANSWERS].people
    checks = [_person_checks(views, index, config) for index in range(len(people.users))]
    tested = [
        min(1.0, len(row) * min(check.p_fail for check in row)) if row else 1.0 for row in checks
    ]
    rejected = holm(tested, config.fail_level)
    return [
        _verdict(views, index, kind, checks[index], config, is_rejected=rejected[index])
        for index in range(len(people.users))
    ]


def holm(p_values: list[float], level: float) -> list[bool]:
    """Return which hypotheses Holm's step-down procedure rejects at a familywise level."""
    rejected = [False] * len(p_values)
    order = np.argsort(p_values, kind="stable").tolist()
    for rank, index in enumerate(order):
        if not p_values[index] <= level / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


def _person_checks(
    views: Mapping[str, PersonShares], index: int, config: AuditConfig
) -> list[Check]:
    """Return the tests of one person: those of unchanged rows, and of measurable shares."""
    checks = [_unchanged_check(views[view], index, config) for view in (ANSWERS, NEIGHBORS)]
    shares = {view: shares.person(index) for view, shares in views.items()}
    measured = {view: share for view, share in shares.items() if share is not None}
    if len(measured) == len(shares):
        checks = share_checks(measured, config) + checks
    return checks


def _unchanged_check(shares: PersonShares, index: int, config: AuditConfig) -> Check:
    rows, unchanged = int(shares.people.rows[index]), int(shares.unchanged[index])
    limit = min(0.9, shares.model.unchanged_share + config.excess_unchanged)
    return Check(
        p_fail=float(bdtrc(unchanged - 1, rows, limit)) if unchanged else 1.0,
        p_pass=float(bdtr(unchanged, rows, limit)),
        failed=UNTOUCHED,
        unsure=UNSURE_UNTOUCHED,
    )


def _has_usual_rows(shares: PersonShares, index: int, config: AuditConfig) -> bool:
    """Return whether the variance of a person's rows is that of rows of unseen people."""
    error = math.sqrt(2 / (shares.people.rows[index] - 1) + shares.model.variance_spread**2)
    limit = -float(ndtri(config.variance_level / 2))
    return bool(shares.explained[index] <= MOST_EXPLAINED) and shares.has_usual_variance(
        float(shares.row_ratios[index]), error, limit
    )


def _verdict(
    views: Mapping[str, PersonShares],
    index: int,
    kind: str,
    checks: list[Check],
    config: AuditConfig,
    *,
    is_rejected: bool,
) -> PersonVerdict:
    answers = views[ANSWERS]
    share = answers.person(index)
    rows = int(answers.people.rows[index])
    is_measured = all(shares.person(index) is not None for shares in views.values())
    unsure = [check.unsure for check in checks if check.p_pass >= config.pass_level]
    if is_rejected:
        outcome, reason = FAILED, min(checks, key=lambda check: check.p_fail).failed
    elif rows == 1:
        outcome, reason = INCONCLUSIVE, ONE_ROW
    elif not is_measured:
        outcome, reason = INCONCLUSIVE, NOT_MEASURABLE
    elif unsure:
        outcome, reason = INCONCLUSIVE, unsure[0]
    elif not all(_has_usual_rows(views[view], index, config) for view in (ANSWERS, NEIGHBORS)):
        outcome, reason = INCONCLUSIVE, UNLIKE_ROWS
    else:
        outcome, reason = PASSED, FORGOTTEN
    return PersonVerdict(
        user=int(answers.people.users[index]),
        kind=kind,
        outcome=outcome,
        reason=reason,
        rows=rows,
        share=None if share is None else share.mean,
        interval=None if share is None else share.interval(config.confidence),
        figures={"unchanged": int(answers.unchanged[index])},
    )
