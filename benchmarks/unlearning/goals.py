"""Judge whether a method is as good as retraining, and check the goals of e2urec-fast.

"As good as retraining" has four criteria, which `criteria` evaluates; all limits are constants of
this module. A criterion that was not measured, or that has no power on the data, is undecided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks.unlearning.figures import mean_of, measure
from benchmarks.unlearning.names import ORIGINAL, RETRAIN

if TYPE_CHECKING:
    from benchmarks.unlearning.figures import Results

OURS: Final = "e2urec-fast"
#: As good as retraining: upper end of the systematic distance, as a share of Original's distance.
MAX_DISTANCE_SHARE: Final = 0.1
#: As good as retraining: the attack's AUC above that of Retrain against Retrain.
MAX_ATTACK_EXCESS: Final = 0.02
#: As good as retraining: upper end of the test log loss's difference from Original (nats).
MAX_LOSS_DIFFERENCE: Final = 0.002
#: The criteria in words, for captions.
DEFINITION: Final = (
    f"As good as retraining: upper end of the systematic distance at most {MAX_DISTANCE_SHARE:.0%} "
    "of Original's, forget loss within the 95 % prediction interval of Retrain's mean, attack AUC "
    f"at most {MAX_ATTACK_EXCESS:g} above Retrain's, upper end of the test log loss's difference "
    f"from Original at most {MAX_LOSS_DIFFERENCE:g}."
)
#: Test AUC that forgetting may cost.
MAX_AUC_LOSS: Final = 0.002
#: Share of Retrain's time that forgetting may take, for protocols with such a goal.
TIME_SHARES: Final = {"paper": 1 / 10, "single-user": 1 / 50}
#: Share of the parameters that may be trained, for models above LARGE_PARAMETERS.
TRAINABLE_SHARE: Final = 0.02
LARGE_PARAMETERS: Final = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """Whether a criterion is met (None: undecided), the numbers, and the reason if not met."""

    met: bool | None
    numbers: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a method is as good as retraining (None: undecided), and the reason if not.

    `good` is True only if all criteria were measured and met.
    """

    good: bool | None
    reason: str

    def text(self) -> str:
        """Return the text of a table cell."""
        return {True: "yes", False: f"no: {self.reason}", None: f"undecided: {self.reason}"}[
            self.good
        ]


def verdict(results: Results, method: str) -> Verdict:
    """Judge a method by all criteria; one failed criterion decides, an undecided one does not.

    Retrain is the reference and has no verdict.
    """
    if method == RETRAIN:
        return Verdict(good=None, reason="the reference")
    if not results.get("measures"):
        return Verdict(good=None, reason="not measured")
    judged = criteria(results, method)
    for met in (False, None):
        reasons = list(
            dict.fromkeys(criterion.reason for criterion in judged if criterion.met is met)
        )
        if reasons:
            return Verdict(good=met, reason="; ".join(reasons))
    return Verdict(good=True, reason="")


def criteria(results: Results, method: str) -> list[Criterion]:
    """Evaluate the criteria of "as good as retraining" in a fixed order."""
    return [
        _distance_criterion(results, method),
        _forget_loss_criterion(results, method),
        _attack_criterion(results, method),
        _loss_criterion(results, method),
    ]


def _unmeasured(name: str) -> Criterion:
    return Criterion(met=None, numbers=f"{name} not measured", reason=f"{name} not measured")


def _distance_criterion(results: Results, method: str) -> Criterion:
    high = measure(results, method, "systematic", "high")
    original = measure(results, ORIGINAL, "systematic", "distance")
    power = (results.get("control") or {}).get("has_power")
    if high is None or original is None or power is None:
        return _unmeasured("systematic distance")
    if not power:
        reason = "the systematic distance has no power"
        return Criterion(met=None, numbers=reason, reason=reason)
    share = high / original
    numbers = f"upper end of the distance {share:.0%} of Original's, at most "
    numbers += f"{MAX_DISTANCE_SHARE:.0%}"
    low = measure(results, method, "systematic", "low") / original
    if low <= MAX_DISTANCE_SHARE:
        reason = f"not shown: distance {low:.0%} to {share:.0%} of Original's"
    else:
        reason = f"distance at least {low:.0%} of Original's"
    return Criterion(met=share <= MAX_DISTANCE_SHARE, numbers=numbers, reason=reason)


