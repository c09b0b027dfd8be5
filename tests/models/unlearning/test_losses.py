"""Test the losses against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from models.unlearning.losses import (
    answer_kl,
    answer_log_probability,
    distribution_kl,
    negative_preference,
    published_forgetting_logits,
    simple_negative_preference,
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


def test_the_margin_of_simnpo_by_hand() -> None:
    """π = 3/4, β = 2, γ = ln 2: −log σ(−2 log π − ln 2) = log(1 + 2 π²)."""
    margins, labels = torch.tensor([math.log(3)]), torch.ones(1)
    simnpo = simple_negative_preference(margins, labels, beta=2.0, gamma=math.log(2))
    assert simnpo.item() == pytest.approx(math.log(1 + 2 * 0.75**2))


def test_the_published_teacher_lowers_only_increased_logits() -> None:
    original = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    augmented = torch.tensor([[2.0, 1.0], [1.0, 1.0]])
    teacher = published_forgetting_logits(original, augmented, 2.0)
    assert teacher.tolist() == [[-1.0, 2.0], [-2.0, -2.0]]
