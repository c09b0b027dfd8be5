"""Test the losses against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from models.unlearning.losses import (
    answer_kl,
    answer_log_probability,
    distribution_kl,
    forgetting_margins,
    negative_preference,
    published_forgetting_logits,
    simple_negative_preference,
    solve_alpha,
)

#: The margins of P(Yes) = 3/4 and 1/4.
LIKELY, UNLIKELY = math.log(3), -math.log(3)


def test_kl_of_three_quarters_against_one_half() -> None:
    # 3/4 ln(3/4 / 1/2) + 1/4 ln(1/4 / 1/2)
    by_hand = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    divergence = answer_kl(torch.tensor([LIKELY]), torch.tensor([0.0]))
    assert divergence.item() == pytest.approx(by_hand, abs=1e-6)


def test_kl_is_directed_from_teacher_to_student() -> None:
    # 1/2 ln(1/2 / 3/4) + 1/2 ln(1/2 / 1/4), which differs from the other direction.
    by_hand = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    divergence = answer_kl(torch.tensor([0.0]), torch.tensor([LIKELY]))
    assert divergence.item() == pytest.approx(by_hand, abs=1e-6)


def test_kl_is_the_mean_over_rows() -> None:
    # One row agrees; the other has 3/4 against 1/4: ln 3 · (3/4 − 1/4).
    divergence = answer_kl(torch.tensor([LIKELY, LIKELY]), torch.tensor([LIKELY, UNLIKELY]))
    assert divergence.item() == pytest.approx(math.log(3) / 4, abs=1e-6)


def test_kl_over_a_vocabulary_is_the_mean_over_rows() -> None:
    # One row agrees; the other has (1/2, 1/4, 1/4) against (1/4, 1/4, 1/2):
    # 1/2 ln 2 + 1/4 ln 1 + 1/4 ln(1/2) = 1/4 ln 2.
    teacher = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]).log() + 3.0
    student = torch.tensor([[0.25, 0.25, 0.5], [0.2, 0.2, 0.6]]).log()
    divergence = distribution_kl(teacher, student)
    assert divergence.item() == pytest.approx(math.log(2) / 8, abs=1e-6)


def test_kl_of_two_answers_is_the_kl_of_their_margins() -> None:
    teacher, student = (
        torch.tensor([[2.0, 1.0], [0.0, 3.0]]),
        torch.tensor([[1.0, 1.5], [4.0, 4.0]]),
    )
    margins = answer_kl(teacher[:, 0] - teacher[:, 1], student[:, 0] - student[:, 1])
    assert distribution_kl(teacher, student).item() == pytest.approx(margins.item(), abs=1e-6)


def test_kl_and_its_gradient_are_zero_for_equal_margins() -> None:
    student = torch.tensor([LIKELY, -2.0, 0.0], requires_grad=True)
    loss = answer_kl(student.detach().clone(), student)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert student.grad is not None
    assert student.grad.abs().max().item() == pytest.approx(0, abs=1e-6)


def test_kl_gradient_is_the_difference_of_the_probabilities() -> None:
    student = torch.tensor([0.0], requires_grad=True)
    answer_kl(torch.tensor([LIKELY]), student).backward()
    assert student.grad is not None
    assert student.grad.item() == pytest.approx(0.5 - 0.75, abs=1e-6)


def test_kl_is_finite_for_certain_answers() -> None:
    divergence = answer_kl(torch.tensor([80.0, -80.0]), torch.tensor([-80.0, -80.0]))
    assert divergence.item() == pytest.approx((80 + 0) / 2, rel=1e-5)


def test_the_forgetting_teacher_moves_against_the_augmented_model() -> None:
    original, augmented = torch.tensor([1.0, -1.0, 0.5]), torch.tensor([3.0, -1.5, 0.5])
    teacher = forgetting_margins(original, augmented, 0.5)
    assert teacher.tolist() == pytest.approx([0.0, -0.75, 0.5])
    assert torch.equal(forgetting_margins(original, augmented, 0.0), original)


def loss(margins: torch.Tensor, labels: torch.Tensor) -> float:
    return functional.binary_cross_entropy_with_logits(margins, labels).item()


def test_alpha_by_hand() -> None:
    # The loss of label 1 is ln(1 + e^−m): ln(4/3) at m = ln 3, and the target is ln 2 at m = 0.
    # The augmented margin is 1 higher, so that the teacher is 1 lower per unit of α: α = ln 3.
    original, labels = torch.tensor([LIKELY]), torch.ones(1)
    alpha = solve_alpha(original, original + 1, labels, math.log(2) - math.log(4 / 3))
    assert alpha == pytest.approx(LIKELY, abs=1e-4)


@pytest.mark.parametrize("loss_increase", [0.01, 0.1, 1.0])
def test_alpha_gives_the_loss_increase(loss_increase: float) -> None:
    generator = torch.Generator().manual_seed(0)
    original = torch.randn(200, generator=generator)
    labels = (torch.rand(200, generator=generator) < torch.sigmoid(original)).float()
    augmented = original + (2 * labels - 1) * torch.rand(200, generator=generator)
    alpha = solve_alpha(original, augmented, labels, loss_increase)
    reached = loss(forgetting_margins(original, augmented, alpha), labels)
    assert 0 < alpha < 16
    assert reached - loss(original, labels) == pytest.approx(loss_increase, abs=1e-4)


def test_alpha_is_capped() -> None:
    original, labels = torch.tensor([1.0]), torch.ones(1)
    barely_moved = original + 1e-4
    assert solve_alpha(original, barely_moved, labels, 5.0) == pytest.approx(16, abs=1e-6)


def test_alpha_is_zero_without_a_loss_increase() -> None:
    original, labels = torch.tensor([1.0, -0.5]), torch.tensor([1.0, 0.0])
    assert solve_alpha(original, original * 2, labels, 0.0) == pytest.approx(0, abs=1e-6)


def test_answer_log_probability_is_that_of_the_label() -> None:
    margins = torch.tensor([math.log(3), math.log(3), 50.0, -50.0])
    values = answer_log_probability(margins, torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert values.tolist() == pytest.approx([math.log(0.75), math.log(0.25), -50.0, 0.0], abs=1e-6)


def test_npo_by_hand() -> None:
    """π = 3/4 against π_ref = 1/2: ratio 3/2, and σ(−β log r) = 1 / (1 + r^β)."""
    npo = negative_preference(torch.tensor([math.log(3)]), torch.zeros(1), torch.ones(1), beta=2.0)
    assert npo.item() == pytest.approx(math.log(1 + 1.5**2))


def test_npo_of_equal_margins_is_two_over_beta_times_log_two() -> None:
    margins = torch.tensor([0.3, -2.0])
    npo = negative_preference(margins, margins, torch.tensor([1.0, 0.0]), beta=0.1)
    assert npo.item() == pytest.approx(20 * math.log(2), rel=1e-5)


def test_npo_is_gradient_ascent_for_small_beta_and_stops_on_forgotten_rows() -> None:
    def slope(margin: float, beta: float) -> float:
        student = torch.tensor([margin], requires_grad=True)
        negative_preference(student, torch.zeros(1), torch.ones(1), beta).backward()
        assert student.grad is not None
        return student.grad.item()

    # d/dm log π = 1 − σ(m) is the slope of gradient ascent.
    assert slope(0.0, 1e-4) == pytest.approx(0.5, rel=1e-3)
    assert slope(-8.0, 1e-4) == pytest.approx(1.0, rel=1e-2)
    assert slope(-8.0, 2.0) < 1e-5


def test_simnpo_by_hand() -> None:
    """π = 3/4, β = 2: −log σ(−2 log π) = log(1 + π²)."""
    simnpo = simple_negative_preference(torch.tensor([math.log(3)]), torch.ones(1), beta=2.0)
    assert simnpo.item() == pytest.approx(math.log(1 + 0.75**2))


def test_the_published_teacher_lowers_only_increased_logits() -> None:
    original = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    augmented = torch.tensor([[2.0, 1.0], [1.0, 1.0]])
    teacher = published_forgetting_logits(original, augmented, 2.0)
    assert teacher.tolist() == [[-1.0, 2.0], [-2.0, -2.0]]
