"""What a run reads, in one line for each split."""

from collections import Counter
from collections.abc import Mapping, Sequence

from datasets import Dataset, List
from transformers.utils import logging

from hf_kd_lambda.data.classes import NAMED_CLASSES
from hf_kd_lambda.data.selection import count_unlabelled

logger = logging.get_logger(__name__)

CUT = "__cut__"
"""Column of whether the tokens of an example are truncated, while they are made."""


def report_splits(
    splits: Mapping[str, Dataset],
    label_names: Sequence[str] | None,
    cut: Mapping[str, int] | None = None,
    max_length: int | None = None,
) -> None:
    """Log `describe_split` of each split; `cut` has the numbers of truncated texts by the splits' names."""
    for name, split in splits.items():
        logger.warning(describe_split(name, split, label_names, (cut or {}).get(name, 0), max_length))


def describe_split(
    name: str, split: Dataset, label_names: Sequence[str] | None, cut: int = 0, max_length: int | None = None
) -> str:
    """One line on a split: examples, classes, empty and truncated texts.

    Args:
        name: name of the split.
        split: with its uniform columns.
        label_names: class names.
        cut: number of texts that are truncated.
        max_length: their length in tokens after truncation.
    """
    parts = [f"{len(split)} {'example' if len(split) == 1 else 'examples'}"]
    if label_names is not None and "label" in split.column_names:
        parts[0] += f" ({_count_classes(_classes_of(split), label_names)})"
    if unlabelled := count_unlabelled(split):
        parts.append(f"{unlabelled} without a label")
    texts = [column for column in ("text", "text_pair") if column in split.column_names]
    if empty := sum(not text.strip() for column in texts for text in split[column][:]):
        parts.append(f"{empty} empty {'text' if empty == 1 else 'texts'}")
    if cut:
        parts.append(f"{cut} truncated to {max_length} tokens")
    return f"{name}: {', '.join(parts)}"


def _classes_of(split: Dataset) -> list[int]:
    """All classes of all labels; of lists of numbers for each class, those of at least half."""
    labels, are_of_words = split["label"][:], "words" in split.column_names
    lists = [label if isinstance(label, list) else [label] for label in labels if label is not None]
    if are_of_words or not isinstance(split.features["label"], List):
        return [label for row in lists for label in row]
    return [index for row in lists for index, value in enumerate(row) if value >= 0.5]


def _count_classes(labels: Sequence[int], names: Sequence[str]) -> str:
    counts = Counter(labels)
    if len(names) > NAMED_CLASSES:
        return f"{len(names)} classes of {min(counts[i] for i in range(len(names)))} to {max(counts.values())}"
    return ", ".join(f"{name} {counts[index]}" for index, name in enumerate(names))
