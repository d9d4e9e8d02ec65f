"""The loss of the task itself, from the labels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_kd_lambda.losses.functional.distributions import log_distribution
from hf_kd_lambda.losses.functional.items import IGNORED, sum_over_items, zero_ignored


def task_loss(logits: Tensor, labels: Tensor, num_items: Tensor | int, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy in nats for classification, squared error where there is one output (regression).

    A class with a logit of −∞ is excluded: label smoothing spreads over the other classes. A label of an excluded
    class costs −`EXCLUDED`, 87.3 nats, and has no gradient.

    Args:
        logits: `[..., classes]`, or `[..., 1]` for regression.
        labels: `[...]`, class indices, or numbers for regression; -100 for ignored items.
        num_items: what the sum over items is divided by.
        label_smoothing: in [0, 1), for classification.

    Returns:
        A scalar in fp32.
    """
    logits = zero_ignored(logits, labels)
    if logits.shape[-1] == 1:
        return sum_over_items((logits.squeeze(-1) - labels.float()).square(), labels) / num_items
    log_probs = log_distribution(logits)
    nll = F.nll_loss(log_probs.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    if not label_smoothing:
        return nll / num_items
    possible = ~logits.isneginf()
    spread = -torch.where(possible, log_probs, 0.0).sum(-1) / possible.sum(-1)
    return ((1 - label_smoothing) * nll + label_smoothing * sum_over_items(spread, labels)) / num_items
