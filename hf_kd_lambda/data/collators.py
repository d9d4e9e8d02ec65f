"""From tokens to padded batches, for the student and for a teacher with a tokenizer of its own."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from hf_kd_lambda.data.columns import TEACHER_PREFIX
from hf_kd_lambda.losses.functional.spans import ANSWER_MASK, SPAN_LABELS

TOKEN_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}


class DistillationCollator:
    """Pad the examples of a batch to its longest, the teacher's own tokens apart from the student's.

    Args:
        tokenizer: the student's.
        teacher_tokenizer: the teacher's, where examples have columns of its own.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, teacher_tokenizer: PreTrainedTokenizerBase | None = None
    ) -> None:
        self.tokenizer = tokenizer  # which the Trainer saves where it has none of its own
        self._student = DataCollatorWithPadding(tokenizer)
        self._teacher = DataCollatorWithPadding(teacher_tokenizer) if teacher_tokenizer is not None else None

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Tokens (examples, longest), int64, and labels (examples,), int64 or, for a regression, float32."""
        own = [{k: v for k, v in example.items() if not k.startswith(TEACHER_PREFIX)} for example in examples]
        batch = dict(self._student(own))
        if self._teacher is not None and any(name.startswith(TEACHER_PREFIX) for name in examples[0]):
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
