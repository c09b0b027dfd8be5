"""Whether our own method reaches the goals it was made for. Knows the results' shape alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.unlearning.report import RETRAIN, mean_and_std, verdict

if TYPE_CHECKING:
    from benchmarks.unlearning.report import Results

OURS: Final = "e2urec-fast"
ORIGINAL: Final = "original"
#: How much test AUC forgetting may cost.
AUC_SLACK: Final = 0.002
#: The share of Retrain's time that forgetting may take, per protocol; others have no such goal.
TIME_SHARES: Final = {"paper": 1 / 10, "single-user": 1 / 50}
#: The share of a model's parameters that may be trained, for causal models above this size.
TRAINABLE_SHARE: Final = 0.02
LARGE: Final = 10_000_000


def goals(results: Results) -> list[dict[str, Any]]:
    """Return each goal as name, whether it is met, and the numbers; none without the runs for it.

    A goal is `{"method", "goal", "met", "numbers"}`; `met` is null where a number is missing, or
    where there is no line to reach under this protocol or for a model of this size.
    """
    made = {run["method"] for run in results.get("runs", ())}
    if not {OURS, ORIGINAL, RETRAIN} <= made:
        return []
    share = TIME_SHARES.get(str(results.get("protocol")))
    found = [_as_good(results), _utility(results), _time(results, share), _parameters(results)]
    return [{"method": OURS, **goal} for goal in found]


def _mean(results: Results, method: str, measure: str) -> float | None:
    found = mean_and_std(results, method, measure)
    return found[0] if found else None


def _goal(goal: str, met: bool | None, numbers: str) -> dict[str, Any]:
    return {"goal": goal, "met": met, "numbers": numbers}


def _as_good(results: Results) -> dict[str, Any]:
    name = "as good as retraining"
    jsd, loss = (_mean(results, OURS, measure) for measure in ("jsd", "forget_loss"))
    floor = results.get("noise_floor") or {}
    interval, losses = floor.get("jsd_interval"), floor.get("forget_loss_interval")
    if jsd is None or loss is None or not interval or not losses:
        return _goal(name, None, "not measured")
    return _goal(
        name,
        verdict(results, OURS).good,
        f"JSD × 1000 {jsd * 1e3:.2f}, at most {interval[1] * 1e3:.2f}; forget loss {loss:.4f}, "
        f"Retrain's {losses[0]:.4f} to {losses[1]:.4f}",
    )


def _utility(results: Results) -> dict[str, Any]:
    name = f"test AUC at least min(Original, Retrain) − {AUC_SLACK}"
    mine, original, retrained = (
        _mean(results, method, "test_auc") for method in (OURS, ORIGINAL, RETRAIN)
    )
    if mine is None or original is None or retrained is None:
        return _goal(name, None, "not measured")
    least = min(original, retrained) - AUC_SLACK
    return _goal(
        name,
        mine >= least,
        f"{mine:.4f}, at least {least:.4f} (Original {original:.4f}, Retrain {retrained:.4f})",
    )


def _time(results: Results, share: float | None) -> dict[str, Any]:
    name = f"at most 1/{round(1 / share)} of Retrain's time" if share else "share of Retrain's time"
    mine, retrained = (_mean(results, method, "seconds") for method in (OURS, RETRAIN))
    if mine is None or not retrained:
        return _goal(name, None, "not measured")
    numbers = f"{mine:.1f} s ÷ {retrained:.1f} s = {mine / retrained:.3f}"
    if share is None:
        return _goal(name, None, f"{numbers}; no goal under this protocol")
    return _goal(name, mine <= share * retrained, f"{numbers}, at most {share:g}")


def _parameters(results: Results) -> dict[str, Any]:
    name = f"at most {TRAINABLE_SHARE:.0%} of the parameters trained, above {LARGE / 1e6:.0f} M"
    trained, whole = (_mean(results, OURS, each) for each in ("trainable_parameters", "parameters"))
    if trained is None or not whole:
        return _goal(name, None, "not measured")
    # Small models have no such goal: an adapter of any use is a larger share of them.
    met = trained <= TRAINABLE_SHARE * whole if whole > LARGE else None
    return _goal(name, met, f"{trained:,.0f} of {whole:,.0f} = {trained / whole:.1%}")
