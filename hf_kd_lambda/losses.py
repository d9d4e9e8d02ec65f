"""The task loss and the distillation losses, as sums over items divided by a given number of items.

Both losses share the divisor, so that λ weighs them alike however a batch is cut into micro-batches and ranks.
An item is an example (or a position) that is not masked by the label -100.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100


def count_items(labels: Tensor) -> Tensor:
    """Number of items that carry a label, as a scalar tensor on the labels' device."""
    return labels.ne(IGNORED).sum()


def task_loss(logits: Tensor, labels: Tensor, num_items: Tensor | int, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy in nats for classification, squared error where there is one output (regression).

    Args:
        logits: `[..., classes]`, or `[..., 1]` for regression.
        labels: `[...]`, class indices with -100 for ignored items, or floats for regression.
        num_items: what the sum over items is divided by.
        label_smoothing: in [0, 1), for classification.

    Returns:
        A scalar in fp32.
    """
    logits = logits.float()
    if logits.shape[-1] == 1:
        return F.mse_loss(logits.squeeze(-1), labels.float(), reduction="sum") / num_items
    total = F.cross_entropy(
        logits.flatten(0, -2),
        labels.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return total / num_items


def soft_target_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, num_items: Tensor | int, temperature: float
) -> Tensor:
    """T²·KL(teacher ‖ student) of the distributions softened by the temperature T, in nats.

    T² keeps the gradient's size when T changes, since the gradients of soft targets scale as 1/T²
    (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2).

    Args:
        student_logits: `[..., classes]`.
        teacher_logits: `[..., classes]`, without gradient.
        labels: `[...]`; items labelled -100 do not count.
        num_items: what the sum over items is divided by.
        temperature: T > 0.

    Returns:
        A scalar in fp32.
    """
    student = F.log_softmax(student_logits.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=-1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
    return temperature**2 * _sum_over_items(divergence, labels) / num_items


def logit_mse_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, num_items: Tensor | int) -> Tensor:
    """Squared distance of student and teacher outputs, for regression (Ba & Caruana 2014, equation 1, without the ½).

    Args:
        student_logits: `[..., 1]`, in the units of the label.
        teacher_logits: `[..., 1]`, without gradient.
        labels: `[...]`.
        num_items: what the sum over items is divided by.

    Returns:
        A scalar in fp32.
    """
    squared = (student_logits.float() - teacher_logits.float()).square().sum(-1)
    return _sum_over_items(squared, labels) / num_items


def _sum_over_items(values: Tensor, labels: Tensor) -> Tensor:
    return torch.where(labels.ne(IGNORED), values, 0.0).sum()
