"""Class weights of the task loss, so that rare and frequent classes have the same total weight."""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from hf_kd_lambda.losses.functional import IGNORED, task_loss
from hf_kd_lambda.losses.functional.labels import UNLABELLED


def balanced_weights(labels: Iterable[Any], num_classes: int) -> Tensor:
    """n / (classes · n_c) for each class c, like scikit-learn's `class_weight="balanced"`.

    Their mean over the examples is 1. A class without examples has weight 1.

    Args:
        labels: the class, or list of classes, of every example; None, -100 or -101 if unlabelled.
        num_classes: number of classes.

    Returns:
        `[num_classes]`, float32.

    Raises:
        ValueError: a label is no class.
    """
    of_items = chain.from_iterable(label if isinstance(label, list) else [label] for label in labels)
    found = Counter(item for item in of_items if item is not None)
    known = {*range(num_classes), IGNORED, UNLABELLED}
    for item in found:
        if not isinstance(item, Integral) or item not in known:
            raise ValueError(
                f"class_weights counts labels from 0 to {num_classes - 1}, but one is {item!r}: give the classes as "
                "integers, or leave class_weights out."
            )
    counts = torch.tensor([found[index] for index in range(num_classes)], dtype=torch.float64)
    present = counts > 0
    weights = counts.sum() / (present.sum().clamp(min=1) * counts.clamp(min=1))
    return torch.where(present, weights, 1.0).float()


def item_weights(class_weights: Tensor | None, labels: Tensor, others: Tensor | None = None) -> Tensor | None:
    """Per-item weights `[...]`: the class weight of the label, times further weights; None means 1.

    Args:
        class_weights: `[classes]`; None means 1.
        labels: `[...]`; ignored items (-100) get an arbitrary weight.
        others: further weights `[...]`; None means 1.
    """
    if class_weights is None:
        return others
    own = class_weights.to(labels.device)[labels.clamp(min=0)]
    return own if others is None else own * others


class WeightedTaskLoss:
    """The task loss with class weights, as `compute_loss_func` of a plain Trainer.

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
        """The loss, a scalar: the sum over items divided by their number."""
        items = labels.ne(IGNORED).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        weights = item_weights(self.class_weights, labels)
        return task_loss(outputs["logits"], labels, items, self.label_smoothing, weights)
