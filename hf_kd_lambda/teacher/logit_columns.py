"""Logits of several teachers in columns of the examples: their mean as `teacher_logits`, and those of each teacher."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from hf_kd_lambda.data.columns import TEACHER_LOGITS, TEACHER_OUTPUTS
from hf_kd_lambda.teacher.cache_format import member_tensors
from hf_kd_lambda.teacher.collator import packed


def average_logits(examples: Dataset, columns: Mapping[str, float], keep_each: bool = False) -> Dataset:
    """Replace columns of logits, one of each teacher, by their weighted mean in `teacher_logits`; see `Ensemble`.

    Args:
        examples: with logits `[classes]`, or `[tokens, classes]`, in each of the columns.
        columns: the weight of each column, by its name; their ratios count.
        keep_each: also keep the logits of each teacher, in `teacher_outputs`, for a reliability of its own: see the
            rule `trust`.

    Raises:
        ValueError: a column is missing, a weight is not positive, or logits of an example differ in shape.
    """
    if missing := [name for name in columns if name not in examples.column_names]:
        raise ValueError(f"no column {', '.join(missing)} among {', '.join(examples.column_names)}.")
    if not columns or not all(0 < weight < math.inf for weight in columns.values()):
        raise ValueError(f"columns={dict(columns)} must have a positive finite weight for each column of logits.")
    total = sum(columns.values())
    weights = [weight / total for weight in columns.values()]

    def joined(row: dict[str, Any]) -> dict[str, Any]:
        logits = {name: np.asarray(row[name], dtype=np.float32) for name in columns}
        if len({values.shape for values in logits.values()}) > 1:
            shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in logits.items())
            raise ValueError(f"the logits of an example differ in shape: {shapes}: give those of the same labels.")
        mean = {TEACHER_LOGITS: sum(weight * values for weight, values in zip(weights, logits.values(), strict=True))}
        if not keep_each:
            return mean
        return mean | {TEACHER_OUTPUTS: packed(member_tensors([*map(torch.from_numpy, logits.values())], weights))}

    given = [name for name in columns if name != TEACHER_LOGITS]
    return examples.map(joined, remove_columns=given, desc="Averaging logits")
