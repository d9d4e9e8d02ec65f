"""Texts of a language model, joined into chunks of tokens."""

from collections.abc import Mapping

from datasets import DatasetDict, Features, List, Value
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from hf_kd_lambda.data.split_report import report_splits
from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.losses.functional import IGNORED

logger = logging.get_logger(__name__)

_CHUNKS = Features({name: List(Value("int32")) for name in ("input_ids", "labels")})


def make_text_chunks(data: TaskData, tokenizer: PreTrainedTokenizerBase, length: int) -> DatasetDict:
    """Join the tokens of all texts, with an end of text after each, and cut them into chunks.

    As transformers' run_clm example, but for two things: each text has its end, and the tokens that remain after every
    thousand texts are a shorter chunk, unless there is one alone.

    Args:
        data: as loaded.
        tokenizer: shared by student and teacher; without an end-of-text token, its separator is used.
        length: tokens of a chunk; the tokenizer's own limit holds where it is lower.

    Raises:
        ValueError: a chunk would have a single token.

    Returns:
        `input_ids`, and as `labels` the same, -100 for the first token of a chunk, which nothing predicts.
    """
    length = min(length, tokenizer.model_max_length)
    if length < 2:
        raise ValueError(f"max_length={length} leaves no token to predict, as nothing predicts the first: raise it.")
    end = end_of_text(tokenizer)

    def encode(batch: Mapping[str, list[str]]) -> dict[str, list[list[int]]]:
        joined: list[int] = []
        for ids in tokenizer(batch["text"], verbose=False).input_ids:
            joined += ids if ids[-1] == end or end is None else [*ids, end]
        chunks = [joined[start : start + length] for start in range(0, len(joined), length)]
        chunks = [chunk for chunk in chunks if len(chunk) > 1]
        return {"input_ids": chunks, "labels": [[IGNORED, *chunk[1:]] for chunk in chunks]}

    report_splits(data.splits, None)
    chunks = data.splits.map(encode, batched=True, remove_columns=["text"], features=_CHUNKS, desc="Tokenising")
    for name, split in data.splits.items():
        logger.warning(
            f"{name}: {len(split)} texts are cut into {len(chunks[name])} chunks of {length} tokens, which are the "
            "examples from here on"
        )
    return chunks


def end_of_text(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token after a text; if the tokenizer has none, its separator."""
    return tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
