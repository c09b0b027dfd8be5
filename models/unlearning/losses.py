"""Losses and teachers of unlearning as pure tensor functions of margins.

A margin is the logit of Yes minus the logit of No. Two logits are defined only up to a constant,
which their margin does not contain.
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
    student: torch.Tensor, labels: torch.Tensor, beta: float, gamma: float = 0.0
) -> torch.Tensor:
    """Return the mean of −2/β · log σ(−β · log π − γ) over [B] rows: NPO without a reference.

    The answer is one token, so its length is 1. Source: SimNPO (arXiv 2410.07163).
    """
    log_probability = answer_log_probability(student, labels)
    return -2 / beta * functional.logsigmoid(-beta * log_probability - gamma).mean()


def published_forgetting_logits(
    original: torch.Tensor, augmented: torch.Tensor, alpha: float
) -> torch.Tensor:
    """Return E2URec's [B, 2] teacher: original − α · ReLU(augmented − original), on raw logits.

    Source: arXiv 2403.03536. The ReLU of uncentered logits also moves their constant, on which no
    answer depends.
    """
    return original - alpha * functional.relu(augmented - original)


def distribution_kl(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Return the mean over B rows of KL(teacher ‖ student), in nats, between [B, V] logits.

    Source: E2URec (arXiv 2403.03536), both teachers' losses.
    """
    return functional.kl_div(
        student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True
    )