def _forget_loss_criterion(results: Results, method: str) -> Criterion:
    loss = mean_of(results, method, "forget_loss")
    interval = measure(results, method, "forget_loss_interval")
    if loss is None or not interval:
        return _unmeasured("forget loss")
    low, high = interval
    if loss < low:
        reason = f"loss {loss:.4f} < {low:.4f}, not forgotten"
    else:
        reason = f"loss {loss:.4f} > {high:.4f}, forgotten too much"
    numbers = f"forget loss {loss:.4f}, Retrain's {low:.4f} to {high:.4f}"
    return Criterion(met=low <= loss <= high, numbers=numbers, reason=reason)


def _attack_criterion(results: Results, method: str) -> Criterion:
    excess, auc = (measure(results, method, "attack", key) for key in ("excess", "auc"))
    if excess is None or auc is None:
        return _unmeasured("attack")
    numbers = f"attack AUC {auc:.3f}, {excess:+.3f} from Retrain's, at most {MAX_ATTACK_EXCESS:g}"
    return Criterion(
        met=excess <= MAX_ATTACK_EXCESS, numbers=numbers, reason=f"attack AUC {auc:.3f}"
    )


def _loss_criterion(results: Results, method: str) -> Criterion:
    high = measure(results, method, "test_logloss_difference", "high")
    if high is None:
        return _unmeasured("log loss difference")
    numbers = f"upper end of the log loss difference {high:+.4f}, at most {MAX_LOSS_DIFFERENCE:g}"
    return Criterion(
        met=high <= MAX_LOSS_DIFFERENCE, numbers=numbers, reason=f"log loss up to {high:+.4f}"
    )


def goals(results: Results) -> list[dict[str, Any]]:
    """Return the goals as `{"method", "goal", "met", "numbers"}`, or [] without the needed runs.

    `met` is null if a number is missing, or if the goal does not apply to the protocol or to the
    size of the model.
    """
    methods = {run["method"] for run in results.get("runs", ())}
    if not {OURS, ORIGINAL, RETRAIN} <= methods:
        return []
    share = TIME_SHARES.get(str(results.get("protocol")))
    checked = [_as_good(results), _utility(results), _time(results, share), _parameters(results)]
    return [{"method": OURS, **goal} for goal in checked]


def _goal(goal: str, met: bool | None, numbers: str) -> dict[str, Any]:
    return {"goal": goal, "met": met, "numbers": numbers}


def _as_good(results: Results) -> dict[str, Any]:
    numbers = "; ".join(criterion.numbers for criterion in criteria(results, OURS))
    return _goal("as good as retraining", verdict(results, OURS).good, numbers)


def _utility(results: Results) -> dict[str, Any]:
    name = f"test AUC at least min(Original, Retrain) − {MAX_AUC_LOSS}"
    ours, original, retrained = (
        mean_of(results, method, "test_auc") for method in (OURS, ORIGINAL, RETRAIN)
    )
    if ours is None or original is None or retrained is None:
        return _goal(name, None, "not measured")
    least = min(original, retrained) - MAX_AUC_LOSS
    return _goal(
        name,
        ours >= least,
        f"{ours:.4f}, at least {least:.4f} (Original {original:.4f}, Retrain {retrained:.4f})",
    )


def _time(results: Results, share: float | None) -> dict[str, Any]:
    name = f"at most 1/{round(1 / share)} of Retrain's time" if share else "share of Retrain's time"
    ours, retrained = (mean_of(results, method, "seconds") for method in (OURS, RETRAIN))
    if ours is None or not retrained:
        return _goal(name, None, "not measured")
    numbers = f"{ours:.1f} s ÷ {retrained:.1f} s = {ours / retrained:.3f}"
    if share is None:
        return _goal(name, None, f"{numbers}; no goal under this protocol")
    return _goal(name, ours <= share * retrained, f"{numbers}, at most {share:g}")


def _parameters(results: Results) -> dict[str, Any]:
    size = f"{LARGE_PARAMETERS / 1e6:.0f} M"
    name = f"at most {TRAINABLE_SHARE:.0%} of the parameters trained, above {size}"
    trained, whole = (
        mean_of(results, OURS, measure) for measure in ("trainable_parameters", "parameters")
    )
    if trained is None or not whole:
        return _goal(name, None, "not measured")
    # Small models have no such goal, because a useful adapter is a larger share of them.
    met = trained <= TRAINABLE_SHARE * whole if whole > LARGE_PARAMETERS else None
    return _goal(name, met, f"{trained:,.0f} of {whole:,.0f} = {trained / whole:.1%}")
