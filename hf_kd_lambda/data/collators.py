"""From texts to tokens, for the student and for a teacher with a tokenizer of its own, and from tokens to batches."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from hf_kd_lambda.data.columns import LABELS, TEACHER_PREFIX
from hf_kd_lambda.data.soft_labels import check_shares, number_of_shares
from hf_kd_lambda.losses.functional.labels import SHIFTED, UNLABELLED, next_labels
from hf_kd_lambda.losses.functional.spans import ANSWER_MASK, SPAN_LABELS, span_labels

TOKEN_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}


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


class SpanCollator:
    """Pad windows of question answering to the longest of a batch; other columns are left out.

    Args:
        tokenizer: pads at the right, so that `start_positions` and `end_positions` stay right.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._pad = DataCollatorWithPadding(tokenizer)

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Tokens and `answer_mask` (examples, longest), start and end (examples,), int64."""
        columns = examples[0].keys()
        batch = dict(self._pad([{name: row[name] for name in columns & TOKEN_INPUTS} for row in examples]))
        if ANSWER_MASK in columns:
            masks = [torch.as_tensor(row[ANSWER_MASK]) for row in examples]
            batch[ANSWER_MASK] = pad_sequence(masks, batch_first=True)
        return batch | {name: torch.tensor([row[name] for row in examples]) for name in columns & {*SPAN_LABELS}}


class ShiftedLabels:
    """Adds `shift_labels` next to the labels `[examples, length]` of a batch, unless its collator has.

    Args:
        collate: from examples to a batch.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate
        self.tokenizer = getattr(collate, "tokenizer", None)  # which the Trainer saves where it has none of its own

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        """The batch."""
        batch = dict(self.collate(examples))
        if "labels" in batch and SHIFTED not in batch:
            batch[SHIFTED] = next_labels(batch["labels"])
        return batch


class SpanLabels:
    """Adds `labels` `[examples, 2]`, start and end of each answer, to a batch of question answering.

    It also adds a mask of where answers may be, if the batch has none: all tokens but padding.

    Args:
        collate: from examples to a batch; where `start_positions` or `end_positions` are None, -101 is collated.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate
        self.tokenizer = getattr(collate, "tokenizer", None)  # which the Trainer saves where it has none of its own

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        """The batch."""
        batch = dict(self.collate([_with_spans(example) for example in examples]))
        mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
        return {ANSWER_MASK: mask, **batch, "labels": span_labels(batch)}


def _with_spans(example: Any) -> Any:
    if not isinstance(example, Mapping):
        return example
    return {name: UNLABELLED if name in SPAN_LABELS and value is None else value for name, value in example.items()}


class UnlabelledExamples:
    """Gives a label of -100, or NaN for regression, to examples whose label is None, so that a batch can be made.

    Soft labels, a list of shares, are checked; where one of the batch is None, it is a list of NaN.

    The KD loss alone learns from them: see `item_labels`.

    Args:
        collate: from examples to a batch.
        missing: the label.
        is_token_level: whether each token has a label. All tokens of an unlabelled example then count.
    """

    def __init__(self, collate: Callable[[list[Any]], Any], missing: float, is_token_level: bool) -> None:
        self.collate = collate
        self.missing = missing
        self.is_token_level = is_token_level
        self.tokenizer = getattr(collate, "tokenizer", None)  # which the Trainer saves where it has none of its own

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        """The batch.

        Raises:
            ValueError: soft labels of an example are no distribution.
        """
        classes = 0 if self.is_token_level else max(map(number_of_shares, examples), default=0)
        missing = [math.nan] * classes if classes else self.missing
        batch = dict(self.collate([self._labelled(example, missing) for example in examples]))
        if classes:
            check_shares(batch.get("labels"))
        return batch

    def _labelled(self, example: Any, missing: Any) -> Any:
        if not isinstance(example, Mapping):
            return example
        if self.is_token_level:
            missing = [UNLABELLED] * len(example.get("input_ids", ()))
        return {name: missing if name in LABELS and value is None else value for name, value in example.items()}
