"""Soft labels: the share of each class of an example, for example of the annotators who chose it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hf_kd_lambda.data.columns import LABELS

SHARES_TOLERANCE = 1e-3
"""How far from 1 the sum of the shares may be, which may be rounded to three digits."""
NO_DISTRIBUTION = (
    "are no distribution: give shares of the classes that sum to 1. For several labels an example, set problem_type "
    "of the student's config to multi_label_classification."
)
"""The end of an error."""


def number_of_shares(example: Any) -> int:
    """How many classes the soft label of an example has; 0 for other labels."""
    labels = [example.get(name) for name in LABELS] if isinstance(example, Mapping) else []
    return next((len(label) for label in labels if isinstance(label, list)), 0)


def as_soft_labels(batch: Mapping[str, Any], classes: int) -> Any:
    """The labels of a batch; soft labels as floats, also if they are integers 1 and 0, and checked.

    Args:
        batch: with `labels`. Soft labels are `[examples, classes]`; rows of NaN are of examples without a label.
            Others pass, also the classes of as many tokens.
        classes: the student's number of classes.

    Raises:
        ValueError: names the first soft label that is no distribution.
    """
    labels = batch["labels"]
    if not isinstance(labels, Tensor) or labels.dim() != 2:
        return labels
    if not labels.is_floating_point():
        may_be_of_tokens = labels.shape == getattr(batch.get("input_ids"), "shape", None)
        if labels.shape[1] != classes or (may_be_of_tokens and are_no_shares(labels).any()):
            return labels
        labels = labels.float()
    if labels.shape[1] > 1 and (wrong := are_no_shares(labels)).any():
        raise ValueError(f"soft labels {labels[wrong][0].tolist()} of an example {NO_DISTRIBUTION}")
    return labels


def are_no_shares(rows: Any) -> Any:
    """Which rows of a tensor or an array `[examples, classes]` are no distribution; rows of NaN alone pass."""
    missing = rows != rows
    partly = missing.any(-1) & ~missing.all(-1)
    return partly | (abs(rows.sum(-1) - 1) > SHARES_TOLERANCE) | (rows < 0).any(-1)  # no comparison is true of NaN
