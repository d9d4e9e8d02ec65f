"""Labelled examples from the Hub, a folder or files, checked and with uniform columns."""

import difflib
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Value, load_dataset

from hf_kd_lambda import quickstart
from hf_kd_lambda.arguments import DataArguments
from hf_kd_lambda.splits import with_files


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
_SPLITS = ("train", "validation", "validation_mismatched", "test")
_FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


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


def load_task_data(args: DataArguments, seed: int) -> TaskData:
    """Load and check the examples, give them uniform columns and encode their labels.

    Args:
        args: where the examples are, and which columns and how many of them to take.
        seed: draws the `max_train_samples` examples.

    Raises:
        ValueError: the task is unknown; a split or column is missing; a split is empty; a text or label is missing;
            a label is out of range. The message names the split, the row (counted from 0) and the value.
    """
    glue = _glue_task(args.task)
    columns = {args.text_column or (glue.text_column if glue else "text"): "text"}
    if pair_column := args.text_pair_column or (glue.text_pair_column if glue else None):
        columns[pair_column] = "text_pair"
    columns[args.label_column] = "label"

    splits = {name: _uniform_columns(split, name, columns) for name, split in _load_splits(args).items()}
    label_names = label_names_of(splits["train"], glue)
    for name, split in splits.items():
        splits[name] = encode_labels(split, name, label_names)
        if name == "train" and args.max_train_samples is not None:
            splits[name] = splits[name].shuffle(seed).take(args.max_train_samples)
        elif args.max_eval_samples is not None:
            splits[name] = splits[name].take(args.max_eval_samples)
    return TaskData(DatasetDict(splits), label_names, args.task)


def _glue_task(task: str | None) -> GlueTask | None:
    if task is None:
        return None
    if task not in GLUE_TASKS:
        nearest = difflib.get_close_matches(task.lower(), GLUE_TASKS, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"the tasks are {', '.join(GLUE_TASKS)}."
        raise ValueError(f"task={task!r} is no GLUE task: {hint} Leave task out for own data.")
    return GLUE_TASKS[task]


def _load_splits(args: DataArguments) -> dict[str, Dataset]:
    """Splits as they are stored; a file replaces the split of a dataset."""
    splits: dict[str, Dataset] = {}
    if args.dataset == "quickstart":
        splits.update(quickstart.load_tweets())
    elif args.dataset is not None:
        splits.update(load_dataset(args.dataset, args.dataset_config or args.task))
    if "validation_matched" in splits:
        splits["validation"] = splits.pop("validation_matched")
    if "test" in splits and not _has_labels(splits["test"], args.label_column):
        del splits["test"]
    # By default a csv's "None", "NA" and empty texts would be missing values: here only labels can be missing.
    missing = {"keep_default_na": False, "na_values": {args.label_column: ["", "nan", "NaN"]}}
    return with_files(splits, args, _FORMATS, missing, _SPLITS)


def _has_labels(test: Dataset, label_column: str) -> bool:
    # Benchmarks keep the labels of their test split secret: no column, or -1 in every row.
    return label_column in test.column_names and set(test[label_column][:]) != {-1}


def _uniform_columns(split: Dataset, name: str, columns: dict[str, str]) -> Dataset:
    """Keep and rename the columns, after a check that each row has its texts and its label."""
    if len(split) == 0:
        raise ValueError(f"the {name} split is empty.")
    for column, uniform in columns.items():
        if column not in split.column_names:
            raise ValueError(
                f"the {name} split has no column {column!r}, only {', '.join(split.column_names)}: "
                f"set {uniform}_column."
            )
        for row, value in enumerate(split[column][:]):
            usable = isinstance(value, str)
            if uniform == "label":
                usable = usable or (isinstance(value, int | float) and math.isfinite(value))
            if not usable:
                kind = "label" if uniform == "label" else "text"
                raise ValueError(f"{name} split, row {row}: column {column!r} holds {value!r}, which is no {kind}.")
    return split.select_columns(list(columns)).rename_columns(columns)


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
