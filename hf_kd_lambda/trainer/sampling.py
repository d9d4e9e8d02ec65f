"""How training batches are drawn."""

from collections.abc import Iterable
from typing import Any

from datasets import LargeList, List, Value
from transformers import TrainingArguments


def sampling_strategy(args: TrainingArguments, datasets: Iterable[Any], processor: Any | None) -> str:
    """`train_sampling_strategy`, but `random` where examples are to be grouped by a length that they do not have.

    An example is as long as its first input, which must be a list of numbers: of an image, a length means nothing.

    Args:
        args: of a Trainer.
        datasets: that it trains on.
        processor: names the inputs; without one they are a tokenizer's.
    """
    asked = args.train_sampling_strategy
    names = getattr(processor, "model_input_names", ["input_ids"])
    if asked == "group_by_length" and not all(
        _has_lengths(dataset, names[0], args.length_column_name) for dataset in datasets
    ):
        return "random"
    return asked


def _has_lengths(dataset: Any, first_input: str, length_column: str) -> bool:
    features = getattr(dataset, "features", None) or {}
    values = features.get(first_input)
    return length_column in features or (isinstance(values, List | LargeList) and isinstance(values.feature, Value))
