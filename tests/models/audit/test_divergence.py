"""Test the audit's measures against values computed by hand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from models.audit.divergence import euclidean, jensen_shannon, symmetrized_kl
from models.audit.drift import RowLosses
from models.audit.membership import membership_auc
from models.data.metrics import auc, item_mean_margins, log_losses, utility
from models.data.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Distance = Callable[[NDArray[np.float64], NDArray[np.float64]], float]

#: The margins of P(Yes) = 3/4 and 1/4.
LIKELY, UNLIKELY = math.log(3), -math.log(3)


def floats(*values: float) -> NDArray[np.float64]:
    return np.array(values, np.float64)


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ((0, 0, 1, 1), (0.1, 0.2, 0.3, 0.4), 1.0),
        ((1, 1, 0, 0), (0.1, 0.2, 0.3, 0.4), 0.0),
        # Three of four pairs are in order.
        ((0, 1, 0, 1), (0.1, 0.2, 0.3, 0.4), 0.75),
        # Of two pairs, one is in order and one is tied (a half).
        ((0, 1, 0), (0.1, 0.2, 0.2), 0.75),
        ((0, 1, 0, 1), (5.0, 5.0, 5.0, 5.0), 0.5),
    ],
)
def test_auc(labels: tuple[int, ...], scores: tuple[float, ...], expected: float) -> None:
    assert auc(floats(*labels), floats(*scores)) == pytest.approx(expected)


@pytest.mark.parametrize("labels", [(1, 1), (0, 0), ()])
def test_auc_of_one_class_is_undefined(labels: tuple[int, ...]) -> None:
    assert math.isnan(auc(floats(*labels), floats(*range(len(labels)))))


def test_log_losses() -> None:
    losses = log_losses(floats(1, 0, 1, 0), floats(LIKELY, LIKELY, 0, -1000))
    assert losses == pytest.approx([math.log(4 / 3), math.log(4), math.log(2), 0])


def test_log_losses_of_certain_mistakes_are_finite() -> None:
    assert log_losses(floats(0, 1), floats(1000, -1000)) == pytest.approx([1000, 1000])


def test_utility() -> None:
    figures = utility(floats(1, 0, 0, 1), floats(LIKELY, UNLIKELY, LIKELY, 0.0))
    # Pairs of (liked, not): 3/4 > 1/4, 3/4 = 3/4, 1/2 > 1/4, 1/2 < 3/4.
    assert figures["auc"] == pytest.approx(2.5 / 4)
    assert figures["accuracy"] == pytest.approx(0.5)
    mean_loss = (2 * math.log(4 / 3) + math.log(4) + math.log(2)) / 4
    assert figures["log_loss"] == pytest.approx(mean_loss)


def test_utility_of_no_rows_is_undefined() -> None:
    assert all(math.isnan(value) for value in utility(floats(), floats()).values())


def samples(candidates: list[int], labels: list[int]) -> Samples:
    count = len(candidates)
    return Samples(
        user=np.zeros(count, np.int32),
        candidate=np.array(candidates, np.int32),
        label=np.array(labels, np.float32),
        timestamp=np.zeros(count, np.int64),
        history=np.full((count, 10), -1, np.int32),
        history_rating=np.zeros((count, 10), np.int64),
        earlier=np.full(count, 5, np.int32),
    )


def test_item_mean_is_shrunk_toward_the_overall_share() -> None:
    train = samples([0, 0, 0, 1], [1, 1, 1, 0])
    item_margins = item_mean_margins(train, samples([0, 1, 2], [0, 0, 0]), 3)
    # Overall 3/4, as five pseudo-ratings: (3 + 3.75) / 8, (0 + 3.75) / 6, and 3/4 itself.
    shares = [6.75 / 8, 3.75 / 6, 0.75]
    assert item_margins == pytest.approx([math.log(share / (1 - share)) for share in shares])


def test_item_mean_is_finite_where_all_ratings_are_liked() -> None:
    train = samples([0, 0], [1, 1])
    assert np.isfinite(item_mean_margins(train, samples([0, 1], [1, 1]), 2)).all()


def test_jensen_shannon() -> None:
    # The mean of 3/4 and 1/4 is 1/2, at the same distance from both.
    by_hand = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert jensen_shannon(floats(LIKELY), floats(UNLIKELY)) == pytest.approx(by_hand)
    assert jensen_shannon(floats(800), floats(-800)) == pytest.approx(math.log(2))


def test_symmetrized_kl() -> None:
    assert symmetrized_kl(floats(LIKELY), floats(UNLIKELY)) == pytest.approx(math.log(3) / 2)
    # Against 1/2 the two directions differ; their mean is 1/8 ln 3.
    assert symmetrized_kl(floats(LIKELY), floats(0)) == pytest.approx(math.log(3) / 8)


def test_euclidean() -> None:
    # (3/4, 1/4) − (1/4, 3/4) has length √(1/4 + 1/4).
    assert euclidean(floats(LIKELY), floats(UNLIKELY)) == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize("distance", [jensen_shannon, symmetrized_kl, euclidean])
def test_distances_are_symmetric_means_and_zero_for_equal_margins(distance: Distance) -> None:
    first, second = floats(LIKELY, 0.3), floats(UNLIKELY, 0.3)
    assert distance(first, first) == pytest.approx(0)
    assert distance(first, second) == pytest.approx(distance(second, first))
    assert distance(first, second) == pytest.approx(distance(first[:1], second[:1]) / 2)


def test_members_with_lower_losses_have_auc_1() -> None:
    figures = membership_auc(of_people(floats(0.1, 0.2, 0.3)), of_people(floats(0.4, 0.5)))
    assert figures == {"auc": 1.0, "interval": [1.0, 1.0], "advantage": 0.5}


def test_members_with_higher_losses_have_auc_0_and_full_advantage() -> None:
    figures = membership_auc(of_people(floats(0.9, 0.8)), of_people(floats(0.1, 0.2, 0.3)))
    assert figures["auc"] == 0.0
    assert figures["advantage"] == 0.5


def test_equally_distributed_losses_have_auc_one_half() -> None:
    rng = np.random.default_rng(0)
    figures = membership_auc(
        of_people(rng.exponential(size=300)), of_people(rng.exponential(size=300))
    )
    low, high = figures["interval"]
    assert low < 0.5 < high
    assert low < figures["auc"] < high
    assert high - low < 0.15
    assert figures["advantage"] == pytest.approx(abs(figures["auc"] - 0.5))


@pytest.mark.parametrize("people", [1, 8])
def test_few_rows_have_a_wide_membership_interval(people: int) -> None:
    rng = np.random.default_rng(0)
    members, others = (of_people(rng.exponential(size=8), people) for _ in range(2))
    low, high = membership_auc(members, others)["interval"]
    assert high - low > 0.3


def test_copies_of_peoples_rows_do_not_narrow_the_membership_interval() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for copies in (1, 50):
        members, others = (
            of_people(np.repeat(side, copies), 20) for side in rng.exponential(size=(2, 20))
        )
        low, high = membership_auc(members, others)["interval"]
        widths.append(high - low)
    assert widths[1] > 0.7 * widths[0]


def test_membership_without_holdout_rows_is_not_a_number() -> None:
    figures = membership_auc(of_people(floats(0.1, 0.2)), of_people(np.empty(0)))
    assert np.isnan([figures["auc"], *figures["interval"]]).all()


def of_people(losses: np.ndarray, people: int | None = None) -> RowLosses:
    """Return losses with users in order; by default, each row is that of another person."""
    people = people or len(losses)
    users = np.arange(len(losses)) * people // max(len(losses), 1)
    return RowLosses(users=users.astype(np.int32), losses=losses)
