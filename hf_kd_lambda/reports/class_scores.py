"""Precision, recall and F1 of each class: which one a mean over classes hides."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

MOST_CLASSES = 20  # a longer table is not read
_SHARES = ("precision", "recall", "f1")


def class_scores(logits: Any, labels: Any, names: Sequence[str] | None) -> list[dict[str, Any]]:
    """For each class its `name`, `precision`, `recall` and `f1`, and the number of `examples` with this label.

    Args:
        logits: `[examples, classes]`.
        labels: `[examples]`.
        names: class names; None for a regression.

    Returns:
        Empty for labels that are not one class for each example, and for more than `MOST_CLASSES`.
    """
    if not names or len(names) > MOST_CLASSES or not isinstance(labels, np.ndarray) or labels.ndim != 1:
        return []
    predicted, classes = logits.argmax(axis=-1), range(len(names))
    columns = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0.0)
    keys = ("name", *_SHARES, "examples")
    return [dict(zip(keys, row, strict=True)) for row in zip(names, *(c.tolist() for c in columns), strict=True)]


def class_rows(scores: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The head and a row for each class, as text; shares in percent.

    Args:
        scores: see `class_scores`.
    """
    rows = [[row["name"], *(f"{100 * row[key]:.1f}" for key in _SHARES), str(row["examples"])] for row in scores]
    return [["class", *(f"{name} (%)" for name in _SHARES), "examples"], *rows]
