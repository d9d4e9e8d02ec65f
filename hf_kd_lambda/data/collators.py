"""From texts to tokens, for the student and for a teacher with a tokenizer of its own, and from tokens to batches."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from hf_kd_lambda.data.columns import TEACHER_PREFIX
from hf_kd_lambda.losses.functional.labels import SHIFTED, next_labels


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


class ShiftedLabels:
    """Puts `shift_labels` beside the labels `[examples, length]` of a batch, unless its collator has.

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
