"""Which columns of the examples go into a batch, and which of a batch to which model."""

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, LargeList, List, concatenate_datasets
from torch import nn
from transformers.trainer_utils import unwrap_peft_model

TEACHER_PREFIX = "teacher_"
TEACHER_LOGITS = "teacher_logits"
TEACHER_OUTPUTS = "teacher_outputs"
TEACHER_INPUTS_DIGEST = "teacher_inputs_digest"
EXAMPLE_ROW = "hf_kd_lambda_row"
ADDED_COLUMNS = (TEACHER_LOGITS, TEACHER_OUTPUTS, TEACHER_INPUTS_DIGEST, EXAMPLE_ROW)
"""Outputs of the teacher, see `CacheFormat`, a digest of the inputs that they were computed from, and the example's
position in the training data."""
CLASS_LABELS = ("labels", "label", "label_ids")
"""Names of the column with an example's label, or its tokens' labels; collators make `labels` of all."""
LABELS = (*CLASS_LABELS, "shift_labels", "start_positions", "end_positions")


def forward_parameters(model: nn.Module) -> set[str]:
    """Names of the inputs that a model's `forward` takes, without labels, from which it would compute a loss."""
    # The forward of PEFT's wrappers passes on more than it names.
    return set(inspect.signature(unwrap_peft_model(model).forward).parameters) - set(LABELS)


def accepted_inputs(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a batch that a model's `forward` takes, without labels: see `forward_parameters`."""
    accepted = forward_parameters(model)
    return {name: value for name, value in batch.items() if name in accepted}


def takes_labels(model: nn.Module) -> bool:
    """Whether a model's `forward` can compute a loss itself."""
    return "labels" in inspect.signature(unwrap_peft_model(model).forward).parameters


def column_names(dataset: Any) -> Collection[str]:
    """Names of the columns of a dataset; none if they are unknown."""
    return getattr(dataset, "column_names", None) or ()


def label_columns(examples: Any) -> list[str]:
    """The columns of the labels, if every example of a `datasets.Dataset` has one; empty for lists of labels."""
    if not isinstance(examples, Dataset):
        return []
    features = {name: examples.features[name] for name in LABELS if name in examples.features}
    return [] if any(isinstance(feature, List | LargeList) for feature in features.values()) else [*features]


def are_classified(examples: Any) -> bool:
    """Whether examples have the teacher's logits, and one label each."""
    if not label_columns(examples) or TEACHER_LOGITS not in examples.column_names:
        return False
    logits = examples.select_columns([TEACHER_LOGITS]).with_format(None)[0][TEACHER_LOGITS]
    return np.ndim(logits) == 1


def joined(examples: Dataset, added: Dataset) -> Dataset:
    """The examples with those of the added columns that they do not have yet, in the examples' format."""
    added = added.remove_columns([name for name in added.column_names if name in examples.column_names])
    both = concatenate_datasets([examples.with_format(None), added], axis=1)
    style = examples.format
    columns = [*style["columns"], *added.column_names]
    return both.with_format(style["type"], columns, style["output_all_columns"], **style["format_kwargs"])


def own_inputs(columns: Collection[str], accepted: Collection[str]) -> list[str]:
    """The columns that go to the teacher alone: those with its prefix that its `forward` takes.

    Args:
        columns: column names of a dataset or a batch.
        accepted: inputs of the teacher's `forward`.
    """
    return [name for name in prefixed(columns) if name.removeprefix(TEACHER_PREFIX) in accepted]


def prefixed(columns: Collection[str]) -> list[str]:
    """The columns whose names begin with `teacher_`, without its outputs."""
    return [column for column in columns if column.startswith(TEACHER_PREFIX) and column not in ADDED_COLUMNS]


def teacher_inputs(batch: Mapping[str, Any], accepted: Collection[str]) -> dict[str, Any]:
    """What of a batch, or of the columns of a dataset, is the teacher's: its own if there are any, else the student's.

    Args:
        batch: columns by name.
        accepted: inputs of the teacher's `forward`.
    """
    own = {name.removeprefix(TEACHER_PREFIX): batch[name] for name in own_inputs(batch, accepted)}
    return own or {name: value for name, value in batch.items() if name in accepted}


def flattened(column: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """The values of a column of (nested) lists, and the row of each value.

    Args:
        column: one entry for each row; a column without lists is returned as it is.
    """
    rows = np.arange(len(column))
    while pa.types.is_nested(column.type):
        rows, column = rows[pc.list_parent_indices(column).to_numpy()], pc.list_flatten(column)
    return rows, column


def token_counts(examples: Dataset, columns: Sequence[str] = ("input_ids",)) -> list[int]:
    """How many tokens each example has in the first of these columns that there is; 1 where there is none."""
    for column in columns:
        if isinstance(examples.features.get(column), LargeList | List):
            table = examples.select_columns([column]).with_format("arrow")[:]
            return pc.list_value_length(table[column]).to_pylist()
    return [1] * len(examples)
