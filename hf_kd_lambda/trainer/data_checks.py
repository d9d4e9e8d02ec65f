"""Datasets and labels that a trainer cannot learn from are refused before training."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset
from torch import nn
from transformers import (
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    default_data_collator,
)
from transformers.utils import logging

from hf_kd_lambda.data.columns import CLASS_LABELS, LABELS, flattened
from hf_kd_lambda.data.first_examples import first_examples
from hf_kd_lambda.data.soft_labels import NO_DISTRIBUTION, are_no_shares
from hf_kd_lambda.losses.functional import IGNORED
from hf_kd_lambda.losses.functional.labels import UNLABELLED
from hf_kd_lambda.losses.functional.spans import ANSWER_MASK, SPAN_LABELS
from hf_kd_lambda.models.causal import is_causal
from hf_kd_lambda.models.labels import MULTI_LABEL, permutation_of
from hf_kd_lambda.trainer.config import DistillationConfig

logger = logging.get_logger(__name__)

_TRIED = 16  # examples whose lengths are compared
_COMPARED = 32  # examples, or up to twice as many, whose labels are
_ROUNDED = 1e-3  # relative difference of labels that differ in their precision alone
_READ = ("labels", *SPAN_LABELS)  # of a batch, by the losses
_WITH_ANY_LABELS = ("loss", "kd_loss", "teacher_agreement")  # metrics that batches without labels may have, too


def check_padding(collator: Any, processor: Any) -> None:
    """Refuse a tokenizer that cannot pad a batch, where the Trainer's own collator has to.

    Raises:
        ValueError: it has no padding token.
    """
    is_tokenizer = isinstance(processor, PreTrainedTokenizerBase)
    if is_tokenizer and isinstance(collator, DataCollatorWithPadding) and processor.pad_token is None:
        raise ValueError(
            f"processing_class: the tokenizer {processor.name_or_path!r} has no pad_token, so that it cannot pad a "
            "batch: set tokenizer.pad_token = tokenizer.eos_token before you tokenise."
        )


def check_lengths(collator: Any, datasets: Sequence[Any]) -> None:
    """Refuse tokens of several lengths where no collator pads them.

    Raises:
        ValueError: the Trainer's collator without a processing_class would have to make a batch of them.
    """
    if collator is not default_data_collator:
        return
    for dataset in datasets:
        rows = [
            row["input_ids"]
            for row in first_examples(dataset, _TRIED)
            if isinstance(row, Mapping) and "input_ids" in row
        ]
        if len(lengths := {len(row) for row in rows if hasattr(row, "__len__")}) > 1:
            raise ValueError(
                f"the examples have input_ids of several lengths, such as {min(lengths)} and {max(lengths)}, and "
                "nothing pads them: give processing_class=tokenizer, or a data_collator that pads."
            )


def check_given_data(args: DistillationConfig, train: Any, evaluated: Any) -> None:
    """Refuse splits in place of training examples, and several evaluations of which none decides.

    Raises:
        ValueError: names the argument and the fix.
    """
    if isinstance(train, dict):
        raise ValueError(f"train_dataset is a {type(train).__name__} of {', '.join(train)}: give one of these splits.")
    metric = str(args.metric_for_best_model).removeprefix("eval_")
    if (
        args.eval_strategy != "no"
        and args.metric_for_best_model is not None
        and isinstance(evaluated, dict)
        and not metric.startswith(tuple(f"{name}_" for name in evaluated))
    ):
        raise ValueError(
            f"metric_for_best_model={args.metric_for_best_model!r}: eval_dataset has {', '.join(evaluated)}: name the "
            f"one that decides, as {next(iter(evaluated), '')}_{metric}."
        )


def check_label_names(args: DistillationConfig) -> None:
    """Refuse labels that both losses would not find.

    Raises:
        ValueError: `label_names` has none of the names that they read.
    """
    if args.label_names and not set(_READ) & set(args.label_names):
        raise ValueError(
            f"label_names={args.label_names}: the losses read labels from {', '.join(_READ)}: rename the column, as "
            f"dataset.rename_column({args.label_names[0]!r}, 'labels'), and leave label_names out."
        )


def warn_without_labels(examples: Any, collate: Callable[[list[Any]], dict[str, Any]], student: nn.Module) -> None:
    """Warn of training examples without a column of labels, which are learned from the teacher alone.

    Args:
        examples: training examples.
        collate: makes a batch of them.
        student: a language model needs labels.

    Raises:
        ValueError: it is one, and has none.
    """
    first = next(iter(examples), None)
    missing = [] if first is None else _missing_labels(collate([first]))
    if missing:
        columns = ", ".join(map(str, first)) if isinstance(first, Mapping) else type(first).__name__
        if is_causal(student):
            raise ValueError(
                f"train_dataset gives no labels ({columns}), the tokens that a language model is to predict: give "
                "data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False), or a column labels."
            )
        logger.warning(
            f"train_dataset gives no labels ({columns}), so that the student learns from the teacher alone. If that "
            f"is not intended, rename the labels to {' and '.join(map(repr, missing))}."
        )


def _missing_labels(batch: Mapping[str, Any]) -> list[str]:
    """The columns of labels that a batch lacks; for answers, `labels` are there in any case, made of two others."""
    return [name for name in (SPAN_LABELS if ANSWER_MASK in batch else ("labels",)) if name not in batch]


def check_evaluation(
    args: DistillationConfig,
    examples: Any,
    collate: Callable[[list[Any]], dict[str, Any]],
    student: nn.Module,
    has_own_loss: bool,
) -> None:
    """Refuse evaluations in training that have no batch, or not the labels that the deciding metric needs.

    Args:
        args: settings of the run.
        examples: for evaluation; only those of type `datasets.Dataset` are checked.
        collate: makes a batch of them.
        student: a language model is not evaluated without labels.
        has_own_loss: whether the task loss is the user's, who knows which labels it needs.

    Raises:
        ValueError: names the setting and the fix.
    """
    if not isinstance(examples, Dataset) or args.eval_strategy == "no":
        return
    if args.dataloader_drop_last and len(examples) < args.eval_batch_size * args.world_size:
        raise ValueError(
            f"per_device_eval_batch_size={args.per_device_eval_batch_size}: the {len(examples)} validation examples "
            "fill no batch, and dataloader_drop_last=True drops the rest: lower it."
        )
    metric = str(args.metric_for_best_model).removeprefix("eval_")
    needs_labels = has_own_loss or is_causal(student)
    if metric not in ("task_loss", *(_WITH_ANY_LABELS if needs_labels else ())):
        return
    if not _missing_labels(collate([examples[0]])) and (has_own_loss or _have_known_labels(examples)):
        return
    fix = "" if needs_labels else ", or set metric_for_best_model to kd_loss"
    raise ValueError(
        f"metric_for_best_model={args.metric_for_best_model!r}: eval_dataset has no label: give it labels{fix}."
    )


def _have_known_labels(examples: Dataset) -> bool:
    """Whether any label is known; also where there is no column of labels, as a collator may make them."""
    columns = [name for name in LABELS if name in examples.column_names]
    for column in columns:
        _, values = flattened(examples.select_columns([column]).with_format("arrow")[:][column].combine_chunks())
        if not (
            pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_null(values.type)
        ):
            return True
        if len(_known(values.cast(pa.float64()).to_numpy(zero_copy_only=False))):
            return True
    return not columns


def _known(labels: np.ndarray) -> np.ndarray:
    return labels[np.isfinite(labels) & ~np.isin(labels, (IGNORED, UNLABELLED))]


def has_labels_of_batches(examples: Dataset, column: str, collate: Callable[[list[Any]], Mapping[str, Any]]) -> bool:
    """Whether batches have the labels of a column, which a transform or a collator may change.

    Args:
        examples: a few of them are read.
        column: the column of their labels, integers or floats, also in lists.
        collate: makes a batch of examples.
    """
    rows = range(0, len(examples), max(len(examples) // _COMPARED, 1))
    table = examples.select(rows).select_columns([column]).with_format("arrow")[:]
    _, stored = flattened(table[column].combine_chunks())
    labels = _known(stored.cast(pa.float64()).to_numpy(zero_copy_only=False))
    batch = collate([examples[row] for row in rows])
    if batch.get("labels") is None:
        return False
    given = _known(batch["labels"].cpu().double().flatten().numpy())
    # Sorted, as a collator may sort the examples of a batch.
    return len(given) == len(labels) and bool(np.allclose(np.sort(given), np.sort(labels), rtol=_ROUNDED))


def check_given_labels(
    datasets: Sequence[Any],
    num_outputs: int,
    is_token_level: bool = False,
    problem_type: str | None = None,
    names: Sequence[str] = (),
) -> None:
    """Refuse labels that the student cannot learn.

    Args:
        datasets: for training and evaluation; only those of type `datasets.Dataset` are checked.
        num_outputs: the student's outputs: classes, or 1 for regression.
        is_token_level: whether each token has a label.
        problem_type: from the student's configuration.
        names: of the student's classes, in the order of its outputs.

    Raises:
        ValueError: names the first example with such a label, or the classes that are in another order.
    """
    for dataset in datasets:
        columns = dataset.column_names if isinstance(dataset, Dataset) else []
        if column := next((name for name in CLASS_LABELS if name in columns), None):
            _check_class_order(column, dataset.features[column], names)
            values = dataset.select_columns([column]).with_format("arrow")[:][column].combine_chunks()
            if pa.types.is_nested(values.type) and not is_token_level:
                _check_lists(column, values, num_outputs, problem_type == MULTI_LABEL)
            else:
                _check_column(column, values, num_outputs, is_token_level)


def _check_class_order(column: str, feature: Any, names: Sequence[str]) -> None:
    """Refuse class numbers of a dataset that stand for other classes of the same names in the student."""
    feature = getattr(feature, "feature", feature)  # of each token
    if not isinstance(feature, ClassLabel):
        return
    permutation = permutation_of(names, feature.names)
    if permutation not in (None, list(range(len(names)))):
        raise ValueError(
            f"column {column!r} counts its classes in the order {', '.join(feature.names)}, and the student in the "
            f"order {', '.join(names)}: give its labels the student's numbers, with dataset.align_labels_with_mapping("
            f"{{name: index for index, name in student.config.id2label.items()}}, {column!r})."
        )


def _check_lists(column: str, values: pa.Array, num_outputs: int, are_sets: bool) -> None:
    """Several labels of an example, 1, 0 or missing for each; or soft labels, a share of each class."""
    if num_outputs == 1:
        raise ValueError(
            f"column {column!r} holds lists, but the student has one output, for a regression: give each example a "
            "number, not a list of one number."
        )
    rows, numbers = flattened(values)
    if not (pa.types.is_integer(numbers.type) or pa.types.is_floating(numbers.type)):
        return
    found = numbers.cast(pa.float64()).to_numpy(zero_copy_only=False)
    lengths = np.bincount(rows, minlength=len(values))
    lengths[values.is_null().to_numpy(zero_copy_only=False)] = num_outputs
    if (lengths != num_outputs).any():
        row = int((lengths != num_outputs).argmax())
        raise ValueError(f"{_place(column, row)}: {lengths[row]} labels of an example, the student has {num_outputs}.")
    given = found.reshape(-1, num_outputs)
    if are_sets:
        known = ~(np.isnan(given) | np.isin(given, (IGNORED, UNLABELLED)))
        wrong = (known & ~np.isin(given, (0, 1))).any(1)
    else:
        wrong = are_no_shares(given)
    if wrong.any():
        index = int(wrong.argmax())
        problem = "are not 1, 0 or missing (None, NaN, -100) for each label." if are_sets else NO_DISTRIBUTION
        raise ValueError(f"{_place(column, rows[index * num_outputs])}: {given[index].tolist()} {problem}")


def _place(column: str, row: int) -> str:
    return f"column {column!r}, example {row} (counted from 0)"


def _check_column(column: str, values: pa.Array, num_outputs: int, is_token_level: bool) -> None:
    rows, values = flattened(values) if is_token_level else (np.arange(len(values)), values)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        raise ValueError(
            f"column {column!r} holds texts, such as {values[0].as_py()!r}: encode them as the student's outputs, "
            "for example with student.config.label2id."
        )
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    if not any(is_kind(values.type) for is_kind in kinds):
        return
    numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    wrong = _wrong_classes(numbers, num_outputs) if num_outputs > 1 else np.isinf(numbers)
    if wrong.any():
        first = int(wrong.argmax())
        needed = f"a class from 0 to {num_outputs - 1}" if num_outputs > 1 else "a finite number"
        raise ValueError(
            f"{_place(column, rows[first])}: label {values[first].as_py()!r} is not {needed}, or {IGNORED} for none: "
            "encode the labels as the student's outputs."
        )
    if num_outputs > 1 and not pa.types.is_integer(values.type):
        raise ValueError(
            f"column {column!r} holds classes as numbers of type {values.type}: fill in {IGNORED} for missing labels "
            f"and cast it, as dataset.cast_column({column!r}, Value('int64'))."
        )


def _wrong_classes(numbers: np.ndarray, classes: int) -> np.ndarray:
    is_class = (numbers >= 0) & (numbers < classes) & (numbers == np.floor(numbers))
    return ~(is_class | np.isnan(numbers) | np.isin(numbers, (IGNORED, UNLABELLED)))
