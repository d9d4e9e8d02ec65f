"""The classes of a task, and labels as numbers: indices of the classes, or the numbers of a regression."""

import math
import re
import reprlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from datasets import ClassLabel, Dataset, LargeList, List, Value
from transformers.utils import logging

from hf_kd_lambda.data.file_types import MISSING_LABELS
from hf_kd_lambda.data.readers import duplicate
from hf_kd_lambda.data.sources import Source
from hf_kd_lambda.losses.functional import IGNORED
from hf_kd_lambda.utils.names import closest_name, in_order

logger = logging.get_logger(__name__)

LARGEST_LABEL = 1e18  # of a regression: the sum of a batch's squared errors has to be finite in float32
NO_LABEL = (
    "no example has a label: training needs none, but evaluation does: set validation_file, or a dataset with a "
    "validation split."
)
NAMED_CLASSES = 12  # more classes than these are not named in a message
_INDEX = re.compile(r"(?:LABEL_)?(-?\d+)")


def is_missing(label: Any) -> bool:
    """Whether an example has no label: None, -100 or NaN, also as a text, or a blank text."""
    if isinstance(label, str):
        return label.strip() in (*MISSING_LABELS, str(IGNORED))
    return label in (None, IGNORED) or label != label


def known_labels(sources: Mapping[str, Source]) -> tuple[list[Any], Any]:
    """The labels of the first split that has any, and their type: train's, unless all of train is unlabelled.

    Args:
        sources: where the splits come from, in their order.

    Raises:
        ValueError: no example has a label.
    """
    for source in sources.values():
        if "label" in source.rows.column_names:
            labels = [label for label in source.rows["label"][:] if not is_missing(label)]
            if labels:
                return labels, source.rows.features["label"]
    raise ValueError(NO_LABEL)


def with_numbers_for_missing(split: Dataset, num_labels: int) -> Dataset:
    """Labels as `item_labels` reads them: -100 for None, of numbers NaN; of lists of labels, as many."""
    labels, kind = split["label"][:], split.features["label"]
    if None not in labels:
        return split
    missing: Any
    if isinstance(kind, List):
        missing = [math.nan if kind.feature == Value("float32") else IGNORED] * num_labels
    else:
        missing, kind = (math.nan, kind) if kind == Value("float32") else (IGNORED, Value("int64"))
    filled = [missing if label is None else label for label in labels]
    return split.remove_columns("label").add_column("label", filled, feature=kind)


@dataclass(frozen=True)
class Classes:
    """The classes of a task.

    Args:
        names: class names in the order of the outputs.
        by_position: whether integers, also as texts, are indices of the names; else they are names.
    """

    names: list[str]
    by_position: bool = False

    def index(self, label: object) -> int | None:
        """The output of a label, None where it is no class."""
        label = as_integer(label)
        if not isinstance(label, str | int):
            return None
        if self.by_position and (position := _position(label, self._indices)) is not None:
            return position if 0 <= position < len(self.names) else None
        return self._indices.get(str(label), self._folded.get(str(label).casefold()))

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    @cached_property
    def _folded(self) -> dict[str, int]:
        """Outputs of the names in lower case; none of names that differ in case alone."""
        folded = [name.casefold() for name in self.names]
        count = Counter(folded)
        return {name: index for index, name in enumerate(folded) if count[name] == 1}

    def refuse(self, where: str, label: object) -> ValueError:
        """The error of a label that is not one of the classes."""
        names = ", ".join(self.names[:NAMED_CLASSES]) + (", …" if len(self.names) > NAMED_CLASSES else "")
        if isinstance(label, int | float) and not self.by_position and not any(map(_is_number, self.names)):
            return ValueError(f"{where}: label {label!r} is a number, the train split's are names: {names}.")
        names_are_indices = all(name == str(index) or not _is_number(name) for index, name in enumerate(self.names))
        classes = f"classes 0 to {len(self.names) - 1}" if names_are_indices else f"{len(self.names)} classes"
        meant = _meant(str(label), self.names) or "."
        return ValueError(f"{where}: label {reprlib.repr(label)} is not one of the {classes} ({names}){meant}")


