"""The figures of a certificate for its page: plots with intervals, and rows of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from app.web.interval_plot import Interval, Plot, interval_plot
from app.web.page_values import known, nats, percent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Shares outside these limits are cut, so that a wide interval leaves the others legible.
_SHARE_LIMITS: Final = (-1.5, 2.5)
_SHARE_MARKS: Final = ((0.0, "0%"), (1.0, "100%"))
_SHARE_NOTE: Final = (
    "0%: the answers did not change, so nothing was forgotten. 100%: the answers changed as much as"
    " is expected of a model that never had the data."
)
_LOSS_NOTE: Final = (
    "Change of the mean loss per row, in nats. Positive: the model predicts these rows worse than"
    " the model before. No model is trained on holdout users and test rows."
)
_LOSSES: Final = (
    ("forget", "forgotten rows"),
    ("holdout", "holdout users"),
    ("cohort", "holdout users"),  # the key of earlier versions
    ("test", "test rows"),
)
_VIEWS: Final = {
    "answers": "answers",
    "neighbors": "neighboring prompts",
    "exposure": "how often the items surface",
}
_KINDS: Final = {"user": "people", "item": "items", "pair": "single interactions"}


def plots(content: Mapping[str, Any]) -> list[Plot]:
    """Return the plots for which the certificate has figures."""
    result = []
    own = _own_share(content)
    if own is not None:
        title = "How much the answers changed: this request"
        note = _SHARE_NOTE + (f" {_UNMEASURED}" if _says_nothing(own) else "")
        result.append(_share_plot(title, note, [own]))
    audit = _batch_audit(content)
    shares = list(_batch_shares(audit))
    if shares:
        title = "How much the answers changed: all requests of the job together"
        result.append(_share_plot(title, f"{_SHARE_NOTE} {_BATCH}", shares))
    losses = list(_losses(audit))
    if losses:
        title = "How the losses changed: all requests of the job together"
        marks = ((0.0, "no change"),)
        result.append(interval_plot(title, _LOSS_NOTE, losses, marks, text_of=nats))
    return result


_UNMEASURED: Final = (
    "The interval contains both, so the rows cannot show how much the answers changed."
)
_BATCH: Final = "Figures of all requests together prove nothing about one person."


def figure_rows(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values of the audit of this request, and of an exact training."""
    finding = content.get("finding") or {}
    rows = []
    for name, key in (("rows judged", "rows"), ("reason", "reason")):
        if finding.get(key) is not None:
            rows.append((name, str(finding[key])))
    if finding.get("confidence") is not None:
        rows.append(("confidence of the interval", percent(finding["confidence"])))
    persons = finding.get("persons") or {}
    rows += [(f"persons: {outcome.replace('_', ' ')}", str(n)) for outcome, n in persons.items()]
    if finding.get("failed_attempts"):
        rows.append(("failed attempts, never served", str(finding["failed_attempts"])))
    training = content.get("training") or {}
    for name, key in (
        ("ratings in the exact training", "ratings"),
        ("data version of its snapshot", "data_version"),
        ("seed of the exact training", "seed"),
    ):
        if key in training:
            rows.append((name, known(training[key])))
    if training.get("seconds") is not None:
        rows.append(("seconds of the exact training", f"{training['seconds']:.0f}"))
    return rows


def _share_plot(title: str, note: str, intervals: list[Interval]) -> Plot:
    return interval_plot(
        title, note, intervals, _SHARE_MARKS, text_of=percent, limits=_SHARE_LIMITS
    )


def _own_share(content: Mapping[str, Any]) -> Interval | None:
    finding = content.get("finding") or {}
    interval = finding.get("interval")
    if interval is None:
        return None
    low, high = interval
    return Interval(label="answers", mean=finding.get("share"), low=low, high=high)


def _says_nothing(share: Interval) -> bool:
    """Return whether the interval contains 0 and 1."""
    return (share.low is None or share.low <= 0) and (share.high is None or share.high >= 1)


def _batch_audit(content: Mapping[str, Any]) -> Mapping[str, Any]:
    figures = (content.get("batch") or {}).get("figures") or {}
    audit: Mapping[str, Any] = figures.get("audit") or {}
    return audit


def _batch_shares(audit: Mapping[str, Any]) -> Iterator[Interval]:
    kinds = audit.get("kinds") or {}
    for kind, figures in kinds.items():
        for view, share in (figures.get("shares") or {}).items():
            low, high = share["interval"]
            name = _VIEWS.get(view, view)
            label = name if len(kinds) == 1 else f"{_KINDS.get(kind, kind)}: {name}"
            yield Interval(label=label, mean=share["share"], low=low, high=high)


def _losses(audit: Mapping[str, Any]) -> Iterator[Interval]:
    for key, name in _LOSSES:
        change = audit.get(key)
        if isinstance(change, dict) and "interval" in change:
            low, high = change["interval"]
            yield Interval(label=name, mean=change["mean"], low=low, high=high)
