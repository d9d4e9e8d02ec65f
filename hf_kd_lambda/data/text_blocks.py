"""Texts of a language model: from the Hub, a folder or files, then joined into blocks of tokens."""

from collections.abc import Mapping

from datasets import Dataset, DatasetDict, Features, List, Value, load_dataset
from transformers import PreTrainedTokenizerBase

from hf_kd_lambda.data import bundled
from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.loading import TaskData, with_files
from hf_kd_lambda.losses.functional import IGNORED

_FORMATS = {".txt": "text", ".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_BLOCKS = Features({name: List(Value("int32")) for name in ("input_ids", "labels")})


def load_texts(args: DataArguments, seed: int) -> TaskData:
    """Texts in the column `text` of the splits train, validation and, where there is one, test; empty ones left out.

    Args:
        args: where the texts are, and how many of them to take.
        seed: draws the `max_train_samples` texts.

    Raises:
        ValueError: a split or column is missing, a split is empty, or a text is none. The message names the split,
            the row (counted from 0) and the value.
    """
    if args.task is not None:
        raise ValueError(f"task={args.task!r} is a classification, and problem is text-generation: leave task out.")
    splits = {name: _texts(split, name, args.text_column or "text") for name, split in _load_splits(args).items()}
    for name, split in splits.items():
        if name == "train" and args.max_train_samples is not None:
            splits[name] = split.shuffle(seed).take(args.max_train_samples)
        elif name != "train" and args.max_eval_samples is not None:
            splits[name] = split.take(args.max_eval_samples)
    return TaskData(DatasetDict(splits), None, None)


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


def _load_splits(args: DataArguments) -> dict[str, Dataset]:
    """Splits as they are stored; a file replaces the split of a dataset."""
    splits: dict[str, Dataset] = {}
    if args.dataset == "quickstart":
        splits.update(bundled.load_tweets())
    elif args.dataset is not None:
        splits.update(load_dataset(args.dataset, args.dataset_config))
    # By default a csv's "None" and "NA" would be missing values.
    return with_files(splits, args, _FORMATS, {"keep_default_na": False})


def _texts(split: Dataset, name: str, column: str) -> Dataset:
    if column not in split.column_names:
        raise ValueError(
            f"the {name} split has no column {column!r}, only {', '.join(split.column_names)}: set text_column."
        )
    split = split.select_columns([column]).rename_columns({column: "text"})
    for row, value in enumerate(split["text"][:]):
        if not isinstance(value, str):
            raise ValueError(f"{name} split, row {row}: column {column!r} holds {value!r}, which is no text.")
    split = split.filter(lambda text: bool(text.strip()), input_columns="text")
    if len(split) == 0:
        raise ValueError(f"the {name} split has no text.")
    return split
