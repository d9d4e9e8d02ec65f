"""What language models learn from: texts, completions of prompts, or conversations, checked."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset, List, Value
from transformers.utils import logging

from hf_kd_lambda.data import bundled
from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.completions import ASSISTANT
from hf_kd_lambda.data.selection import select_examples
from hf_kd_lambda.data.sources import POSITION, ROW, Column, Source, check_values, is_text
from hf_kd_lambda.data.splits import load_splits
from hf_kd_lambda.data.task_data import TaskData

logger = logging.get_logger(__name__)

_FORMATS = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".parquet")
_MESSAGES = List({"role": Value("string"), "content": Value("string")})


def load_texts(args: DataArguments, seed: int) -> TaskData:
    """Examples of the splits train, validation and, where there is one, test; those of empty text are left out.

    They are texts if the training examples have a column `text`; else completions of prompts if they have the columns
    `prompt` and `completion`; else conversations if they have a column `messages`. `text_column` names the texts, or
    with `text_pair_column` the prompts.

    Args:
        args: where the texts are, and how many of them to take.
        seed: draws the `max_train_samples` texts.

    Returns:
        The column `text`; or `text` and `text_pair`, a prompt and its completion; or `messages`.

    Raises:
        ValueError: a split or column is missing, a split is empty, a text is none, or a conversation has no answer of
            the assistant. The message names the split or file, the row and the value.
    """
    for setting in ("unlabelled_file", "unlabelled_dataset"):
        if (value := getattr(args, setting)) is not None:
            raise ValueError(
                f"{setting}={value!r}: a language model has no examples without a label, as a text is its own: add "
                "the texts to train_file."
            )
    columns, *alternatives = _layouts(args)
    bundles = {"quickstart": bundled.load_tweets}
    sources = load_splits(args, columns, _FORMATS, bundles, alternatives=alternatives)
    splits = {name: _examples(source, name, [columns, *alternatives]) for name, source in sources.items()}
    chosen = select_examples(splits, args, seed, None)
    return TaskData(chosen.splits, None, None, held_out=chosen.held_out)


def _layouts(args: DataArguments) -> list[list[Column]]:
    """Columns that examples may have, the preferred ones first."""
    text = [Column(args.text_column or "text", "text", "text_column")]
    prompt = Column(args.text_column or "prompt", "text", "text_column")
    pair = [prompt, Column(args.text_pair_column or "completion", "text_pair", "text_pair_column")]
    if args.text_pair_column is not None:
        return [pair]
    if args.text_column is not None:
        return [text]
    return [text, pair, [Column("messages", "messages", "text_column", _MESSAGES)]]


def _examples(source: Source, name: str, layouts: Sequence[Sequence[Column]]) -> Dataset:
    """Those that have something to learn."""
    found = set(source.rows.column_names) - {ROW, POSITION}
    columns = next(layout for layout in layouts if {column.uniform for column in layout} == found)
    for column in columns:
        if column.feature is None:
            check_values(source, column, is_text, "text")
        else:
            check_values(source, column, _are_messages, "list of messages with role and content")
            check_values(source, column, _has_answer, "conversation in which the role assistant says something")
    learned = columns[-1].uniform
    split = source.rows.select_columns([column.uniform for column in columns])
    split = split.filter(_has_words, input_columns=learned)
    if len(split) == 0:
        raise ValueError(f"the {name} split has no text.")
    if left_out := len(source.rows) - len(split):
        logger.warning(f"{left_out} texts of the {name} split are empty and left out.")
    return split


def _are_messages(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_message, value))


def _has_answer(messages: Any) -> bool:
    return any(message["role"] == ASSISTANT and message["content"].strip() for message in messages)


def _is_message(value: object) -> bool:
    return isinstance(value, Mapping) and all(is_text(value.get(name)) for name in ("role", "content"))


def _has_words(learned: Any) -> bool:
    return not is_text(learned) or bool(learned.strip())
