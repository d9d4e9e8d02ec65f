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


def check_shares(labels: Any) -> None:
    """Refuse soft labels that are no distributions.

    Args:
        labels: `[examples, classes]`; rows with NaN are of examples without a label. Other labels pass.

    Raises:
        ValueError: names the first that is no distribution.
    """
    if not (isinstance(labels, Tensor) and labels.is_floating_point() and labels.dim() == 2 and labels.shape[1] > 1):
        return
    wrong = ((labels.sum(-1) - 1).abs() > SHARES_TOLERANCE) | (labels < 0).any(-1)  # no comparison is true of NaN
    if wrong.any():
        raise ValueError(
            f"soft labels {labels[wrong][0].tolist()} of an example are no distribution: give shares of the classes "
            "that sum to 1. For several labels an example, set problem_type of the student's config to "
            "multi_label_classification."
        )
