"""Lists of words with a label for each, from the Hub, a folder or files, checked and with uniform columns."""

from typing import Any

from datasets import Dataset, LargeList, List, Value
from transformers.utils import logging

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.classes import Classes, find_classes, known_labels, labels_of, number_of
from hf_kd_lambda.data.selection import rarest_labels, select_examples
from hf_kd_lambda.data.sources import Column, Source, check_values
from hf_kd_lambda.data.splits import TRANSFER_SET, load_splits
from hf_kd_lambda.data.task_data import TaskData

logger = logging.get_logger(__name__)

_FORMATS = (".json", ".jsonl", ".parquet")  # those that hold lists


def load_token_data(args: DataArguments, seed: int) -> TaskData:
    """Load and check the examples; their columns are then `words` and `label`, a class for each word.

    Args:
        args: where the examples are, and which columns and how many of them to take.
        seed: draws the `max_train_samples` examples.

    Raises:
        ValueError: a split or column is missing; a split is empty; words or labels are
            missing; a label is out of range. The message names the split or file, the row and the value.
    """
    words = Column(args.text_column or "tokens", "words", "text_column")
    labels = Column(args.label_column, "label", "label_column")
    sources = load_splits(args, [words, labels], _FORMATS, {}, _FORMATS)
    for name, source in sources.items():
        _check_values(name, source, words, labels)
    rows, label_type = known_labels(sources)
    assert isinstance(label_type, LargeList | List), "each row has a list of labels"
    found = [label for row in rows for label in row]
    if not found:
        raise ValueError("the train split is empty: no example has words.")
    classes = find_classes(found, label_type.feature, args.known_classes, args.teacher_classes)
    assert classes is not None, "no label is a float"
    splits = {
        name: _without_empty(source.rows if name == TRANSFER_SET else _encode_labels(source, classes), name)
        for name, source in sources.items()
    }
    chosen = select_examples(
        splits, args, seed, rarest_labels(splits["train"]["label"][:]) if "train" in splits else None
    )
    return TaskData(chosen.splits, classes.names, glue_task=None, held_out=chosen.held_out)


def _check_values(name: str, source: Source, words: Column, labels: Column) -> None:
    """Refuse rows without words, or without a label for each; all may be missing."""
    check_values(source, words, lambda value: _are_all(value, str), "list of words")
    if name == TRANSFER_SET:
        return
    check_values(source, labels, lambda value: value is None or _are_all(value, int | str), "list of labels")
    for row, (own_words, own_labels) in enumerate(zip(source.rows["words"][:], source.rows["label"][:], strict=True)):
        if own_labels is not None and len(own_words) != len(own_labels):
            raise ValueError(
                f"{source.where(row)}: column {labels.name!r} holds {len(own_labels)} labels for {len(own_words)} "
                "words."
            )


def _are_all(values: object, kind: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _without_empty(split: Dataset, name: str) -> Dataset:
    kept = [row for row, words in enumerate(split["words"][:]) if words]
    if not kept:
        raise ValueError(f"the {name} split is empty: no example has words.")
    if len(kept) == len(split):
        return split
    logger.warning(f"{len(split) - len(kept)} examples of the {name} split have no words and are left out.")
    return split.select(kept)


def _encode_labels(source: Source, classes: Classes) -> Dataset:
    """Labels as indices of the classes; None where there are none."""
    encoded = [
        None if labels is None else [number_of(source.where, row, label, classes) for label in labels]
        for row, labels in enumerate(labels_of(source, classes))
    ]
    return source.rows.remove_columns(["label"]).add_column("label", encoded, feature=List(Value("int64")))
