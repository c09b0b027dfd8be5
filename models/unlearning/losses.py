"""Losses and teachers of unlearning as pure tensor functions of margins.

A margin is the logit of Yes minus the logit of No. Two logits are defined only up to a constant,
which their margin does not contain.
"""

from __future__ import annotations

from typing import Final

import torch
from torch.nn import functional

#: Maximum α of the forgetting teacher.
MAX_ALPHA: Final = 16.0


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

    The teacher moves each margin opposite to what learning more about the data would do. The
    published teacher instead takes a ReLU of uncentered logits, which also moves their constant.
    """
    return original - alpha * (augmented - original)


def one_step_ahead(margins: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the [B] margins of a model that has learned slightly more about [B] labels (0 or 1).

    The log loss falls along y − σ(margin), which to first order replaces a trained augmented model.
    """
    return margins + (labels - torch.sigmoid(margins))


def solve_alpha(
    original: torch.Tensor,
    augmented: torch.Tensor,
    labels: torch.Tensor,
    loss_increase: float,
) -> float:
    """Return the α in 0…MAX_ALPHA at which the forgetting teacher has the given loss increase.

    `loss_increase` is the increase (nats) of the mean loss over [B] rows, which is convex in α.
    Returns MAX_ALPHA where even that α does not reach the loss increase.
    """

    def loss(alpha: float) -> float:
        margins = forgetting_margins(original, augmented, alpha)
        return functional.binary_cross_entropy_with_logits(margins, labels).item()

    target = loss(0.0) + loss_increase
    low, high = 0.0, MAX_ALPHA
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if loss(middle) < target else (low, middle)
    return low


def answer_offset(margins: torch.Tensor, labels: torch.Tensor, spread: float) -> torch.Tensor:
    """Return the constant that, added to [B] margins, makes the mean answer match [B] labels.

    The result is the most probable constant under a normal prior around 0 with standard deviation
    `spread`, because few rows determine the constant poorly. Four steps of Newton's method.
    """
    offset = torch.zeros(())
    for _ in range(4):
        probability = torch.sigmoid(margins + offset)
        slope = (labels - probability).sum() - offset / spread**2
        curvature = (probability * (1 - probability)).sum() + 1 / spread**2
        offset = offset + slope / curvature
    return offset


def answer_log_probability(margins: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the [B] log probabilities (nats) of the answers in [B] labels (0 or 1)."""
    return functional.logsigmoid(margins * (2 * labels - 1))


def negative_preference(
    student: torch.Tensor, reference: torch.Tensor, labels: torch.Tensor, beta: float
) -> torch.Tensor:
    """Return the mean of −2/β · log σ(−β · log(π / π_ref)) over [B] rows.

    π is the probability of the row's label. As β goes to 0 this is gradient ascent; with larger β
    the gradient vanishes on rows that are already forgotten. Source: NPO (arXiv 2404.05868).
    """
    ratio = answer_log_probability(student, labels) - answer_log_probability(reference, labels)
    return -2 / beta * functional.logsigmoid(-beta * ratio).mean()


def simple_negative_preference(
    student: torch.Tensor, labels: torch.Tensor, beta: float
) -> torch.Tensor:
    """Return the mean of −2/β · log σ(−β · log π) over [B] rows: NPO without a reference.

    The answer is one token, so its length is 1; the margin γ is 0, as published for unlearning.
    Source: SimNPO (arXiv 2410.07163).
    """
    log_probability = answer_log_probability(student, labels)
    return -2 / beta * functional.logsigmoid(-beta * log_probability).mean()


def published_forgetting_logits(
    original: torch.Tensor, augmented: torch.Tensor, alpha: float
) -> torch.Tensor:
    """Return E2URec's [B, 2] teacher: original − α · ReLU(augmented − original), on raw logits.

    Source: arXiv 2403.03536. `forgetting_margins` describes this teacher's fault.
    """
    return original - alpha * functional.relu(augmented - original)


def distribution_kl(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Return the mean over B rows of KL(teacher ‖ student), in nats, between [B, V] logits.

    Source: E2URec (arXiv 2403.03536), both teachers' losses.
    """
    return functional.kl_div(
        student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True
    )