def as_integer(label: Any) -> Any:
    """A whole number that is a float, as pandas writes integers where some are missing, as an integer."""
    return int(label) if isinstance(label, float) and label.is_integer() else label


def find_classes(
    labels: Sequence[Any], feature: Any, known: Sequence[str] | None = None, of_teacher: Sequence[str] = ()
) -> Classes | None:
    """The classes of the train split.

    Their names are those of the dataset, those that are known, or the labels in their order, which is that of the
    numbers where all are numbers. Those of a model that has these and others, in any case of letters, go first.

    Args:
        labels: labels of the train split, none missing.
        feature: their type.
        known: names of the task or of a saved model; none for a regression. None: from the labels.
        of_teacher: names of a trained teacher's classes.

    Returns:
        None for floats, which are a regression.

    Raises:
        ValueError: there is one class alone, integers are not 0 to n-1, a teacher knows most names, not all, or two
            classes of a model have one name.
    """
    own = list(feature.names) if isinstance(feature, ClassLabel) else None
    found = set(labels if own is None else own)
    if known is not None and own is None:
        return _of_model(known, found) if known else None
    names = of_teacher if known is None else known
    if all(type(label) in (str, int) for label in found) and _are_some_of(found, names):
        _check_unique(names)
        if known is None:
            _warn_of_missing(found, names)
        return Classes([*names])
    return _classes_of_labels(labels, found, of_teacher) if own is None else _numbered(own)


def _of_model(names: Sequence[str], found: set[Any]) -> Classes:
    """The classes of a saved model or a task, for a file with these labels."""
    _check_unique(names)
    classes = _numbered(names)
    if classes.by_position and any(_position(as_integer(label), names) is not None for label in found):
        logger.warning(f"the labels of the data are numbers, and taken in this order: {in_order(names)}.")
    return classes


def _numbered(names: Sequence[str]) -> Classes:
    """Classes of which integers are the indices, unless a name is a number."""
    return Classes([*names], by_position=not any(map(_is_number, names)))


def _position(label: object, names: Container[str]) -> int | None:
    """The index that a label stands for, as an integer or a text such as 1 or LABEL_1; None if it is a name."""
    match = None if label in names else _INDEX.fullmatch(str(label))
    return None if match is None else int(match[1])


def _check_unique(names: Sequence[str]) -> None:
    """Refuse classes of a model that have one name."""
    if (twice := duplicate(names)) is not None:
        raise ValueError(f"the model has two classes {twice!r}: rename one in id2label of its config.json.")


def _warn_of_missing(found: set[Any], of_teacher: Sequence[str]) -> None:
    folded = {str(label).casefold() for label in found}
    missing = [name for name in of_teacher if name.casefold() not in folded]
    logger.warning(f"no training example has the label {', '.join(missing)}, which the teacher knows.")


def _classes_of_labels(labels: Sequence[Any], found: set[Any], of_teacher: Sequence[str]) -> Classes | None:
    """Classes whose names are the labels; none of floats."""
    if any(isinstance(label, float) for label in found):
        return None
    if all(isinstance(label, str) for label in found):
        _check_few_unknown(labels, of_teacher)
    if len(found) == 1:
        raise ValueError(
            f"every label of the train split is {next(iter(found))!r}: a classifier needs two classes or more."
        )
    if any(isinstance(label, str | bool) for label in found):
        names = _in_order(map(str, found))
        _check_distinct(names)
        if len(names) > NAMED_CLASSES and 2 * len(names) > len(labels):
            logger.warning(
                f"the {len(labels)} labels of the train split are {len(names)} different names, such as {names[0]!r}: "
                "look whether label_column is right. Numbers for a regression have no other characters, as in 3.5."
            )
        return Classes(names)
    if found != set(range(len(found))) and {*map(str, found)} != {*of_teacher}:
        listed = ", ".join(map(str, sorted(found)[:NAMED_CLASSES])) + (", …" if len(found) > NAMED_CLASSES else "")
        raise ValueError(
            f"the labels of the train split are {listed}: integer labels must be 0 to n-1, each at least once. Number "
            "them so, or use names. Scores with a point, such as 4.0, are a regression."
        )
    return Classes([str(label) for label in sorted(found)])


