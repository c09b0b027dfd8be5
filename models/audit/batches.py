"""Judge a batch: the persons together, and the loss on the rows of other people.

The pooled share of the expected change is an estimate over persons, not over rows. A mean can hide
that some persons were forgotten too much and others not at all, so that the dispersion of persons
around the pooled share (Cochran 1954) and the slope of observed on expected changes are tested as
well. Dispersion that is larger or smaller than an exact removal with the candidate's own seed noise
shows (`models.audit.dispersion`), or rows that vary more or less than such a removal, keep the
batch from passing. They do not fail it, because single people of an exact retraining can differ as
much.

The loss on the holdout users' rows and on the test rows must surely have increased by less than
`collateral` for `passed`; a release that surely exceeds the limit fails.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import stats

from models.audit.dispersion import Dispersion
from models.audit.evidence import ANSWERS, NEIGHBORS
from models.audit.outcomes import FAILED, INCONCLUSIVE, PASSED
from models.audit.persons import (
    FORGOTTEN,
    MOST_EXPLAINED,
    NOT_MEASURABLE,
    ONE_ROW,
    UNLIKE_ROWS,
    UNSURE_UNTOUCHED,
    UNTOUCHED,
    Check,
    share_checks,
)
from models.audit.view_model import MINIMUM_VARIANCE_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from models.audit.differences import Difference
    from models.audit.persons import AuditConfig
    from models.audit.shares import PersonShares

    Floats = NDArray[np.float64]

#: The dispersion of persons is tested from this number of persons on.
MINIMUM_DISPERSION: Final = 10

#: Rows that vary less than this share of the row variance of unseen people cannot be told from rows
#: that all moved alike.
LEAST_VARIANCE: Final = 0.02

TOO_DIFFERENT: Final = "people changed too differently: some more, others less than required"
WRONG_PEOPLE: Final = "people who need more change did not change more"
TOO_EVEN: Final = "people changed more evenly than people who were never trained on"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchVerdict:
    """The outcome of a batch, with the reason in words and the figures as JSON values."""

    outcome: str
    reason: str
    figures: dict[str, Any]


def judge_batch(views: Mapping[str, PersonShares], config: AuditConfig) -> BatchVerdict:
    """Judge the persons of one kind of row together."""
    answers = views[ANSWERS]
    shares = {view: of_view.pooled() for view, of_view in views.items()}
    measured = {view: share for view, share in shares.items() if share is not None}
    figures: dict[str, Any] = {
        "people": len(answers.people.users),
        "rows": len(answers.own),
        "shares": {
            view: {"share": share.mean, "interval": list(share.interval(config.confidence))}
            for view, share in measured.items()
        },
    }
    checks = [_unchanged_check(views[view], config) for view in (ANSWERS, NEIGHBORS)]
    if len(measured) == len(shares):
        checks = share_checks(measured, config) + checks
        for of_view, share in ((views[view], measured[view]) for view in (ANSWERS, NEIGHBORS)):
            checks += _dispersion_checks(of_view, share.mean, config)
        if len(answers.observed) > 1:
            figures["dispersion"] = Dispersion.most(answers, measured[ANSWERS].mean).ratio
    level = config.fail_level / len(checks)
    worst = min(checks, key=lambda check: check.p_fail)
    unsure = [check.unsure for check in checks if check.p_pass >= config.pass_level]
    if worst.p_fail < level:
        return BatchVerdict(outcome=FAILED, reason=worst.failed, figures=figures)
    if len(answers.own) == 1:
        return BatchVerdict(outcome=INCONCLUSIVE, reason=ONE_ROW, figures=figures)
    if len(measured) < len(shares):
        return BatchVerdict(outcome=INCONCLUSIVE, reason=NOT_MEASURABLE, figures=figures)
    if unsure:
        return BatchVerdict(outcome=INCONCLUSIVE, reason=unsure[0], figures=figures)
    if not all(_have_usual_rows(views[view], config) for view in (ANSWERS, NEIGHBORS)):
        return BatchVerdict(outcome=INCONCLUSIVE, reason=UNLIKE_ROWS, figures=figures)
    return BatchVerdict(outcome=PASSED, reason=FORGOTTEN, figures=figures)


def collateral_check(increase: Difference, config: AuditConfig, group: str) -> Check:
    """Return the test of the loss increase (nats) on a group of rows that must not change."""
    is_measured = increase.people > 1
    return Check(
        p_fail=increase.p_above(config.collateral) if is_measured else 1.0,
        p_pass=increase.p_below(config.collateral) if is_measured else 1.0,
        failed=f"the loss of the {group} rose as well",
        unsure=f"the rows cannot rule out that the loss of the {group} rose as well",
    )


def _unchanged_check(shares: PersonShares, config: AuditConfig) -> Check:
    """Test the mean share of unchanged rows over persons; of few persons, over their rows."""
    limit = min(0.9, shares.model.unchanged_share + config.excess_unchanged)
    unchanged = shares.unchanged
    people = len(unchanged)
    if people < MINIMUM_DISPERSION:
        rows, count = len(shares.own), int(unchanged.sum())
        low, high = stats.binom.sf(count - 1, rows, limit), stats.binom.cdf(count, rows, limit)
    else:
        by_person = unchanged / shares.people.rows
        # The limit's own binomial error is added: without it, equal persons would have no error.
        rows_error = float((limit * (1 - limit) / shares.people.rows).sum()) / people**2
        error = math.sqrt(float(by_person.var(ddof=1)) / people + rows_error)
        low, high = (
            tail((by_person.mean() - limit) / error, people - 1)
            for tail in (stats.t.sf, stats.t.cdf)
        )
    return Check(p_fail=float(low), p_pass=float(high), failed=UNTOUCHED, unsure=UNSURE_UNTOUCHED)


def _dispersion_checks(shares: PersonShares, share: float, config: AuditConfig) -> list[Check]:
    people = len(shares.people.users)
    if people < MINIMUM_DISPERSION:
        return []
    high = Dispersion.most(shares, share).p_above()
    low = Dispersion.least(shares, share).p_below()
    # A Check passes on a small p value; dispersion passes unless a test rejects it.
    checks = [
        Check(
            p_fail=1.0,
            p_pass=0.0 if high > config.variance_level else 1.0,
            failed=TOO_DIFFERENT,
            unsure=TOO_DIFFERENT,
        ),
        Check(
            p_fail=1.0,
            p_pass=0.0 if low > config.variance_level else 1.0,
            failed=TOO_EVEN,
            unsure=TOO_EVEN,
        ),
    ]
    slope = shares.slope()
    if slope is not None:
        is_flat = slope.p_below(1.0) < config.variance_level
        checks.append(
            Check(
                p_fail=slope.p_below(config.least_share),
                p_pass=1.0 if is_flat else 0.0,
                failed=WRONG_PEOPLE,
                unsure=WRONG_PEOPLE,
            )
        )
    return checks


def _have_usual_rows(shares: PersonShares, config: AuditConfig) -> bool:
    """Return whether the persons' rows vary as rows of unseen people do."""
    several = shares.people.rows >= MINIMUM_VARIANCE_ROWS
    if not several.any() or float(shares.explained[several].mean()) > MOST_EXPLAINED:
        return False
    spread = shares.model.variance_spread**2
    sampling = 2 / (shares.people.rows[several] - 1)
    weights = 1 / (sampling + spread)
    weights /= weights.sum()
    limit = float(stats.norm.isf(config.variance_level / 2))
    mean = float((weights * shares.row_ratios[several]).sum())
    own = float(np.square(weights) @ (sampling + spread))
    error = math.sqrt(own + (spread + sampling.mean()) / shares.model.effective)
    if several.sum() < MINIMUM_DISPERSION:
        return shares.has_usual_variance(mean, error, limit)
    return mean <= limit * error and _have_own_variance(shares, several, weights, limit)


def _have_own_variance(
    shares: PersonShares, several: NDArray[np.bool_], weights: Floats, limit: float
) -> bool:
    """Return whether the mean row variance can be memorization with the candidate's seed noise.

    The noise is measured on the controls. Memorization has heavy tails and differs over people, so
    that the error is that over the batch's people, not that of normal rows.
    """
    variances = shares.people.row_variances(shares.own)[several]
    mean, count = float(weights @ variances), len(variances)
    clustered = float(np.square(weights * (variances - mean)).sum()) * count / (count - 1)
    memorized, calibrated = shares.model.memorized_variance()
    noise = shares.noise.row**2
    own_error = noise * shares.model.variance_spread / math.sqrt(shares.control_people)
    error = math.hypot(math.sqrt(clustered), calibrated, own_error)
    is_measurable = mean >= LEAST_VARIANCE * shares.model.deviations.row**2
    return is_measurable and abs(mean - memorized - noise) <= limit * error
