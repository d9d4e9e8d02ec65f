"""Agreement of student and teacher."""

from collections.abc import Callable

import numpy as np
from scipy.stats import pearsonr
from torch import Tensor


def correlation(coefficient: Callable, labels: np.ndarray, predictions: np.ndarray) -> float:
    """The correlation coefficient of two vectors; 0 if one of them is constant."""
    if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0
    return float(coefficient(labels, predictions).statistic)


def teacher_agreement(student_logits: Tensor, teacher_logits: Tensor) -> float:
    """Share of examples with the same class from student and teacher; for regression, their correlation.

    Args:
        student_logits: `[examples, classes]`, `[examples, 1]` for regression; or in int64 classes `[examples]`, or
            spans `[examples, 2]`, of which both ends count.
        teacher_logits: same shape, classes in the same order.

    Returns:
        The share, in [0, 1], or Pearson's correlation, in [-1, 1].
    """
    if not student_logits.is_floating_point():
        equal = (student_logits == teacher_logits).reshape(len(student_logits), -1)
        return equal.all(-1).float().mean().item()
    if student_logits.shape[-1] > 1:
        return (student_logits.argmax(dim=-1) == teacher_logits.argmax(dim=-1)).float().mean().item()
    student, teacher = (
        logits.detach().reshape(-1).double().cpu().numpy() for logits in (student_logits, teacher_logits)
    )
    return correlation(pearsonr, teacher, student)
