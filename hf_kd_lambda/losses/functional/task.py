"""The loss of the task itself, from the labels."""

import torch.nn.functional as F
from torch import Tensor

from hf_kd_lambda.losses.functional.items import IGNORED


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
