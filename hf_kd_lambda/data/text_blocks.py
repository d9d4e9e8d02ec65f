"""Texts of a language model: from the Hub, a folder or files, then joined into blocks of tokens."""

from collections.abc import Mapping

from datasets import Dataset, DatasetDict, Features, List, Value
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from hf_kd_lambda.data import bundled
from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.selection import select_examples
from hf_kd_lambda.data.sources import Column, Source, check_values, is_text
from hf_kd_lambda.data.split_report import report_splits
from hf_kd_lambda.data.splits import load_splits
from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.losses.functional import IGNORED

logger = logging.get_logger(__name__)

_FORMATS = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".parquet")
_BLOCKS = Features({name: List(Value("int32")) for name in ("input_ids", "labels")})


def load_texts(args: DataArguments, seed: int) -> TaskData:
    """Texts in the column `text` of the splits train, validation and, where there is one, test; empty ones left out.

    Args:
        args: where the texts are, and how many of them to take.
        seed: draws the `max_train_samples` texts.

    Raises:
        ValueError: a split or column is missing, a split is empty, or a text is none. The message names the split or
            file, the row and the value.
    """
    if args.task is not None:
        raise ValueError(f"task={args.task!r} is a classification, and problem is text-generation: leave task out.")
    for setting in ("unlabelled_file", "unlabelled_dataset"):
        if (value := getattr(args, setting)) is not None:
            raise ValueError(
                f"{setting}={value!r}: a language model has no examples without a label, as a text is its own: add "
                "the texts to train_file."
            )
    column = Column(args.text_column or "text", "text", "text_column")
    sources = load_splits(args, [column], _FORMATS, {"quickstart": bundled.load_tweets})
    splits = {name: _texts(source, name, column) for name, source in sources.items()}
    chosen = select_examples(splits, args, seed, None)
    report_splits(chosen, None)
    return TaskData(chosen, None, None)


def cut_blocks(data: TaskData, tokenizer: PreTrainedTokenizerBase, length: int) -> DatasetDict:
    """Join the tokens of all texts, with an end of text after each, and cut them into blocks.

    As transformers' run_clm example, but for two things: each text has its end, and no token is dropped, so that after
    every thousand texts one block is shorter.

    Args:
        data: as loaded.
        tokenizer: of student and teacher; without an end-of-text token, its separator is one.
        length: tokens of a block; the tokenizer's own limit holds where it is lower.

    Returns:
        `input_ids`, and as `labels` the same, -100 for the first token of a block, which nothing predicts.
    """
    length = min(length, tokenizer.model_max_length)
    end = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id

    def encode(batch: Mapping[str, list[str]]) -> dict[str, list[list[int]]]:
        joined: list[int] = []
        for ids in tokenizer(batch["text"], verbose=False).input_ids:
            joined += ids if ids[-1] == end or end is None else [*ids, end]
        blocks = [joined[start : start + length] for start in range(0, len(joined), length)]
        blocks = [block for block in blocks if len(block) > 1]
        return {"input_ids": blocks, "labels": [[IGNORED, *block[1:]] for block in blocks]}

    return data.splits.map(encode, batched=True, remove_columns=["text"], features=_BLOCKS, desc="Tokenising")


def _texts(source: Source, name: str, column: Column) -> Dataset:
    """The texts that are not empty."""
    check_values(source, column, is_text, "text")
    split = source.rows.select_columns(["text"]).filter(lambda text: bool(text.strip()), input_columns="text")
    if len(split) == 0:
        raise ValueError(f"the {name} split has no text.")
    if left_out := len(source.rows) - len(split):
        logger.warning(f"{left_out} texts of the {name} split are empty and left out.")
    return split
