"""Questions with a context and its answers, in SQuAD's layout, from the Hub, a folder or files, checked."""

import reprlib
from typing import Any

from datasets import Dataset, Features, List, Value

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.file_types import check_shape
from hf_kd_lambda.data.selection import select_examples
from hf_kd_lambda.data.sources import Column, Source, check_values, is_text
from hf_kd_lambda.data.splits import TRANSFER_SET, load_splits
from hf_kd_lambda.data.task_data import TaskData

_FORMATS = (".json", ".jsonl", ".parquet")  # those that hold lists
OUTPUTS = ["LABEL_0", "LABEL_1"]
"""The names of the logits of start and end in a configuration."""
_ANSWERS = {"text": List(Value("string")), "answer_start": List(Value("int64"))}
_TEXTS = {"text": Value("string"), "text_pair": Value("string")}


def load_questions(args: DataArguments, seed: int) -> TaskData:
    """Load and check the examples (Rajpurkar et al. 2016, "SQuAD"; 2018 for unanswerable questions).

    Args:
        args: where the examples are, and which columns and how many of them to take.
        seed: draws the `max_train_samples` examples.

    Returns:
        The columns `text` (the question), `text_pair` (the context) and `label`, the answers: `text`, none for an
        unanswerable question, and `answer_start`, the places of their first characters in the context. It is None for
        a training example without a label.

    Raises:
        ValueError: a split or column is missing; a split is empty; a question or a
            context is missing; an answer does not start where `answer_start` is. The message names the split or file,
            the row and the value.
    """
    question = Column(args.text_column or "question", "text", "text_column")
    context = Column(args.text_pair_column or "context", "text_pair", "text_pair_column")
    name = args.label_column if args.label_column != "label" else "answers"
    answers = Column(name, "label", "label_column", _ANSWERS)
    sources = load_splits(args, [question, context, answers], _FORMATS, {}, _FORMATS)
    for split, source in sources.items():
        for column in (question, context):
            check_values(source, column, lambda value: is_text(value) and bool(value.strip()), "text")
        if split != TRANSFER_SET:
            _check_answers(source, answers)
    splits = {split: _uniform(source.rows) for split, source in sources.items()}
    labels = splits["train"]["label"][:] if "train" in splits else []
    strata = [None if label is None else bool(label["text"]) for label in labels]
    chosen = select_examples(splits, args, seed, strata)
    return TaskData(chosen.splits, OUTPUTS, None, held_out=chosen.held_out)


def _uniform(rows: Dataset) -> Dataset:
    """The same types in all splits, and no other fields of the answers."""
    features = Features({**_TEXTS, **({"label": _ANSWERS} if "label" in rows.column_names else {})})
    return rows.select_columns([*features]).map(_known_fields, features=features)


def _known_fields(row: dict[str, Any]) -> dict[str, Any]:
    label = row.get("label")
    return row if label is None else {**row, "label": {name: label[name] for name in _ANSWERS}}


def _check_answers(source: Source, column: Column) -> None:
    for row, example in enumerate(source.rows):
        if example["label"] is None:
            continue
        try:
            check_shape(example["label"], _ANSWERS)
            _check_places(example["text_pair"], **example["label"])
        except ValueError as error:
            raise ValueError(f"{source.where(row)}: column {column.name!r} holds {error}.") from None


def _check_places(context: str, text: list[str], answer_start: list[int], **others: Any) -> None:
    """Refuse answers whose text is not at `answer_start`."""
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