def _are_some_of(labels: Iterable[object], names: Sequence[str]) -> bool:
    """Whether these are some of the names of a model's classes, in any case of letters, and not all."""
    own, others = (Counter(str(label).casefold() for label in given) for given in (labels, names))
    return own < others


def _check_few_unknown(labels: Sequence[str], of_teacher: Sequence[str]) -> None:
    """Refuse names that a trained teacher does not know while it knows most: they are often misspelt."""
    known = {name.casefold() for name in of_teacher}
    unknown = Counter(label for label in labels if label.casefold() not in known)
    if not unknown or 2 * len(unknown) >= len(set(labels)):
        return
    shown = "; ".join(
        f"{name!r} ({count} of {len(labels)} labels)" + _meant(name, of_teacher) for name, count in unknown.items()
    )
    raise ValueError(
        f"the teacher has no class {shown}. Correct the labels, or fine-tune the teacher with teacher_finetune: true."
    )


def _meant(name: str, known: Sequence[str]) -> str:
    closest = closest_name(name, known)
    return "" if closest is None else f", did you mean {closest!r}?"


def _check_distinct(names: Sequence[str]) -> None:
    """Refuse names that differ in white space or in Unicode's form of a letter, such as é; warn where case differs."""
    for other, name in _same(names, lambda name: " ".join(unicodedata.normalize("NFC", name).split())):
        raise ValueError(
            f"the labels of the train split {other!a} and {name!a} differ in white space or in the form "
            "of a letter alone, and would be two classes: write them alike."
        )
    for other, name in _same(names, str.casefold):
        logger.warning(
            f"the labels of the train split {other!r} and {name!r} differ in upper and lower case alone, and are "
            "two classes: write them alike if they are one."
        )


def _same(names: Sequence[str], form: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """Names that have the form of an earlier one, with the first of these."""
    first: dict[str, str] = {}
    for name in names:
        if (other := first.setdefault(form(name), name)) != name:
            yield other, name


def _in_order(names: Iterable[str]) -> list[str]:
    names = sorted(names)
    return sorted(names, key=float) if all(map(_is_number, names)) else names


def _is_number(name: str) -> bool:
    try:
        return math.isfinite(float(name))
    except ValueError:
        return False


def labels_of(source: Source, classes: Classes | None) -> list[Any]:
    """Labels of the rows; indices of other names as these names."""
    feature, labels = source.rows.features["label"], source.rows["label"][:]
    inner = feature.feature if isinstance(feature, LargeList | List) else feature
    if not isinstance(inner, ClassLabel) or classes is None:
        return labels

    def name_of(label: Any) -> Any:
        if isinstance(label, list):
            return [name_of(item) for item in label]
        return inner.names[label] if isinstance(label, int) and 0 <= label < len(inner.names) else label

    return [name_of(label) for label in labels]


def encode_labels(source: Source, classes: Classes | None) -> Dataset:
    """Labels as indices of the classes, or as float32 for a regression; None where there is none.

    Rows without a column of labels stay as they are.

    Raises:
        ValueError: a label is not one of the classes, or no number that can be learned.
    """
    if "label" not in source.rows.column_names:
        return source.rows
    given, labels = source.rows["label"][:], labels_of(source, classes)  # a class may be called nan
    encoded = [
        None if is_missing(value) else number_of(source.where, index, label, classes)
        for index, (value, label) in enumerate(zip(given, labels, strict=True))
    ]
    feature = Value("float32") if classes is None else ClassLabel(names=classes.names)
    return source.rows.remove_columns("label").add_column("label", encoded, feature=feature)


def number_of(where: Callable[[int], str], index: int, label: Any, classes: Classes | None) -> int | float:
    """A label as models learn it: the index of a class, or for a regression a number."""
    if classes is not None:
        code = classes.index(label)
        if code is None:
            raise classes.refuse(where(index), label)
        return code
    if not isinstance(label, int | float):
        raise ValueError(f"{where(index)}: label {label!r} is no number, as a regression needs.")
    if not abs(label) <= LARGEST_LABEL:
        raise ValueError(
            f"{where(index)}: label {label!r} is too large to be learned in float32, where squares of numbers above "
            f"{LARGEST_LABEL:.0e} are infinite: scale the labels."
        )
    return float(label)  # pyarrow refuses integers above 2**24 as float32
