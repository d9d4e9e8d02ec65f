"""The task loss, from the labels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_kd_lambda.losses.functional.distributions import log_distribution
from hf_kd_lambda.losses.functional.items import IGNORED, sum_over_items, zero_ignored


def task_loss(
    logits: Tensor,
    labels: Tensor,
    num_items: Tensor | int,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
    shares: Tensor | None = None,
) -> Tensor:
    """Cross-entropy in nats for classification, squared error for regression (one output).

    A class with a logit of −∞ is excluded, and label smoothing spreads over the other classes. If the label itself is
    excluded, the loss is −`EXCLUDED`, 87.3 nats, detached.

    Args:
        logits: `[..., classes]`, or `[..., 1]` for regression.
        labels: `[...]`, class indices, or numbers for regression; -100 for ignored items.
        num_items: divisor of the sum over items.
        label_smoothing: in [0, 1), for classification.
        weights: per-item weights, same shape as `labels`; None means 1.
        shares: `[..., classes]`, soft labels, which replace the one-hot distributions of `labels`; None for one-hot.

    Returns:
        A scalar in fp32.
    """
    logits = zero_ignored(logits, labels)
    if logits.shape[-1] == 1:
        return sum_over_items((logits.squeeze(-1) - labels.float()).square(), labels, weights) / num_items
    log_probs = log_distribution(logits)
    if shares is None:
        nll = _sum_of_nll(log_probs, labels, weights)
    else:
        nll = sum_over_items(-(shares * log_probs).sum(-1), labels, weights)
    if not label_smoothing:
        return nll / num_items
    possible = ~logits.isneginf()
    spread = -torch.where(possible, log_probs, 0.0).sum(-1) / possible.sum(-1)
    return ((1 - label_smoothing) * nll + label_smoothing * sum_over_items(spread, labels, weights)) / num_items


def _sum_of_nll(log_probs: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    flat = log_probs.flatten(0, -2), labels.flatten()
    if weights is None:
        return F.nll_loss(*flat, ignore_index=IGNORED, reduction="sum")
    return (weights.flatten() * F.nll_loss(*flat, ignore_index=IGNORED, reduction="none")).sum()
