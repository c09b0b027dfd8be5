"""Losses of unlearning as pure tensor functions of margins. Nothing about models.

A margin is the logit of Yes minus the logit of No. Two logits are defined only up to a constant;
their margin is not, which is why everything here works on margins.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def answer_kl(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Return the mean over [B] rows of KL(teacher ‖ student) between Yes/No answers, in nats.

    Source: E2URec (arXiv 2403.03536), both teachers' losses.
    """
    probability = torch.sigmoid(teacher)
    cross = functional.binary_cross_entropy_with_logits(student, probability)
    return cross - functional.binary_cross_entropy_with_logits(teacher, probability)


def forgetting_margins(
    original: torch.Tensor, augmented: torch.Tensor, alpha: float
) -> torch.Tensor:
    """Return the forgetting teacher's [B] margins: original − α · (augmented − original).

    What learning more about the data raises is pushed down, and what it lowers is pushed up. The
    published teacher takes a ReLU of uncentred logits instead, which also moves their constant.
    """
    return original - alpha * (augmented - original)


def one_step_ahead(margins: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the [B] margins of a model that has learned a bit more about the [B] labels (0/1).

    The log loss falls along y − σ(margin): to first order this is the augmented model, untrained.
    """
    return margins + (labels - torch.sigmoid(margins))


def solve_alpha(
    original: torch.Tensor,
    augmented: torch.Tensor,
    labels: torch.Tensor,
    loss_increase: float,
    *,
    most: float = 16.0,
) -> float:
    """Return the α in 0…most at which the teacher's mean loss on [B] rows is `rise` nats higher.

    The loss is convex in α. Where even `most` does not reach the rise, `most` is returned.
    """

    def loss(alpha: float) -> float:
        margins = forgetting_margins(original, augmented, alpha)
        return functional.binary_cross_entropy_with_logits(margins, labels).item()

    target = loss(0.0) + loss_increase
    low, high = 0.0, most
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if loss(middle) < target else (low, middle)
    return low


def answer_log_probability(margins: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the [B] log probabilities (nats) of the answers that the [B] labels (0/1) name."""
    return functional.logsigmoid(margins * (2 * labels - 1))


def negative_preference(
    found: torch.Tensor, reference: torch.Tensor, labels: torch.Tensor, beta: float
) -> torch.Tensor:
    """Return the mean of −2/β · log σ(−β · log(π / π_ref)) over [B] rows, π of the row's answer.

    Where β goes to 0 this is gradient ascent; larger β stop pushing what is already forgotten.
    Source: NPO (arXiv 2404.05868).
    """
    ratio = answer_log_probability(found, labels) - answer_log_probability(reference, labels)
    return -2 / beta * functional.logsigmoid(-beta * ratio).mean()


def simple_negative_preference(
    found: torch.Tensor, labels: torch.Tensor, beta: float
) -> torch.Tensor:
    """Return the mean of −2/β · log σ(−β · log π) over [B] rows: NPO without a reference.

    The answer is one token, so its length is 1; the margin γ is 0, as published for unlearning.
    Source: SimNPO (arXiv 2410.07163).
    """
    return -2 / beta * functional.logsigmoid(-beta * answer_log_probability(found, labels)).mean()


def published_forgetting_logits(
    original: torch.Tensor, augmented: torch.Tensor, alpha: float
) -> torch.Tensor:
    """Return E2URec's [B, 2] teacher: original − α · ReLU(augmented − original), on raw logits.

    Source: arXiv 2403.03536. `forgetting_margins` says what is wrong with it.
    """
    return original - alpha * functional.relu(augmented - original)
