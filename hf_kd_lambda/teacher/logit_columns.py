"""Logits of several teachers in columns of the examples: their mean as `teacher_logits`."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import Dataset

from hf_kd_lambda.data.columns import TEACHER_LOGITS


def average_logits(examples: Dataset, columns: Mapping[str, float]) -> Dataset:
    """Replace columns of logits, one of each teacher, by their weighted mean in `teacher_logits`; see `Ensemble`.

    Args:
        examples: with logits `[classes]`, or `[tokens, classes]`, in each of the columns.
        columns: the weight of each column, by its name; their ratios count.

    Raises:
        ValueError: a column is missing, a weight is not positive, or logits of an example differ in shape.
    """
    if missing := [name for name in columns if name not in examples.column_names]:
        raise ValueError(f"no column {', '.join(missing)} among {', '.join(examples.column_names)}.")
    if not columns or not all(0 < weight < math.inf for weight in columns.values()):
        raise ValueError(f"columns={dict(columns)} must have a positive finite weight for each column of logits.")
    total = sum(columns.values())

    def mean(row: dict[str, Any]) -> dict[str, Any]:
        logits = {name: np.asarray(row[name], dtype=np.float32) for name in columns}
        if len({values.shape for values in logits.values()}) > 1:
            shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in logits.items())
            raise ValueError(f"the logits of an example differ in shape: {shapes}: give those of the same labels.")
        return {TEACHER_LOGITS: sum(weight / total * logits[name] for name, weight in columns.items())}

    given = [name for name in columns if name != TEACHER_LOGITS]
    return examples.map(mean, remove_columns=given, desc="Averaging logits")
