"""Labelled texts from the Hub, a folder or files, checked and with uniform columns; and their tokens."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from datasets import DatasetDict
from transformers import PreTrainedTokenizerBase

from hf_kd_lambda.data import bundled
from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.classes import encode_labels, find_classes
from hf_kd_lambda.data.columns import TEACHER_PREFIX
from hf_kd_lambda.data.selection import select_examples
from hf_kd_lambda.data.sources import Column, Source, check_values, is_text
from hf_kd_lambda.data.split_report import CUT, report_splits
from hf_kd_lambda.data.splits import load_splits
from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.utils.names import suggestion

_FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


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


def load_task_data(args: DataArguments, seed: int) -> TaskData:
    """Load and check the examples, give them uniform columns and encode their labels.

    Args:
        args: where the examples are, and which columns and how many of them to take.
        seed: draws the `max_train_samples` examples.

    Raises:
        ValueError: the task is unknown; a split or column is missing; a split is empty; a text or label is missing;
            a label is out of range. The message names the split or file, the row and the value.
    """
    glue = glue_task(args.task)
    texts = [Column(args.text_column or (glue.text_column if glue else "text"), "text", "text_column")]
    if pair_column := args.text_pair_column or (glue.text_pair_column if glue else None):
        texts.append(Column(pair_column, "text_pair", "text_pair_column"))
    label = Column(args.label_column, "label", "label_column")

    sources = load_splits(args, [*texts, label], _FORMATS, {"quickstart": bundled.load_tweets})
    for source in sources.values():
        _check(source, texts, label)
    train = sources["train"].rows
    is_regression = glue is not None and glue.label_names is None
    classes = (
        None
        if is_regression
        else find_classes(train["label"][:], train.features["label"], glue.label_names if glue else None)
    )
    encoded = {name: encode_labels(source, classes) for name, source in sources.items()}
    splits = select_examples(encoded, args, seed, None if classes is None else encoded["train"]["label"][:])
    return TaskData(splits, None if classes is None else classes.names, args.task)


def glue_task(task: str | None) -> GlueTask | None:
    """The GLUE task of a name; None for own data.

    Raises:
        ValueError: there is no such task.
    """
    if task is not None and task not in GLUE_TASKS:
        raise ValueError(f"task={task!r} is no GLUE task: {suggestion(task, GLUE_TASKS)} Leave task out for own data.")
    return None if task is None else GLUE_TASKS[task]


def _check(source: Source, texts: list[Column], label: Column) -> None:
    for column in texts:
        check_values(source, column, is_text, "text")
    check_values(source, label, _is_label, "label")


def _is_label(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, int | float) and math.isfinite(value))


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

    def encode(batch: Mapping[str, list[str]]) -> dict[str, list[Any]]:
        texts = [batch[column] for column in text_columns]
        tokens, cut = _tokens(tokenizer, texts, max_length)
        if teacher_tokenizer is not None:
            own, _ = _tokens(teacher_tokenizer, texts, max_length)
            tokens |= {TEACHER_PREFIX + name: column for name, column in own.items()}
        return tokens | {CUT: cut}

    tokens = data.splits.map(encode, batched=True, remove_columns=text_columns, desc="Tokenising")
    limit = min(max_length, tokenizer.model_max_length)
    report_splits(data.splits, data.label_names, {name: sum(split[CUT][:]) for name, split in tokens.items()}, limit)
    return tokens.remove_columns(CUT).rename_column("label", "labels")


def _tokens(
    tokenizer: PreTrainedTokenizerBase, texts: list[list[str]], max_length: int
) -> tuple[dict[str, list[list[int]]], list[bool]]:
    """Tokens of texts or pairs, and which of them are cut."""
    limit = min(max_length, tokenizer.model_max_length)
    tokens = tokenizer(*texts, truncation=True, max_length=limit)
    if tokens.is_fast:
        return dict(tokens), [bool(encoding.overflowing) for encoding in tokens.encodings]
    return dict(tokens), [len(ids) > limit for ids in tokenizer(*texts, verbose=False).input_ids]
