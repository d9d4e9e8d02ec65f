"""Weights of the classes in the task loss, so that rare ones count as much as frequent ones."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from hf_kd_lambda.losses.functional import IGNORED, task_loss


def balanced_weights(labels: Iterable[Any], num_classes: int) -> Tensor:
    """n / (classes · n_c) for each class c, as of scikit-learn's `class_weight="balanced"`.

    Over the examples their mean is 1. A class without an example has the weight 1.

    Args:
        labels: a class, or a list of classes, of each example; None, -100 or -101 for no label.
        num_classes: number of classes.

    Returns:
        `[num_classes]`, float32.

    Raises:
        ValueError: a label is no class, as of soft labels.
    """
    counts = torch.zeros(num_classes, dtype=torch.float64)
    for label in labels:
        for item in label if isinstance(label, list) else [label]:
            if isinstance(item, float):
                raise ValueError(f"class_weights counts classes, and a label is {item!r}: leave it out.")
            if item is not None and item >= 0:
                counts[item] += 1
    present = counts > 0
    weights = counts.sum() / (present.sum().clamp(min=1) * counts.clamp(min=1))
    return torch.where(present, weights, 1.0).float()


def item_weights(class_weights: Tensor | None, labels: Tensor, others: Tensor | None = None) -> Tensor | None:
    """The weight of each item.

    Args:
        class_weights: `[classes]`; None for 1.
        labels: `[...]`, -100 for ignored items, whose weight has no meaning.
        others: `[...]`, further weights, which are multiplied.
    """
    if class_weights is None:
        return others
    own = class_weights.to(labels.device)[labels.clamp(min=0)]
    return own if others is None else own * others


class WeightedTaskLoss:
    """The task loss with weighted classes, as `compute_loss_func` of a plain Trainer.

    Args:
        class_weights: `[classes]`.
        label_smoothing: see `task_loss`.
    """

    def __init__(self, class_weights: Tensor, label_smoothing: float = 0.0) -> None:
        self.class_weights = class_weights
        self.label_smoothing = label_smoothing

    def __call__(
        self, outputs: Mapping[str, Any], labels: Tensor, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """A scalar: the sum over the items divided by their number."""
        items = labels.ne(IGNORED).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        weights = item_weights(self.class_weights, labels)
        return task_loss(outputs["logits"], labels, items, self.label_smoothing, weights)
