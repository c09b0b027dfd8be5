"""What the audit measures, against values worked out by hand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from models.audit.divergence import euclidean, jensen_shannon, symmetrized_kl
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
        # Of the four pairs three are in order.
        ((0, 1, 0, 1), (0.1, 0.2, 0.3, 0.4), 0.75),
        # One pair in order, one tied (a half), of two.
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
    found = log_losses(floats(1, 0, 1, 0), floats(LIKELY, LIKELY, 0, -1000))
    assert found == pytest.approx([math.log(4 / 3), math.log(4), math.log(2), 0])


def test_log_losses_of_certain_mistakes_are_finite() -> None:
    assert log_losses(floats(0, 1), floats(1000, -1000)) == pytest.approx([1000, 1000])


def test_utility() -> None:
    found = utility(floats(1, 0, 0, 1), floats(LIKELY, UNLIKELY, LIKELY, 0.0))
    # Pairs of (liked, not): 3/4 > 1/4, 3/4 = 3/4, 1/2 > 1/4, 1/2 < 3/4.
    assert found["auc"] == pytest.approx(2.5 / 4)
    assert found["accuracy"] == pytest.approx(0.5)
    assert found["log_loss"] == pytest.approx((2 * math.log(4 / 3) + math.log(4) + math.log(2)) / 4)


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


def test_item_mean_is_shrunk_towards_the_overall_share() -> None:
    train = samples([0, 0, 0, 1], [1, 1, 1, 0])
    found = item_mean_margins(train, samples([0, 1, 2], [0, 0, 0]), 3)
    # Overall 3/4, as five pseudo-ratings: (3 + 3.75) / 8, (0 + 3.75) / 6, and 3/4 itself.
    shares = [6.75 / 8, 3.75 / 6, 0.75]
    assert found == pytest.approx([math.log(share / (1 - share)) for share in shares])


def test_item_mean_stays_finite_where_everything_is_liked() -> None:
    train = samples([0, 0], [1, 1])
    assert np.isfinite(item_mean_margins(train, samples([0, 1], [1, 1]), 2)).all()


def test_jensen_shannon() -> None:
    # 3/4 against 1/4 meet at 1/2, each as far away as the other.
    by_hand = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert jensen_shannon(floats(LIKELY), floats(UNLIKELY)) == pytest.approx(by_hand)
    assert jensen_shannon(floats(800), floats(-800)) == pytest.approx(math.log(2))


def test_symmetrized_kl() -> None:
    assert symmetrized_kl(floats(LIKELY), floats(UNLIKELY)) == pytest.approx(math.log(3) / 2)
    # Against one half the two directions differ, and their mean is 1/8 ln 3.
    assert symmetrized_kl(floats(LIKELY), floats(0)) == pytest.approx(math.log(3) / 8)


def test_euclidean() -> None:
    # (3/4, 1/4) − (1/4, 3/4) has length √(1/4 + 1/4).
    assert euclidean(floats(LIKELY), floats(UNLIKELY)) == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize("distance", [jensen_shannon, symmetrized_kl, euclidean])
def test_distances_are_symmetric_means_and_zero_of_the_same(distance: Distance) -> None:
    one, two = floats(LIKELY, 0.3), floats(UNLIKELY, 0.3)
    assert distance(one, one) == pytest.approx(0)
    assert distance(one, two) == pytest.approx(distance(two, one))
    assert distance(one, two) == pytest.approx(distance(one[:1], two[:1]) / 2)


def test_members_with_lower_losses_are_recognized() -> None:
    found = membership_auc(floats(0.1, 0.2, 0.3), floats(0.4, 0.5))
    assert found == {"auc": 1.0, "interval": [1.0, 1.0], "advantage": 0.5}


def test_members_with_higher_losses_stand_out_as_well() -> None:
    found = membership_auc(floats(0.9, 0.8), floats(0.1, 0.2, 0.3))
    assert found["auc"] == 0.0
    assert found["advantage"] == 0.5


def test_membership_is_a_coin_toss_where_losses_are_alike() -> None:
    rng = np.random.default_rng(0)
    found = membership_auc(rng.exponential(size=300), rng.exponential(size=300))
    low, high = found["interval"]
    assert low < 0.5 < high
    assert low < found["auc"] < high
    assert high - low < 0.15
    assert found["advantage"] == pytest.approx(abs(found["auc"] - 0.5))


def test_membership_of_few_rows_has_a_wide_interval() -> None:
    rng = np.random.default_rng(0)
    found = membership_auc(rng.exponential(size=8), rng.exponential(size=8))
    assert found["interval"][1] - found["interval"][0] > 0.3
