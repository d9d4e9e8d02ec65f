"""Questions with a context and its answers, in SQuAD's layout, from the Hub, a folder or files, checked."""

import reprlib
from collections.abc import Mapping
from typing import Any

from datasets import Dataset, Features, List, Value

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.file_types import check_shape
from hf_kd_lambda.data.selection import select_examples
from hf_kd_lambda.data.sources import Column, Source, check_values, is_text
from hf_kd_lambda.data.splits import load_splits
from hf_kd_lambda.data.task_data import TaskData

_FORMATS = (".json", ".jsonl", ".parquet")  # those that hold lists
OUTPUTS = ["LABEL_0", "LABEL_1"]
"""The names of the logits of start and end in a configuration."""
_ANSWERS = {"text": List(Value("string")), "answer_start": List(Value("int64"))}
_UNIFORM = Features(
    {
        "text": Value("string"),
        "text_pair": Value("string"),
        "answers": List(Value("string")),
        "answer_starts": List(Value("int64")),
    }
)


def load_questions(args: DataArguments, seed: int) -> TaskData:
    """Load and check the examples (Rajpurkar et al. 2016, "SQuAD"; 2018 for unanswerable questions).

    Args:
        args: where the examples are, and which columns and how many of them to take.
        seed: draws the `max_train_samples` examples.

    Returns:
        The columns `text` (the question), `text_pair` (the context), `answers` (texts in the context; none for an
        unanswerable question) and `answer_starts` (the places of their first characters).

    Raises:
        ValueError: a setting is for another task; a split or column is missing; a split is empty; a question, a
            context or the answers are missing; an answer does not start where `answer_start` is. The message names the
            split or file, the row and the value.
    """
    if args.task is not None:
        raise ValueError(f"task={args.task!r} is for text-classification: leave it out of {args.problem}.")
    for setting in ("unlabelled_file", "unlabelled_dataset"):
        if (value := getattr(args, setting)) is not None:
            raise ValueError(f"{setting}={value!r} is not read by {args.problem}: leave it out.")
    if args.dataset == "quickstart":
        raise ValueError("dataset='quickstart' has no questions: give another dataset, or files.")
    question = Column(args.text_column or "question", "text", "text_column")
    context = Column(args.text_pair_column or "context", "text_pair", "text_pair_column")
    name = args.label_column if args.label_column != "label" else "answers"
    answers = Column(name, "label", "label_column", _ANSWERS)
    sources = load_splits(args, [question, context, answers], _FORMATS, {})
    splits = {}
    for split, source in sources.items():
        for column in (question, context):
            check_values(source, column, lambda value: is_text(value) and bool(value.strip()), "text")
        _check_answers(source, answers)
        splits[split] = Dataset.from_list([_uniform(row) for row in source.rows], features=_UNIFORM)
    is_answerable = [bool(texts) for texts in splits["train"]["answers"][:]]
    return TaskData(select_examples(splits, args, seed, is_answerable), OUTPUTS, None)


def _uniform(row: Mapping[str, Any]) -> dict[str, Any]:
    answers = row["label"]
    texts = {name: row[name] for name in ("text", "text_pair")}
    return {**texts, "answers": answers["text"], "answer_starts": answers["answer_start"]}


def _check_answers(source: Source, column: Column) -> None:
    for row, example in enumerate(source.rows):
        try:
            check_shape(example["label"], _ANSWERS)
            _check_places(example["text_pair"], **example["label"])
        except ValueError as error:
            raise ValueError(f"{source.where(row)}: column {column.name!r} holds {error}.") from None


def _check_places(context: str, text: list[str], answer_start: list[int], **others: Any) -> None:
    """Refuse answers that are not where they are said to start."""
    if len(text) != len(answer_start):
        raise ValueError(f"{len(text)} texts and {len(answer_start)} starts")
    for answer, start in zip(text, answer_start, strict=True):
        if not answer.strip():
            raise ValueError("an empty answer; an unanswerable question has empty lists")
        if start < 0 or not context.startswith(answer, start):
            raise ValueError(
                f"the answer {reprlib.repr(answer)} at character {start}, where the context has "
                f"{reprlib.repr(context[max(start, 0) :][: len(answer)])}"
            )
