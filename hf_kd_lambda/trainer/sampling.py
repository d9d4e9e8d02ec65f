"""How training batches are drawn."""

from typing import Any

from datasets import Dataset, LargeList, List, Value
from transformers import TrainingArguments

from hf_kd_lambda.data.columns import token_counts


def sampling_strategy(args: TrainingArguments, examples: Any, processor: Any | None) -> str:
    """`train_sampling_strategy`, but `random` where examples are to be grouped by a length that they do not have.

    The length of an example is that of its first input, which must be a list of numbers: images have no length.

    Args:
        args: arguments of a Trainer.
        examples: its training examples.
        processor: names the inputs; without one they are a tokenizer's.
    """
    asked = args.train_sampling_strategy
    has_lengths = _has_lengths(examples, _first_input(processor), args.length_column_name)
    return "random" if asked == "group_by_length" and not has_lengths else asked


def lengths_to_group(args: TrainingArguments, examples: Any, processor: Any | None) -> list[int] | None:
    """The lengths by which examples are grouped; None if they are not, or if Transformers has to read every example.

    The whole column is read at once. Transformers reads one example after the other, which is much slower.

    Args:
        args: arguments of a Trainer.
        examples: its training examples.
        processor: names the inputs; without one they are a tokenizer's.
    """
    if args.train_sampling_strategy != "group_by_length" or not isinstance(examples, Dataset):
        return None
    if args.length_column_name in examples.column_names:
        return examples.with_format(None)[args.length_column_name][:]
    first_input = _first_input(processor)
    return token_counts(examples, (first_input,)) if _has_lengths(examples, first_input, "") else None


def _first_input(processor: Any | None) -> str:
    return getattr(processor, "model_input_names", ["input_ids"])[0]


def _has_lengths(dataset: Any, first_input: str, length_column: str) -> bool:
    features = getattr(dataset, "features", None) or {}
    values = features.get(first_input)
    return length_column in features or (isinstance(values, List | LargeList) and isinstance(values.feature, Value))
