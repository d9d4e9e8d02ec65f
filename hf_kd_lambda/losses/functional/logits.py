"""Losses on logits: divergences between softened distributions, in nats, and the squared distance of the logits.

For a large temperature T, a divergence between softened distributions is quadratic in the differences of the logits
divided by T. Its gradient scales as 1/T², so the factor T² makes the gradient independent of T (Hinton et al. 2015,
"Distilling the Knowledge in a Neural Network", section 2). This holds while T is large compared to the spread of the
logits. For a smaller T, softmax saturates, and the gradient of the KL, T²·(p_student − p_teacher)/T, decreases with T.
The squared distance of the logits needs no T².

A logit of −∞ excludes a class, see `distributions`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_kd_lambda.losses.functional.distributions import log_distribution
from hf_kd_lambda.losses.functional.items import IGNORED, sum_over_items, zero_ignored


def soft_target_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    num_items: Tensor | int,
    temperature: float,
    weights: Tensor | None = None,
) -> Tensor:
    """T²·KL(teacher ‖ student) of the class probabilities at temperature T (Hinton et al. 2015, section 2).

    Args:
        student_logits: `[..., classes]`.
        teacher_logits: `[..., classes]`, detached.
        labels: `[...]`; items labelled -100 are ignored.
        num_items: divisor of the sum over items.
        temperature: T > 0.
        weights: per-item weights, same shape as `labels`; None means 1.

    Returns:
        A scalar in fp32.
    """
    student, teacher = (_log_softened(logits, labels, temperature) for logits in (student_logits, teacher_logits))
    return temperature**2 * sum_over_items(_kl(teacher, student), labels, weights) / num_items


def reverse_kl_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    num_items: Tensor | int,
    temperature: float,
    weights: Tensor | None = None,
) -> Tensor:
    """T²·KL(student ‖ teacher): mode-seeking, which favours the teacher's most probable classes (Gu et al. 2024).

    Gu et al., "MiniLLM: Knowledge Distillation of Large Language Models", equation 1, here for the distribution of
    every item instead of whole generated sequences.

    Args:
        student_logits, teacher_logits, labels, num_items, temperature, weights: as for `soft_target_loss`.

    Returns:
        A scalar in fp32.
    """
    student, teacher = (_log_softened(logits, labels, temperature) for logits in (student_logits, teacher_logits))
    return temperature**2 * sum_over_items(_kl(student, teacher), labels, weights) / num_items


def jensen_shannon_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    num_items: Tensor | int,
    temperature: float,
    beta: float,
    weights: Tensor | None = None,
) -> Tensor:
    """T²·(β·KL(teacher ‖ m) + (1 − β)·KL(student ‖ m)), with the mixture m = β·teacher + (1 − β)·student.

    The generalised Jensen-Shannon divergence of GKD (Agarwal et al. 2024, "On-Policy Distillation of Language Models",
    section 2). It is 0 at β = 0 and β = 1. Divided by β it tends to KL(teacher ‖ student) as β → 0; divided by 1 − β
    it tends to KL(student ‖ teacher) as β → 1. If both distributions are close, it is β(1 − β) times either KL, and T²
    does not compensate for this factor.

    Args:
        student_logits, teacher_logits, labels, num_items, temperature, weights: as for `soft_target_loss`.
        beta: the teacher's share of the mixture, in (0, 1).

    Returns:
        A scalar in fp32.
    """
    student, teacher = (_log_softened(logits, labels, temperature) for logits in (student_logits, teacher_logits))
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    divergence = beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture)
    return temperature**2 * sum_over_items(divergence, labels, weights) / num_items


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    num_items: Tensor | int,
    temperature: float,
    alpha: float,
    beta: float,
    weights: Tensor | None = None,
) -> Tensor:
    """T²·(α·TCKD + β·NCKD): decoupled knowledge distillation (Zhao et al. 2022, equation 7).

    TCKD = KL(teacher ‖ student) over two classes, the label and all others. NCKD = KL(teacher ‖ student) over the
    other classes only. `soft_target_loss` is T²·(TCKD + (1 − p)·NCKD), where p is the teacher's probability of the
    label (equation 6): a more confident teacher gives less weight to the other classes, and β corrects this. NCKD is 0
    with two classes, or if a model excludes all classes except the label.

    Args:
        student_logits, teacher_logits, num_items, temperature, weights: as for `soft_target_loss`.
        labels: `[...]`, class indices; items labelled -100 are ignored.
        alpha: α ≥ 0; 1 in the paper.
        beta: β ≥ 0; the paper tunes it for each pair of models, between 0.5 and 8.

    Returns:
        A scalar in fp32.
    """
    label_indices = labels.masked_fill(labels.eq(IGNORED), 0).unsqueeze(-1)
    indices = torch.arange(student_logits.shape[-1] - 1, device=labels.device)
    others = indices + (indices >= label_indices)  # all classes except the label

    def decouple(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of (label, all others), log-probabilities among the others, and where there are none."""
        softened = zero_ignored(logits, labels) / temperature
        label, rest = softened.gather(-1, label_indices), softened.gather(-1, others)
        no_rest = rest.isneginf().all(-1, keepdim=True)
        rest = rest.masked_fill(no_rest, 0.0)  # any finite number: masked below, but its gradient must not be NaN
        total = rest.logsumexp(-1, keepdim=True).masked_fill(no_rest, -math.inf)
        return log_distribution(torch.cat([label, total], dim=-1)), log_distribution(rest), no_rest.squeeze(-1)

    student_both, student_rest, student_has_none = decouple(student_logits)
    teacher_both, teacher_rest, teacher_has_none = decouple(teacher_logits)
    tckd = _kl(teacher_both, student_both)
    nckd = _kl(teacher_rest, student_rest).masked_fill(student_has_none | teacher_has_none, 0.0)
    return temperature**2 * sum_over_items(alpha * tckd + beta * nckd, labels, weights) / num_items


def logit_mse_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    num_items: Tensor | int,
    weights: Tensor | None = None,
) -> Tensor:
    """Squared distance of student and teacher logits, summed over classes (Ba & Caruana 2014, equation 1, without ½).

    For regression, which has one output, it is the squared error. For classes, divided by 2·classes and up to a
    constant added to the logits, it is the limit of `soft_target_loss` at T → ∞. It has no temperature, so it needs no
    T². A class with a logit of −∞ in either model is ignored, because the distance would be infinite.

    Args:
        student_logits: `[..., classes]`, or `[..., 1]` in the units of the labels.
        teacher_logits: same shape, detached.
        labels: `[...]`; items labelled -100 are ignored.
        num_items: divisor of the sum over items.
        weights: per-item weights, same shape as `labels`; None means 1.

    Returns:
        A scalar in fp32.
    """
    student, teacher = zero_ignored(student_logits, labels), zero_ignored(teacher_logits, labels)
    # In regression, −∞ is an error to report, not an excluded class.
    if student.shape[-1] > 1:
        excluded = student.isneginf() | teacher.isneginf()
        student, teacher = student.masked_fill(excluded, 0.0), teacher.masked_fill(excluded, 0.0)
    return sum_over_items((student - teacher).square().sum(-1), labels, weights) / num_items


def _log_softened(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    return log_distribution(zero_ignored(logits, labels) / temperature)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q) `[...]` in nats, from finite log-probabilities `[..., classes]`."""
    return F.kl_div(q, p, reduction="none", log_target=True).sum(-1)
