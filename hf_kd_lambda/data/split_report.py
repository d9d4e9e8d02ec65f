"""What a run reads, in one line for each split."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset, List
from transformers.utils import logging

from hf_kd_lambda.data.classes import NAMED_CLASSES
from hf_kd_lambda.data.selection import count_unlabelled, texts_of

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
    trained = set(_inputs_of(splits["train"])) if "train" in splits else set()
    for name, split in splits.items():
        shared = 0 if name == "train" else sum(inputs in trained for inputs in _inputs_of(split))
        logger.warning(describe_split(name, split, label_names, (cut or {}).get(name, 0), max_length, shared))


def describe_split(
    name: str,
    split: Dataset,
    label_names: Sequence[str] | None,
    cut: int = 0,
    max_length: int | None = None,
    shared: int = 0,
) -> str:
    """One line on a split: examples, classes, empty and truncated texts, and those that are also trained on.

    Args:
        name: name of the split.
        split: with its uniform columns.
        label_names: class names.
        cut: number of texts that are truncated.
        max_length: their length in tokens after truncation.
        shared: number of examples whose texts are also in the split `train`.
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
    if shared:
        parts.append(f"{shared} also in train, so that scores are too high")
    return f"{name}: {', '.join(parts)}"


def _inputs_of(split: Dataset) -> list[tuple[Any, ...]]:
    """The texts or words of each example that has any."""
    return [row for row in texts_of(split) if any(row)]


def _classes_of(split: Dataset) -> list[int | None]:
    """All classes of all labels; of soft labels the one of the largest share, None where several have it."""
    labels, kind = [label for label in split["label"][:] if label is not None], split.features["label"]
    if "words" in split.column_names:
        return [label for row in labels for label in row]
    if not isinstance(kind, List):
        return labels
    if "float" in kind.feature.dtype:
        return [None if row.count(max(row)) > 1 else row.index(max(row)) for row in labels]
    return [index for row in labels for index, value in enumerate(row) if value == 1]


def _count_classes(labels: Sequence[int | None], names: Sequence[str]) -> str:
    counts = Counter(labels)
    tied = f", {counts[None]} tied" if None in counts else ""
    numbers = [counts[index] for index in range(len(names))]
    if len(names) > NAMED_CLASSES:
        return f"{len(names)} classes of {min(numbers)} to {max(numbers)}{tied}"
    return ", ".join(f"{name} {count}" for name, count in zip(names, numbers, strict=True)) + tied
