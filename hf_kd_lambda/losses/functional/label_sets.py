"""Several labels for an example: each label is an item of two classes, absent and present.

A model gives one logit z for each label. The pair (0, z) has the softmax (1 − σ(z), σ(z)). Cross-entropy over it is
binary cross-entropy, and T²·KL of two such pairs is the binary KL of a label, softened as σ(z/T). That is the
multi-label logits distillation of Yang et al. 2023, "Multi-Label Knowledge Distillation" (arXiv 2308.06453). All
other losses of logits, votes and the agreement work label by label, too.
"""

from typing import Any

import torch
from torch import Tensor

MULTI_LABEL = "multi_label_classification"
"""Transformers' `problem_type` of several labels per example."""


def has_label_sets(logits: Tensor, labels: Any) -> bool:
    """Whether there is an integer, 0 or 1, for each logit of an example.

    Args:
        logits: `[examples, labels]`.
        labels: of a batch; None where there are none.
    """
    return isinstance(labels, Tensor) and labels.shape == logits.shape and not labels.is_floating_point()


def logits_of_labels(logits: Tensor) -> Tensor:
    """Logits `[examples, labels, 2]` of two classes for each label, from `[examples, labels]`."""
    return torch.stack([torch.zeros_like(logits), logits], dim=-1)
