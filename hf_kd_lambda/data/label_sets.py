"""Several labels for an example, 1 or 0 for each of them, as batches have them."""

from collections.abc import Callable, Mapping
from typing import Any

from hf_kd_lambda.data.columns import LABELS
from hf_kd_lambda.losses.functional import IGNORED
from hf_kd_lambda.losses.functional.labels import UNLABELLED


class LabelSets:
    """Brings several labels an example, 1 or 0 for each, into an integer tensor `[examples, labels]`.

    A label that is None, NaN or -100 is missing, and becomes -101: the KD loss alone learns from it. So are all labels
    of an example without any.

    Args:
        collate: from examples to a batch.
        num_labels: the student's number of labels.
    """

    def __init__(self, collate: Callable[[list[Any]], Any], num_labels: int) -> None:
        self.collate = collate
        self.num_labels = num_labels
        self.tokenizer = getattr(collate, "tokenizer", None)  # which the Trainer saves where it has none of its own

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
        given = {name: value for name, value in example.items() if name in LABELS} or {"labels": None}
        return {**example, **{name: self._codes(labels) for name, labels in given.items()}}

    def _codes(self, labels: Any) -> list[int]:
        values = [None] * self.num_labels if labels is None else [*labels]
        if len(values) != self.num_labels:
            raise ValueError(
                f"labels={labels} of an example: they are {len(values)}, the student's {self.num_labels}."
            )
        return [UNLABELLED if is_unknown(value) else _code(value, labels) for value in values]


def is_unknown(value: Any) -> bool:
    """Whether one of several labels is missing: None, NaN, -100 or -101."""
    return value is None or value in (IGNORED, UNLABELLED) or bool(value != value)


def _code(value: Any, labels: Any) -> int:
    if value not in (0, 1):
        raise ValueError(
            f"labels={labels} of an example: {value} is neither 1 nor 0, as each of several labels is. For shares of "
            "classes, set problem_type of the student's config to single_label_classification."
        )
    return int(value)
