"""Labelled texts from the Hub, a folder or files, checked and with uniform columns; and their tokens."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from datasets import DatasetDict
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from hf_kd_lambda.data import bundled
from hf_kd_lambda.data.arguments import REGRESSION, SINGLE_LABEL, DataArguments
from hf_kd_lambda.data.classes import (
    NAMED_CLASSES,
    as_integer,
    encode_labels,
    find_classes,
    is_missing,
    known_labels,
    with_numbers_for_missing,
)
from hf_kd_lambda.data.columns import TEACHER_PREFIX
from hf_kd_lambda.data.file_types import kind_of_cell
from hf_kd_lambda.data.label_lists import columns_of_labels, encode_label_lists
from hf_kd_lambda.data.selection import select_examples, strata_of_lists
from hf_kd_lambda.data.sources import POSITION, Column, Source, check_values, is_text
from hf_kd_lambda.data.split_report import CUT, report_splits
from hf_kd_lambda.data.splits import TRANSFER_SET, load_splits
from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.utils.names import suggestion

logger = logging.get_logger(__name__)

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
    labels = columns_of_labels(args)
    data = {"quickstart": bundled.load_tweets}
    sources = load_splits(args, [*texts, *labels], _FORMATS, data, (*_FORMATS, ".txt"))
    for source in sources.values():
        for column in texts:
            check_values(source, column, is_text, "text")
    if TRANSFER_SET in sources:
        sources[TRANSFER_SET] = _without_blank_lines(sources[TRANSFER_SET])
    if args.has_label_lists:
        return _with_label_lists(sources, args, seed)
    for name, source in sources.items():
        _check_label(name, source, *labels)
        _check_decimals(source, *labels)
    return _with_one_label(sources, args, glue, seed)


def _with_label_lists(sources: Mapping[str, Source], args: DataArguments, seed: int) -> TaskData:
    encoded, names = encode_label_lists(sources, args)
    labels = encoded["train"]["label"][:] if "train" in encoded else []
    chosen = select_examples(encoded, args, seed, strata_of_lists(labels) if labels else None)
    return TaskData(chosen.splits, names, None, args.problem_type, held_out=chosen.held_out)


def _with_one_label(sources: Mapping[str, Source], args: DataArguments, glue: GlueTask | None, seed: int) -> TaskData:
    labels, feature = known_labels(sources)
    is_regression = args.problem_type == REGRESSION or (glue is not None and glue.label_names is None)
    if args.problem_type == SINGLE_LABEL:
        labels = [as_integer(label) for label in labels]
    classes = (
        None
        if is_regression
        else find_classes(labels, feature, glue.label_names if glue else args.known_classes, args.teacher_classes)
    )
    if classes is None and not is_regression:
        _check_whole_numbers(args, sources, labels)
    encoded = {name: encode_labels(source, classes) for name, source in sources.items()}
    strata = None if classes is None or "train" not in encoded else encoded["train"]["label"][:]
    names = None if classes is None else classes.names
    chosen = select_examples(encoded, args, seed, strata)
    return TaskData(chosen.splits, names, args.task, train_rows=chosen.train_rows, held_out=chosen.held_out)


def glue_task(task: str | None) -> GlueTask | None:
    """The GLUE task of a name; None for own data.

    Raises:
        ValueError: there is no such task.
    """
    if task is not None and task not in GLUE_TASKS:
        raise ValueError(f"task={task!r} is no GLUE task: {suggestion(task, GLUE_TASKS)} Leave task out for own data.")
    return None if task is None else GLUE_TASKS[task]


def _without_blank_lines(source: Source) -> Source:
    """Unlabelled texts or pairs but those without a word, such as the last line of a txt."""
    rows = source.rows
    if POSITION not in rows.column_names:
        rows = rows.add_column(POSITION, np.arange(len(rows)))
    inputs = [name for name in ("text", "text_pair") if name in rows.column_names]
    rows = rows.filter(lambda *texts: any(map(str.strip, texts)), input_columns=inputs)
    if len(rows) == 0:
        raise ValueError(f"{source.name} has no text.")
    if left_out := len(source.rows) - len(rows):
        logger.warning(f"{source.name}: {left_out} examples are empty and left out.")
    return source._replace(rows=rows)


def _check_label(name: str, source: Source, label: Column) -> None:
    kind = "label; a list of labels or shares needs problem_type"
    if name == TRANSFER_SET:
        return
    check_values(source, label, lambda value: is_missing(value) or _is_label(value), kind)


def _check_decimals(source: Source, label: Column) -> None:
    """Refuse numbers with a decimal comma, which would be names of classes."""
    rows = source.rows["label"][:] if "label" in source.rows.column_names else []
    texts = {row: value for row, value in enumerate(rows) if not is_missing(value)}
    if not all(isinstance(text, str) and _is_number(text.replace(",", ".")) for text in texts.values()):
        return
    if (row := next((row for row, text in texts.items() if "," in text), None)) is not None:
        raise ValueError(
            f"{source.where(row)}: column {label.name!r} holds {texts[row]!r}: write numbers with a point, such as "
            "3.5, or give names of classes a letter."
        )


def _is_number(text: str) -> bool:
    return kind_of_cell(text) in ("int64", "float64")


def _check_whole_numbers(args: DataArguments, sources: Mapping[str, Source], labels: Sequence[Any]) -> None:
    """Refuse floats that may be classes: pandas writes integers as floats where some are or were missing.

    Args:
        args: `problem_type` and `known_classes` settle it.
        sources: splits, of which train may have missing labels.
        labels: those that are not missing.
    """
    if args.problem_type == SINGLE_LABEL:
        wrong = next(label for label in labels if isinstance(label, float))
        raise ValueError(f"problem_type={SINGLE_LABEL!r}: the label {wrong!r} of the train split is no class.")
    if args.known_classes is not None or not all(label.is_integer() for label in labels):
        return
    if len(found := set(labels)) > 1 and found == set(range(len(found))):
        raise ValueError(
            f"the labels of the train split are 0.0 to {len(found) - 1:.1f}, which may be classes or numbers: set "
            f"problem_type to {SINGLE_LABEL} or to {REGRESSION}."
        )
    if "train" in sources and any(map(is_missing, sources["train"].rows["label"][:])):
        listed = ", ".join(map(str, sorted(found)[:NAMED_CLASSES])) + (", …" if len(found) > NAMED_CLASSES else "")
        raise ValueError(
            f"{sources['train'].name}: some labels are missing, and the others are {listed}, which may be classes or "
            f"numbers. For numbers, set problem_type to {REGRESSION}. For classes, write names, or integers from 0 on "
            f"and set it to {SINGLE_LABEL}."
        )


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

    splits = DatasetDict(
        {name: with_numbers_for_missing(split, data.num_labels) for name, split in data.splits.items()}
    )
    tokens = splits.map(encode, batched=True, remove_columns=text_columns, desc="Tokenising")
    limit = min(max_length, tokenizer.model_max_length)
    report_splits(data.splits, data.label_names, {name: sum(split[CUT][:]) for name, split in tokens.items()}, limit)
    return tokens.remove_columns(CUT).rename_column("label", "labels")


def check_room(tokenizer: PreTrainedTokenizerBase, limit: int, is_pair: bool = False) -> None:
    """Refuse a length that special tokens fill, with which a tokenizer leaves out texts or does not cut them.

    Raises:
        ValueError: names the setting, and what is needed.
    """
    special = tokenizer.num_special_tokens_to_add(is_pair)
    if limit <= special:
        raise ValueError(
            f"max_length={limit} leaves no room for a word, as the tokenizer adds {special} special tokens: set it to "
            f"{special + 1} or more."
        )


def _tokens(
    tokenizer: PreTrainedTokenizerBase, texts: list[list[str]], max_length: int
) -> tuple[dict[str, list[list[int]]], list[bool]]:
    """Tokens of texts or pairs, and which of them are cut."""
    limit = min(max_length, tokenizer.model_max_length)
    check_room(tokenizer, limit, is_pair=len(texts) > 1)
    tokens = tokenizer(*texts, truncation=True, max_length=limit)
    if tokens.is_fast:
        return dict(tokens), [bool(encoding.overflowing) for encoding in tokens.encodings]
    return dict(tokens), [len(ids) > limit for ids in tokenizer(*texts, verbose=False).input_ids]
