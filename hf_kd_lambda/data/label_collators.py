"""Collators around another one, which bring the labels of a batch into the form that the losses take."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

import torch

from hf_kd_lambda.data.columns import LABELS
from hf_kd_lambda.data.soft_labels import as_soft_labels, number_of_shares
from hf_kd_lambda.losses.functional import IGNORED
from hf_kd_lambda.losses.functional.labels import SHIFTED, UNLABELLED, next_labels
from hf_kd_lambda.losses.functional.spans import ANSWER_MASK, SPAN_LABELS, span_labels


class LabelCollator(ABC):
    """Base class: changes the labels of another collator's examples or batches.

    Args:
        collate: from examples to a batch.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate
        self.tokenizer = getattr(collate, "tokenizer", None)  # which the Trainer saves where it has none of its own

    @abstractmethod
    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        """The batch."""


class ShiftedLabels(LabelCollator):
    """Adds `shift_labels` next to the labels `[examples, length]` of a batch, unless its collator has.

    Args:
        collate: from examples to a batch.
    """

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        """The batch."""
        batch = dict(self.collate(examples))
        if "labels" in batch and SHIFTED not in batch:
            batch[SHIFTED] = next_labels(batch["labels"])
        return batch


class SpanLabels(LabelCollator):
    """Adds `labels` `[examples, 2]`, start and end of each answer, to a batch of question answering.

    It also adds a mask of where answers may be, if the batch has none: all tokens but padding.

    Args:
        collate: from examples to a batch; where `start_positions` or `end_positions` are None, -101 is collated.
    """

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        """The batch."""
        batch = dict(self.collate([_with_spans(example) for example in examples]))
        mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
        return {ANSWER_MASK: mask, **batch, "labels": span_labels(batch)}


def _with_spans(example: Any) -> Any:
    if not isinstance(example, Mapping):
        return example
    return {name: UNLABELLED if name in SPAN_LABELS and value is None else value for name, value in example.items()}


class UnlabelledExamples(LabelCollator):
    """Gives a label of -100, or NaN for regression, to examples whose label is None, so that a batch can be made.

    Soft labels, a list of shares, are checked and become floats; where one of the batch is None, it is a list of NaN.

    The KD loss alone learns from them: see `item_labels`.

    Args:
        collate: from examples to a batch.
        num_labels: the student's classes; 1 for regression, where integer labels become floats.
        is_token_level: whether each token has a label. All tokens of an unlabelled example then count.
    """

    def __init__(self, collate: Callable[[list[Any]], Any], num_labels: int, is_token_level: bool) -> None:
        super().__init__(collate)
        self.num_labels = num_labels
        self.missing = math.nan if num_labels == 1 else IGNORED
        self.is_token_level = is_token_level

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        """The batch.

        Raises:
            ValueError: soft labels of an example are no distribution.
        """
        classes = 0 if self.is_token_level else max(map(number_of_shares, examples), default=0)
        missing = [math.nan] * classes if classes else self.missing
        batch = dict(self.collate([self._labelled(example, missing) for example in examples]))
        if "labels" in batch and not self.is_token_level:
            batch["labels"] = as_soft_labels(batch, self.num_labels)
        return batch

    def _labelled(self, example: Any, missing: Any) -> Any:
        if not isinstance(example, Mapping):
            return example
        if self.is_token_level:
            missing = [UNLABELLED] * len(example.get("input_ids", ()))
        return {name: _known(value, missing) if name in LABELS else value for name, value in example.items()}


def _known(label: Any, missing: Any) -> Any:
    if label is None:
        return missing
    return float(label) if isinstance(missing, float) and isinstance(label, Integral) else label


class LabelSets(LabelCollator):
    """Brings several labels an example, 1 or 0 for each, into an integer tensor `[examples, labels]`.

    A label that is None, NaN or -100 is missing, and becomes -101: the KD loss alone learns from it. So are all labels
    of an example whose labels are None.

    Args:
        collate: from examples to a batch.
        num_labels: the student's number of labels.
    """

    def __init__(self, collate: Callable[[list[Any]], Any], num_labels: int) -> None:
        super().__init__(collate)
        self.num_labels = num_labels

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        """The batch.

        Raises:
            ValueError: a label is neither 0 nor 1, or an example has another number of labels.
        """
        batch = dict(self.collate([self._with_codes(example) for example in examples]))
        if "labels" in batch:
            batch["labels"] = batch["labels"].long()  # `default_data_collator` makes floats of the column `label`
        return batch

    def _with_codes(self, example: Any) -> Any:
        if not isinstance(example, Mapping):
            return example
        given = {name: value for name, value in example.items() if name in LABELS}
        return {**example, **{name: self._codes(labels) for name, labels in given.items()}}

    def _codes(self, labels: Any) -> list[int]:
        values = [None] * self.num_labels if labels is None else [*labels]
        if len(values) != self.num_labels:
            raise ValueError(
                f"labels={labels} of an example: they are {len(values)}, the student's {self.num_labels}."
            )
        return [UNLABELLED if _is_unknown(value) else _code(value, labels) for value in values]


def _is_unknown(value: Any) -> bool:
    """Whether one of several labels is missing: None, NaN, -100 or -101."""
    return value is None or value in (IGNORED, UNLABELLED) or bool(value != value)


def _code(value: Any, labels: Any) -> int:
    if value not in (0, 1):
        raise ValueError(
            f"labels={labels} of an example: {value} is neither 1 nor 0, as each of several labels is. For shares of "
            "classes, set problem_type of the student's config to single_label_classification."
        )
    return int(value)
