"""From texts to tokens, for the student and for a teacher with a tokenizer of its own, and from tokens to batches."""

from collections.abc import Mapping
from typing import Any

from datasets import DatasetDict
from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from hf_kd_lambda.columns import TEACHER_PREFIX
from hf_kd_lambda.data import TaskData


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


class DistillationCollator:
    """Pad the examples of a batch to its longest, the teacher's own tokens apart from the student's.

    Args:
        tokenizer: the student's.
        teacher_tokenizer: the teacher's, where the examples have columns of its own.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, teacher_tokenizer: PreTrainedTokenizerBase | None = None
    ) -> None:
        self._student = DataCollatorWithPadding(tokenizer)
        self._teacher = DataCollatorWithPadding(teacher_tokenizer) if teacher_tokenizer is not None else None

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Tokens (examples, longest), int64, and labels (examples,), int64 or, for a regression, float32."""
        own = [{k: v for k, v in example.items() if not k.startswith(TEACHER_PREFIX)} for example in examples]
        batch = dict(self._student(own))
        if self._teacher is not None:
            teachers = [
                {k.removeprefix(TEACHER_PREFIX): v for k, v in example.items() if k.startswith(TEACHER_PREFIX)}
                for example in examples
            ]
            batch |= {TEACHER_PREFIX + k: v for k, v in self._teacher(teachers).items()}
        return batch


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: list[list[str]], max_length: int) -> dict[str, list[list[int]]]:
    return dict(tokenizer(*texts, truncation=True, max_length=min(max_length, tokenizer.model_max_length)))
