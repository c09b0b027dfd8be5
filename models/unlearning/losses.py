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


def solve_alpha(
    original: torch.Tensor,
    augmented: torch.Tensor,
    labels: torch.Tensor,
    rise: float,
    *,
    most: float = 16.0,
) -> float:
    """Return the α in 0…most at which the teacher's mean loss on [B] rows is `rise` nats higher.

    The loss is convex in α. Where even `most` does not reach the rise, `most` is returned.
    """

    def loss(alpha: float) -> float:
        margins = forgetting_margins(original, augmented, alpha)
        return functional.binary_cross_entropy_with_logits(margins, labels).item()

    target = loss(0.0) + rise
    low, high = 0.0, most
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if loss(middle) < target else (low, middle)
    return low
