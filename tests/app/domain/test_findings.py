"""Every kind of sentence about the audit of a request, a batch and a certificate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.domain.batch_audits import batch_sentence
from app.domain.findings import AuditFinding, Prospect, certified_sentence, finding
from app.domain.requests import Assurance, Outcome, Scope
from app.services.certificates import content_of

FIXTURES = Path(__file__).parents[2] / "fixtures"
DUE = Prospect(assurance=Assurance.APPROXIMATE, due_on="2026-12-29")
EXACT = Prospect(assurance=Assurance.EXACT, exact_on="2026-12-01")
RENEWAL = " The renewal by 2026-12-29 trains the model without the erased rows."


def figures(
    outcome: str,
    reason: str,
    *,
    rows: int = 57,
    share: float | None = 0.92,
    width: float = 0.21,
    kind: str = "user",
) -> dict[str, Any]:
    """Return the figures of a request of one judged person."""
    interval = None if share is None else [round(share - width, 2), round(share + width, 2)]
    verdict = {
        "outcome": outcome,
        "reason": reason,
        "kind": kind,
        "rows": rows,
        "share": share,
        "interval": interval,
        "confidence": 0.9,
    }
    return {"forget": {"rows": rows, "verdict": verdict, "persons": {outcome: 1}}}


def sentence(scope: Scope | None, outcome: Outcome, *arguments: Any, **options: Any) -> str:
    return finding(scope, outcome, *arguments, **options).sentence


def test_person_who_passed() -> None:
    found = finding(Scope.USER, Outcome.PASSED, figures("passed", "as if never trained"), DUE)
    assert found == AuditFinding(
        sentence="The audit passed: the answers about this person changed by 92 % of what is"
        " expected of a model that never had the data (90 % interval 71 % to 113 %), from 57 rows."
        + RENEWAL,
        outcome="passed",
        reason="as if never trained",
        rows=57,
        share=0.92,
        interval=(0.71, 1.13),
        confidence=0.9,
        persons={"passed": 1},
    )
    assert json.loads(json.dumps(found.values()))["interval"] == [0.71, 1.13]


def test_person_whose_rows_cannot_tell() -> None:
    unsure = figures("inconclusive", "the rows cannot tell", rows=6, share=None)
    found = finding(Scope.USER, Outcome.INCONCLUSIVE, unsure, DUE)
    assert found.sentence == (
        "The audit cannot tell from 6 rows whether this person was forgotten: the rows cannot tell."
        + RENEWAL
    )
    assert (found.share, found.interval, found.confidence) == (None, None, None)


def test_interval_that_excludes_retraining_is_stated() -> None:
    unsure = figures("inconclusive", "the rows cannot tell", rows=1, share=-0.04)
    assert sentence(Scope.USER, Outcome.INCONCLUSIVE, unsure) == (
        "The audit cannot tell from 1 row whether this person was forgotten: the rows cannot tell."
        " The answers about this person changed by -4 % of what is expected of a model that never"
        " had the data (90 % interval -25 % to 17 %)."
    )


NOT_MEASURED = (
    " How much the answers changed cannot be measured, because the rows are too few or the expected"
    " change is too small: the answers may be unchanged, and may be those of a model that never had"
    " the data."
)


@pytest.mark.parametrize(
    ("share", "width", "is_stated"),
    [
        (2.58, 7.48, False),  # The interval contains 0 (nothing changed) and 1 (as retrained).
        (0.5, 0.5, False),
        (-3.0, 4.0, False),
        (0.51, 0.5, True),
        (0.49, 0.5, True),
        (2.58, 1.0, True),
    ],
)
def test_change_that_tells_nothing_is_only_a_value(
    share: float, width: float, is_stated: bool
) -> None:
    values = figures("inconclusive", "the rows cannot tell", share=share, width=width)
    found = finding(Scope.USER, Outcome.INCONCLUSIVE, values, DUE)
    assert ("% of what is expected" in found.sentence) is is_stated
    assert found.sentence.endswith(f"the rows cannot tell.{NOT_MEASURED}{RENEWAL}") is not is_stated
    assert (found.share, found.interval, found.confidence) == (
        share,
        (round(share - width, 2), round(share + width, 2)),
        0.9,
    )


def test_person_who_failed() -> None:
    text = sentence(Scope.USER, Outcome.FAILED, figures("failed", "too little", share=0.1))
    assert text.startswith("The audit failed from 57 rows: too little. The answers about this")
    # The sentence that both are possible would contradict the failure.
    unmeasured = figures("failed", "too many answers did not change at all", width=1.5)
    assert sentence(Scope.USER, Outcome.FAILED, unmeasured) == (
        "The audit failed from 57 rows: too many answers did not change at all."
    )


def test_single_interactions_have_their_own_words() -> None:
    of_pairs = figures("inconclusive", "one row", rows=11, share=None, kind="pair")
    assert "whether these interactions were forgotten" in sentence(
        Scope.USER_ITEMS, Outcome.INCONCLUSIVE, of_pairs
    )
    # In a batch that forgets the person altogether, the verdict is on all rows of the person.
    of_person = figures("inconclusive", "one row", rows=57, share=None)
    assert "whether this person was forgotten" in sentence(
        Scope.USER_ITEMS, Outcome.INCONCLUSIVE, of_person
    )


def test_item_counts_its_persons() -> None:
    persons = {"passed": 3, "failed": 0, "inconclusive": 21}
    of_item = {"forget": {"rows": 2_100, "persons": persons}}
    found = finding(Scope.ITEM, Outcome.INCONCLUSIVE, of_item, DUE)
    assert found.sentence == (
        "This deletion erases training rows of 24 people: the audit passed for 3, failed for 0 and"
        " cannot tell for 21." + RENEWAL
    )
    assert (found.persons, found.rows, found.share) == (persons, 2_100, None)


def test_item_with_one_rater_says_so() -> None:
    text = sentence(Scope.ITEM, Outcome.PASSED, figures("passed", "as if never trained"))
    assert text.startswith("This deletion erases training rows of 1 person: the audit passed for 1")


def test_exact_at_completion_and_later() -> None:
    strong = (
        "The model was trained without the erased rows of this person: no weight, vocabulary entry,"
        " time bound or choice of a checkpoint saw these rows. This model serves since 2026-12-01."
    )
    assert sentence(Scope.USER, Outcome.EXACT, None, EXACT) == strong
    after = sentence(Scope.USER, Outcome.EXACT, {"failed_attempts": 2}, EXACT)
    assert after == (
        "2 attempts at fast unlearning failed the audit and were never served. " + strong
    )
    once = sentence(Scope.USER, Outcome.PASSED, figures("passed", "r") | {"failed_attempts": 1})
    assert once.startswith("One attempt at fast unlearning failed the audit and was never served.")
    unsure = sentence(Scope.USER, Outcome.INCONCLUSIVE, figures("inconclusive", "r"), EXACT)
    assert unsure.endswith(
        "Since 2026-12-01, a model serves that was trained without the erased rows of this person."
    )
    # Weights of which no training from scratch is recorded.
    weak = sentence(Scope.USER, Outcome.EXACT, None, DUE)
    assert weak == "The weights were made again without the erased rows of this person." + RENEWAL


@pytest.mark.parametrize(
    ("values", "has_release", "text"),
    [
        (
            {"known_rows": 0},
            True,
            (
                "By the record of training, the model never had a row of this person, so nothing"
                " had to be unlearned. The deletion is exact."
            ),
        ),
        (
            {"known_rows": 0, "carried_over": True},
            True,
            (
                "By the record of training, the model never had a row of this person, so nothing"
                " had to be unlearned and the weights were kept. The deletion is exact."
            ),
        ),
        (
            {"known_rows": 20},
            True,
            (
                "By the record of training, 20 rows existed at the training, but no row of this"
                " person trained the weights, so nothing had to be unlearned. The deletion is"
                " exact."
            ),
        ),
        (
            None,
            True,
            (
                "No stored row of this person trained the weights. It is not recorded whether rows"
                " that an earlier job deleted did. The deletion is exact."
            ),
        ),
        (
            None,
            False,
            (
                "No model existed yet when the deletion of this person was completed. The deletion"
                " is exact."
            ),
        ),
    ],
)
def test_not_in_the_weights(values: dict[str, Any] | None, has_release: bool, text: str) -> None:
    made = sentence(Scope.USER, Outcome.NOT_APPLICABLE, values, EXACT, has_release=has_release)
    assert made == text


def test_rows_that_only_chose_a_checkpoint_were_not_measured() -> None:
    values = {"forget": {"rows": 0}, "validation_rows": 12}
    assert sentence(Scope.USER, Outcome.INCONCLUSIVE, values) == (
        "No row of this person trained the weights, but 12 rows chose between states of the"
        " training, which the audit does not measure."
    )


def test_request_that_was_not_judged_alone() -> None:
    assert sentence(Scope.USER, Outcome.INCONCLUSIVE, None) == (
        "No audit of this person alone is recorded, so it cannot be told whether this person was"
        " forgotten."
    )
    assert sentence(None, Outcome.PASSED, {"forget": {"rows": 7}}) == (
        "The audit passed for the batch as a whole, which does not show whether this person was"
        " forgotten."
    )


def test_renewals_that_are_off_or_without_a_date() -> None:
    off = Prospect(assurance=Assurance.APPROXIMATE, due_on="2026-12-29", is_off=True)
    text = sentence(Scope.USER, Outcome.INCONCLUSIVE, None, off)
    assert text.endswith("No exact training is promised, because LETHE_EXACT is off.")
    undated = Prospect(assurance=Assurance.APPROXIMATE)
    assert sentence(Scope.USER, Outcome.INCONCLUSIVE, None, undated).endswith("was forgotten.")


def test_adopted_request_names_the_request_that_was_audited() -> None:
    values = {"forget": {"rows": 3, "persons": {"inconclusive": 2}}, "included_in": "req_7"}
    assert sentence(Scope.USER_ITEMS, Outcome.INCONCLUSIVE, values).startswith(
        "Deleted together with the request req_7, whose audit this is. "
    )


def test_bounds_that_are_not_finite_are_not_shown() -> None:
    values = figures("inconclusive", "one row")
    values["forget"]["verdict"]["interval"] = [None, 2.0]
    assert "interval" not in sentence(Scope.USER, Outcome.INCONCLUSIVE, values | {})


BATCH = {
    "reason": "as if never trained",
    "people": {"passed": 20, "failed": 0, "inconclusive": 12},
    "config": {"pass_level": 0.05},
    "kinds": {"user": {"rows": 3050, "shares": {"answers": {"share": 1, "interval": [0.8, 1.2]}}}},
}


@pytest.mark.parametrize(
    ("outcome", "audit", "text"),
    [
        (
            Outcome.PASSED,
            BATCH,
            (
                "32 people in the batch: the audit passed for 20, failed for 0 and cannot tell for"
                " 12. The batch as a whole passed: as if never trained. Together, the answers"
                " changed by 100 % of what is expected of a model that never had the data (90 %"
                " interval 80 % to 120 %), from 3,050 rows."
            ),
        ),
        (
            Outcome.INCONCLUSIVE,
            BATCH | {"kinds": {"user": {"shares": {"answers": {"share": 1, "interval": [-2, 4]}}}}},
            (
                "32 people in the batch: the audit passed for 20, failed for 0 and cannot tell for"
                f" 12. The batch as a whole cannot be told: as if never trained.{NOT_MEASURED}"
            ),
        ),
        (
            Outcome.FAILED,
            {"reason": "1 of 32 people failed: too little"},
            (
                "The batch as a whole failed: 1 of 32 people failed: too little. These weights were"
                " never served."
            ),
        ),
        (Outcome.FAILED, {"diverged": True}, "The training diverged. These weights were never"),
        (Outcome.INCONCLUSIVE, {}, "The batch as a whole cannot be told."),
        (Outcome.EXACT, {}, "Trained from scratch without the data of the batch"),
        (Outcome.NOT_APPLICABLE, {}, "The weights do not depend on the data of the batch"),
    ],
)
def test_batch(outcome: Outcome, audit: dict[str, Any], text: str) -> None:
    assert (batch_sentence(outcome, audit) or "").startswith(text)


def test_first_release_has_no_sentence() -> None:
    assert batch_sentence(None, {}) is None


def test_certificate_of_this_version_repeats_its_sentence() -> None:
    assert certified_sentence({"finding": {"sentence": "As signed."}, "outcome": "passed"}) == (
        "As signed."
    )


def test_certificates_of_earlier_versions_claim_nothing_about_the_person() -> None:
    earlier = json.loads((FIXTURES / "earlier_installation" / "certificate.json").read_text())
    content = content_of(earlier)
    assert certified_sentence(content) == (
        "No audit of this person alone is recorded, so it cannot be told whether this person was"
        " forgotten."
    )
    assert certified_sentence(content | {"outcome": "passed"}) == (
        "The audit passed for the batch as a whole, which does not show whether this person was"
        " forgotten."
    )
    judged = {
        "scope": "user",
        "outcome": "inconclusive",
        "release": "rel_1",
        "assurance": "approximate",
        "exact": {"mode": "soon", "due_at": "2026-12-29T06:13:52+00:00"},
        "figures": figures("inconclusive", "the rows cannot tell", share=None),
    }
    assert (certified_sentence(judged) or "").endswith("the rows cannot tell." + RENEWAL)
    assert certified_sentence({"outcome": "unheard of"}) is None
    assert certified_sentence({}) is None
