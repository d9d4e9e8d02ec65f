"""Several labels per example: every label is an item with two classes, absent and present.

A model returns one logit z per label. The softmax of the pair (0, z) is (1 − σ(z), σ(z)). Its cross-entropy is binary
cross-entropy, and T²·KL between two such pairs is the binary KL of a label, softened as σ(z/T). This is the
multi-label logits distillation of Yang et al. 2023, "Multi-Label Knowledge Distillation" (arXiv 2308.06453). All other
losses on logits, votes and agreement also work per label.
"""

from typing import Any

import torch
from torch import Tensor

MULTI_LABEL = "multi_label_classification"
"""Transformers' `problem_type` of several labels per example."""


def has_label_sets(logits: Tensor, labels: Any) -> bool:
    """Whether a batch has one integer label, 0 or 1, per logit.

    Args:
        logits: `[examples, labels]`.
        labels: labels of the batch, or None.
    """
    return isinstance(labels, Tensor) and labels.shape == logits.shape and not labels.is_floating_point()


def logits_of_labels(logits: Tensor) -> Tensor:
    """Logits `[examples, labels, 2]` of two classes per label, from `[examples, labels]`."""
    return torch.stack([torch.zeros_like(logits), logits], dim=-1)
