"""The label of each item; causal language models predict the next one."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from hf_kd_lambda.losses.functional.items import IGNORED

SHIFTED = "shift_labels"  # the name in Transformers, whose Trainer counts the items of a step by it


def targets(batch: Mapping[str, Any]) -> Tensor:
    """The target of each example or position of a batch: its label; for a causal model, the next label."""
    return batch[SHIFTED] if SHIFTED in batch else batch["labels"]


def next_labels(labels: Tensor) -> Tensor:
    """The label that each position i of a causal model predicts: the label at i + 1, and -100 for the last position.

    Labels are shifted rather than logits, as slicing the logits would copy them.

    Args:
        labels: `[examples, length]`.
    """
    return F.pad(labels[:, 1:], (0, 1), value=IGNORED)
