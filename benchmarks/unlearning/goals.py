"""Check the goals of our own method, e2urec-fast, against the results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.unlearning.names import ORIGINAL, RETRAIN
from benchmarks.unlearning.report import mean_and_std, verdict

if TYPE_CHECKING:
    from benchmarks.unlearning.report import Results

OURS: Final = "e2urec-fast"
#: Test AUC that forgetting may cost.
MAX_AUC_LOSS: Final = 0.002
#: Share of Retrain's time that forgetting may take, for protocols with such a goal.
TIME_SHARES: Final = {"paper": 1 / 10, "single-user": 1 / 50}
#: Share of the parameters that may be trained, for models above LARGE_PARAMETERS.
TRAINABLE_SHARE: Final = 0.02
LARGE_PARAMETERS: Final = 10_000_000


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


def _mean(results: Results, method: str, measure: str) -> float | None:
    statistics = mean_and_std(results, method, measure)
    return statistics[0] if statistics else None


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
    name = f"test AUC at least min(Original, Retrain) − {MAX_AUC_LOSS}"
    ours, original, retrained = (
        _mean(results, method, "test_auc") for method in (OURS, ORIGINAL, RETRAIN)
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
    ours, retrained = (_mean(results, method, "seconds") for method in (OURS, RETRAIN))
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
        _mean(results, OURS, measure) for measure in ("trainable_parameters", "parameters")
    )
    if trained is None or not whole:
        return _goal(name, None, "not measured")
    # Small models have no such goal, because a useful adapter is a larger share of them.
    met = trained <= TRAINABLE_SHARE * whole if whole > LARGE_PARAMETERS else None
    return _goal(name, met, f"{trained:,.0f} of {whole:,.0f} = {trained / whole:.1%}")
