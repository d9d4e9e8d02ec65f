"""Labelled examples from the Hub, a folder or files, checked and with uniform columns."""

import math
from collections.abc import Mapping

from datasets import Dataset, DatasetDict, load_dataset
from transformers import PreTrainedTokenizerBase

from hf_kd_lambda.data import bundled
from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.columns import TEACHER_PREFIX
from hf_kd_lambda.data.loading import TaskData, encode_labels, glue_task, label_names_of, with_files

_SPLITS = ("train", "validation", "validation_mismatched", "test")
_FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


def load_task_data(args: DataArguments, seed: int) -> TaskData:
    """Load and check the examples, give them uniform columns and encode their labels.

    Args:
        args: where the examples are, and which columns and how many of them to take.
        seed: draws the `max_train_samples` examples.

    Raises:
        ValueError: the task is unknown; a split or column is missing; a split is empty; a text or label is missing;
            a label is out of range. The message names the split, the row (counted from 0) and the value.
    """
    glue = glue_task(args.task)
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


def _load_splits(args: DataArguments) -> dict[str, Dataset]:
    """Splits as they are stored; a file replaces the split of a dataset."""
    splits: dict[str, Dataset] = {}
    if args.dataset == "quickstart":
        splits.update(bundled.load_tweets())
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


def tokenize(
    data: TaskData,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
) -> DatasetDict:
    """Replace the texts by tokens, cut but not padded, and name the label `labels`.

    Args:
        data: the examples.
        tokenizer: the student's.
        max_length: longest sequence in tokens; a tokenizer's own limit holds where it is lower.
        teacher_tokenizer: the teacher's, where its vocabulary is another; its columns get the prefix `teacher_`.
    """
    text_columns = ["text", "text_pair"] if data.has_pairs else ["text"]

    def encode(batch: Mapping[str, list[str]]) -> dict[str, list[list[int]]]:
        texts = [batch[column] for column in text_columns]
        tokens = _tokens(tokenizer, texts, max_length)
        if teacher_tokenizer is None:
            return tokens
        return tokens | {TEACHER_PREFIX + k: v for k, v in _tokens(teacher_tokenizer, texts, max_length).items()}

    tokens = data.splits.map(encode, batched=True, remove_columns=text_columns, desc="Tokenising")
    return tokens.rename_column("label", "labels")


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: list[list[str]], max_length: int) -> dict[str, list[list[int]]]:
    return dict(tokenizer(*texts, truncation=True, max_length=min(max_length, tokenizer.model_max_length)))
