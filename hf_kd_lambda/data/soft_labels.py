"""Soft labels: the share of each class of an example, for example of the annotators who chose it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hf_kd_lambda.data.columns import LABELS

SHARES_TOLERANCE = 1e-3
"""How far from 1 the sum of the shares may be, which may be rounded to three digits."""


def number_of_shares(example: Any) -> int:
    """How many classes the soft label of an example has; 0 for other labels."""
    labels = [example.get(name) for name in LABELS] if isinstance(example, Mapping) else []
    return next((len(label) for label in labels if isinstance(label, list)), 0)


def as_soft_labels(labels: Any, classes: int) -> Any:
    """The labels of a batch; soft labels as floats, also if they are integers such as 1 and 0, and checked.

    Args:
        labels: soft labels are `[examples, classes]`; rows with NaN are of examples without a label. Others pass.
        classes: the student's number of classes.

    Raises:
        ValueError: names the first soft label that is no distribution.
    """
    if not isinstance(labels, Tensor) or labels.dim() != 2:
        return labels
    shares = labels.float() if labels.shape[1] == classes and not labels.is_floating_point() else labels
    if shares.is_floating_point() and shares.shape[1] > 1:
        _check_shares(shares)
    return shares


def _check_shares(shares: Tensor) -> None:
    wrong = ((shares.sum(-1) - 1).abs() > SHARES_TOLERANCE) | (shares < 0).any(-1)  # no comparison is true of NaN
    if wrong.any():
        raise ValueError(
            f"soft labels {shares[wrong][0].tolist()} of an example are no distribution: give shares of the classes "
            "that sum to 1. For several labels an example, set problem_type of the student's config to "
            "multi_label_classification."
        )
