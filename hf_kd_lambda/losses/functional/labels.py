"""The label of every item; for causal language models, the label of the next token."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_kd_lambda.losses.functional.items import IGNORED, count_items

UNLABELLED = -101
"""Marks an unlabelled item, which only the KD loss uses; see `item_labels`."""
SHIFTED = "shift_labels"  # transformers' name; its Trainer uses it to count the items of a step


def targets(batch: Mapping[str, Any]) -> Tensor:
    """The target of every example or position of a batch: its label; for a causal model, the next label."""
    return batch[SHIFTED] if SHIFTED in batch else batch["labels"]


class ItemLabels(NamedTuple):
    """Labels of a batch for each of the two losses, -100 where the loss has no item; both of the same shape."""

    task: Tensor
    """Class indices, or numbers for regression; of soft labels the class with the largest share."""
    kd: Tensor
    """Like `task`, but with an arbitrary class or number for unlabelled items."""
    shares: Tensor | None = None
    """Soft labels, distributions `[examples, classes]`; arbitrary numbers for unlabelled examples."""

    @property
    def counts(self) -> Tensor:
        """`[2]`: number of items of the task loss and of the KD loss."""
        return torch.stack([count_items(self.task), count_items(self.kd)])


def item_labels(labels: Tensor) -> ItemLabels:
    """The items of each loss: labelled items for the task loss, all items for the KD loss.

    Args:
        labels: `[examples]`, where -100 or NaN marks an unlabelled example, and -101 too where labels are classes; or
            `[examples, length]`, where -100 marks a position that is not an item, such as padding, and -101 marks an
            unlabelled item; or soft labels `[examples, classes]` in floats, where a row of NaN marks an unlabelled
            example.
    """
    if labels.is_floating_point() and labels.dim() == 2:
        return _of_soft_labels(labels)
    unlabelled = labels.isnan() if labels.is_floating_point() else labels.eq(UNLABELLED)
    if labels.dim() == 1:
        unlabelled |= labels.eq(IGNORED)
    return ItemLabels(labels.masked_fill(unlabelled, IGNORED), labels.masked_fill(unlabelled, 0))


def _of_soft_labels(shares: Tensor) -> ItemLabels:
    unlabelled, classes = shares.isnan().any(-1), shares.nan_to_num(0.0).argmax(-1)
    return ItemLabels(classes.masked_fill(unlabelled, IGNORED), classes, shares.nan_to_num(0.0))


def with_labels(batch: Mapping[str, Any], is_token_level: bool, label_sets: int = 0) -> dict[str, Any]:
    """A training batch; if it has no `labels`, all its items are marked as unlabelled.

    Args:
        batch: tensors `[examples, ...]` by name.
        is_token_level: whether items are tokens. Then every attended token is an item; without a mask, every token.
        label_sets: number of labels of which an example has several; 0 if it has one.
    """
    if SHIFTED in batch or batch.get("labels") is not None:
        return dict(batch)
    if is_token_level:
        attended = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
        labels = torch.where(attended.bool(), UNLABELLED, IGNORED)
    else:
        first = next(value for value in batch.values() if isinstance(value, Tensor))
        shape, missing = ((len(first), label_sets), UNLABELLED) if label_sets else ((len(first),), IGNORED)
        labels = torch.full(shape, missing, device=first.device)
    return {**batch, "labels": labels}


def next_labels(labels: Tensor) -> Tensor:
    """The labels that a causal model predicts: at position i the label of i + 1, and -100 at the last position.

    Labels are shifted instead of logits, because slicing the logits would copy them.

    Args:
        labels: `[examples, length]`.
    """
    return F.pad(labels[:, 1:], (0, 1), value=IGNORED)
