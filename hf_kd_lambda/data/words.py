"""Lists of words with a label for each, from the Hub, a folder or files, checked and with uniform columns."""

from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, load_dataset
from transformers.utils import logging

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.loading import TaskData, label_names_of, with_files

logger = logging.get_logger(__name__)

_FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}  # those that hold lists


def load_token_data(args: DataArguments, seed: int) -> TaskData:
    """Load and check the examples; their columns are then `words` and `label`, a class for each word.

    Args:
        args: where the examples are, and which columns and how many of them to take.
        seed: draws the `max_train_samples` examples.

    Raises:
        ValueError: a setting is for texts; a split or column is missing; a split is empty; words or labels are
            missing; a label is out of range. The message names the split, the row (counted from 0) and the value.
    """
    for setting in ("task", "text_pair_column"):
        if (value := getattr(args, setting)) is not None:
            raise ValueError(f"{setting}={value!r} is for text-classification: leave it out of {args.problem}.")
    words, labels = args.text_column or "tokens", args.label_column
    splits = {name: _uniform_columns(split, name, words, labels) for name, split in _load_splits(args).items()}
    label_names = label_names_of(_words_of(splits["train"]), None)
    assert label_names is not None, "no label is a float"
    for name, split in splits.items():
        splits[name] = _encode_labels(split, name, label_names)
        if name == "train" and args.max_train_samples is not None:
            splits[name] = splits[name].shuffle(seed).take(args.max_train_samples)
        elif args.max_eval_samples is not None:
            splits[name] = splits[name].take(args.max_eval_samples)
    return TaskData(DatasetDict(splits), label_names, task=None)


def _load_splits(args: DataArguments) -> dict[str, Dataset]:
    """Splits as they are stored; a file replaces the split of a dataset."""
    if args.dataset == "quickstart":
        raise ValueError("dataset='quickstart' has labels of texts, none of words: give another dataset, or files.")
    splits = dict(load_dataset(args.dataset, args.dataset_config)) if args.dataset is not None else {}
    if "test" in splits and not _has_labels(splits["test"], args.label_column):
        del splits["test"]
    return with_files(splits, args, _FORMATS, {})


def _has_labels(test: Dataset, label_column: str) -> bool:
    # Benchmarks keep the labels of their test split secret: no column, or -1 for every word.
    if label_column not in test.column_names:
        return False
    return any(label != -1 for labels in test[label_column][:] for label in labels or ())


def _uniform_columns(split: Dataset, name: str, words: str, labels: str) -> Dataset:
    """Keep and rename both columns, after a check that each row has words, and a label for each."""
    for column, setting in ((words, "text_column"), (labels, "label_column")):
        if column not in split.column_names:
            raise ValueError(
                f"the {name} split has no column {column!r}, only {', '.join(split.column_names)}: set {setting}."
            )
    for row, (own_words, own_labels) in enumerate(zip(split[words][:], split[labels][:], strict=True)):
        where = f"{name} split, row {row}: column"
        if not _are_all(own_words, str):
            raise ValueError(f"{where} {words!r} holds {own_words!r}, which is no list of words.")
        if not _are_all(own_labels, int | str):
            raise ValueError(f"{where} {labels!r} holds {own_labels!r}, which is no list of labels.")
        if len(own_words) != len(own_labels):
            raise ValueError(f"{where} {labels!r} holds {len(own_labels)} labels for {len(own_words)} words.")
    split = split.select_columns([words, labels]).rename_columns({words: "words", labels: "label"})
    return _without_empty(split, name)


def _are_all(values: object, kind: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _without_empty(split: Dataset, name: str) -> Dataset:
    kept = [row for row, words in enumerate(split["words"][:]) if words]
    if not kept:
        raise ValueError(f"the {name} split is empty.")
    if len(kept) == len(split):
        return split
    logger.warning(f"{len(split) - len(kept)} examples of the {name} split have no words and are left out.")
    return split.select(kept)


def _words_of(split: Dataset) -> Dataset:
    """The label of each word as an example of its own."""
    labels = [label for labels in split["label"][:] for label in labels]
    return Dataset.from_dict({"label": labels}, Features({"label": split.features["label"].feature}))


def _encode_labels(split: Dataset, name: str, label_names: list[str]) -> Dataset:
    """Labels as indices of the classes."""
    classes, rows = split.features["label"].feature, split["label"][:]
    if isinstance(classes, ClassLabel) and classes.names != label_names:
        rows = [classes.int2str(labels) for labels in rows]
    codes = {label: code for code, label in enumerate(label_names)}
    encoded = [[codes.get(label, label) for label in labels] for labels in rows]
    for row, labels in enumerate(encoded):
        for label in labels:
            if not (isinstance(label, int) and 0 <= label < len(label_names)):
                raise ValueError(
                    f"{name} split, row {row}: label {label!r} is none of the classes 0 to {len(label_names) - 1} "
                    f"({', '.join(label_names)})."
                )
    return split.remove_columns("label").add_column("label", encoded)
