"""Splits of a dataset, with files in place of some of them."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Value, load_dataset
from datasets.exceptions import DatasetGenerationError

from hf_kd_lambda.data.arguments import DataArguments

SPLITS = ("train", "validation", "test")


def with_files(
    splits: Mapping[str, Dataset],
    args: DataArguments,
    formats: Mapping[str, str],
    csv_options: Mapping[str, Any],
    names: Iterable[str] = SPLITS,
) -> dict[str, Dataset]:
    """Splits as they are stored, in the order of their names; a file replaces the split of a dataset.

    Args:
        splits: of the dataset; none where there are files alone.
        args: name the files.
        formats: that the files may have, as `load_dataset` calls them, by suffix.
        csv_options: how to read a csv.
        names: of the splits that are kept.

    Raises:
        ValueError: a file cannot be read, or there is no train or validation split.
    """
    found = dict(splits)
    for name in SPLITS:
        if (path := getattr(args, f"{name}_file")) is not None:
            found[name] = _load_file(f"{name}_file", path, formats, csv_options)
    for name, fix in (("train", "give files instead"), ("validation", "set validation_file")):
        if name not in found:
            raise ValueError(f"dataset={args.dataset!r} has no {name} split, only {', '.join(found)}: {fix}.")
    return {name: found[name] for name in names if name in found}


def _load_file(setting: str, path: str, formats: Mapping[str, str], csv_options: Mapping[str, Any]) -> Dataset:
    file_format = formats.get(Path(path).suffix.lower())
    if file_format is None:
        raise ValueError(f"{setting}={path!r} is none of {', '.join(formats)}.")
    if not Path(path).is_file():
        raise ValueError(f"{setting}={path!r} does not exist.")
    options = csv_options if file_format == "csv" else {}
    try:
        return load_dataset(file_format, data_files=path, split="train", **options)
    except (DatasetGenerationError, ValueError) as error:
        raise ValueError(f"{setting}={path!r} is empty or no {file_format}: {error.__cause__ or error}") from error


class GlueTask(NamedTuple):
    """Columns and classes of a task as `nyu-mll/glue` names them; a regression has no classes."""

    text_column: str
    text_pair_column: str | None
    label_names: tuple[str, ...] | None


GLUE_TASKS = {
    "cola": GlueTask("sentence", None, ("unacceptable", "acceptable")),
    "sst2": GlueTask("sentence", None, ("negative", "positive")),
    "mrpc": GlueTask("sentence1", "sentence2", ("not_equivalent", "equivalent")),
    "stsb": GlueTask("sentence1", "sentence2", None),
    "qqp": GlueTask("question1", "question2", ("not_duplicate", "duplicate")),
    "mnli": GlueTask("premise", "hypothesis", ("entailment", "neutral", "contradiction")),
    "qnli": GlueTask("question", "sentence", ("entailment", "not_entailment")),
    "rte": GlueTask("sentence1", "sentence2", ("entailment", "not_entailment")),
    "wnli": GlueTask("sentence1", "sentence2", ("not_entailment", "entailment")),
}


@dataclass(frozen=True)
class TaskData:
    """Labelled examples of one task.

    Args:
        splits: train, validation, perhaps test, for MNLI also validation_mismatched; with the columns text, perhaps
            text_pair, and label (a class, or a float for a regression).
        label_names: names of the classes in the order of the labels; None for a regression.
        task: GLUE task; None for own data.
    """

    splits: DatasetDict
    label_names: list[str] | None
    task: str | None

    @property
    def is_regression(self) -> bool:
        """Whether the label is a number to be predicted."""
        return self.label_names is None

    @property
    def num_labels(self) -> int:
        """Number of classes; 1 for a regression."""
        return 1 if self.label_names is None else len(self.label_names)

    @property
    def has_pairs(self) -> bool:
        """Whether an example is a pair of texts."""
        return "text_pair" in self.splits["train"].column_names

    @property
    def report_split(self) -> str:
        """Split whose score is reported: test where its labels are known, else validation."""
        return "test" if "test" in self.splits else "validation"


def glue_task(task: str | None) -> GlueTask | None:
    if task is None:
        return None
    if task not in GLUE_TASKS:
        nearest = difflib.get_close_matches(task.lower(), GLUE_TASKS, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"the tasks are {', '.join(GLUE_TASKS)}."
        raise ValueError(f"task={task!r} is no GLUE task: {hint} Leave task out for own data.")
    return GLUE_TASKS[task]


def label_names_of(train: Dataset, glue: GlueTask | None) -> list[str] | None:
    """Names of the classes: the dataset's, the task's, or the sorted labels; None for a regression."""
    if glue is not None and glue.label_names is None:
        return None
    if isinstance(train.features["label"], ClassLabel):
        return train.features["label"].names
    if glue is not None:
        return list(glue.label_names or [])
    labels = sorted(set(train["label"][:]))
    if isinstance(labels[0], float):
        return None
    if len(labels) == 1:
        raise ValueError(f"every label of the train split is {labels[0]!r}: a classifier needs two classes or more.")
    if isinstance(labels[0], int) and labels != list(range(len(labels))):
        raise ValueError(
            f"the labels of the train split are {', '.join(map(str, labels))}: integer labels must be 0 to n-1, each "
            "at least once. Number them so, or use names."
        )
    return [str(label) for label in labels]


def encode_labels(split: Dataset, name: str, label_names: list[str] | None) -> Dataset:
    """Labels as indices of the classes, or as floats for a regression."""
    feature, labels = split.features["label"], split["label"][:]
    if isinstance(feature, ClassLabel) and feature.names != label_names:
        labels = feature.int2str(labels)
    codes = {label: code for code, label in enumerate(label_names or [])}
    encoded = [codes.get(label, label) for label in labels]
    for row, code in enumerate(encoded):
        if label_names is None and not isinstance(code, int | float):
            raise ValueError(f"{name} split, row {row}: label {code!r} is no number, as a regression needs.")
        if label_names is not None and not (isinstance(code, int) and 0 <= code < len(label_names)):
            raise ValueError(
                f"{name} split, row {row}: label {code!r} is none of the classes 0 to {len(label_names) - 1} "
                f"({', '.join(label_names)})."
            )
    if label_names is None:
        column, encoding = np.asarray(encoded, dtype=np.float32), Value("float32")
    else:
        column, encoding = np.asarray(encoded, dtype=np.int64), ClassLabel(names=label_names)
    return split.remove_columns("label").add_column("label", column, feature=encoding)
