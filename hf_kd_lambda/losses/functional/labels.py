"""The label that each item is compared with; causal language models predict the next one."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from hf_kd_lambda.losses.functional.items import IGNORED

SHIFTED = "shift_labels"  # the name that transformers has for them, by which its Trainer counts the items of a step


def targets(batch: Mapping[str, Any]) -> Tensor:
    """What each example or position of a batch is to be predicted as: its label, of a causal model the next one."""
    return batch[SHIFTED] if SHIFTED in batch else batch["labels"]


def next_labels(labels: Tensor) -> Tensor:
    """The label that each position of a causal model predicts, that at i + 1, and -100 for the last position.

    Labels are shifted since a cut through the logits would copy them.

    Args:
        labels: `[examples, length]`.
    """
    return F.pad(labels[:, 1:], (0, 1), value=IGNORED)
