"""The label that each item of a loss is compared with; causal language models predict the next one."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_kd_lambda.losses.functional.items import IGNORED, count_items

UNLABELLED = -101
"""The label of an item without a label, from which the KD loss alone learns; see `item_labels`."""
SHIFTED = "shift_labels"  # the name that transformers has for them, by which its Trainer counts the items of a step


def targets(batch: Mapping[str, Any]) -> Tensor:
    """The target of each example or position of a batch: its label; for a causal model, the next label."""
    return batch[SHIFTED] if SHIFTED in batch else batch["labels"]


class ItemLabels(NamedTuple):
    """Labels of a batch for each of the two losses, -100 at what is no item of the loss; all of one shape."""

    task: Tensor
    """Class indices, or numbers for regression."""
    kd: Tensor
    """The same; some class or number where there is an item without a label."""

    @property
    def counts(self) -> Tensor:
        """`[2]`: the number of items of the task loss and of the KD loss."""
        return torch.stack([count_items(self.task), count_items(self.kd)])


def item_labels(labels: Tensor) -> ItemLabels:
    """Which items each loss learns from: the task loss from those with a label, the KD loss from all.

    Args:
        labels: `[examples]`, where -100, -101 or NaN is an example without a label; or `[examples, length]`, where
            -100 is a position that is no item, such as padding, and -101 an item without a label.
    """
    unlabelled = labels.eq(UNLABELLED)
    if labels.dim() == 1:
        unlabelled |= labels.eq(IGNORED)
    if labels.is_floating_point():
        unlabelled |= labels.isnan()
    return ItemLabels(labels.masked_fill(unlabelled, IGNORED), labels.masked_fill(unlabelled, 0))


def with_labels(batch: Mapping[str, Any], is_token_level: bool) -> dict[str, Any]:
    """A batch of training; where it has no labels at all, those of examples without a label.

    Args:
        batch: tensors `[examples, ...]` by name.
        is_token_level: whether each token has a label. Then every token that the `attention_mask` keeps is an item.
    """
    if SHIFTED in batch or batch.get("labels") is not None:
        return dict(batch)
    if is_token_level:
        labels = torch.where(batch["attention_mask"].bool(), UNLABELLED, IGNORED)
    else:
        first = next(value for value in batch.values() if isinstance(value, Tensor))
        labels = torch.full((len(first),), IGNORED, device=first.device)
    return {**batch, "labels": labels}


def next_labels(labels: Tensor) -> Tensor:
    """The label that each position i of a causal model predicts: the label at i + 1, and -100 for the last position.

    Labels are shifted rather than logits, as slicing the logits would copy them.

    Args:
        labels: `[examples, length]`.
    """
    return F.pad(labels[:, 1:], (0, 1), value=IGNORED)
