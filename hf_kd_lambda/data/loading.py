"""What all kinds of examples have in common: splits, columns, labels, a hold-out, and how many examples to take."""

import contextlib
import glob
import math
import reprlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, LargeList, List, Value, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetsError
from transformers.utils import logging

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.bundled import SEED
from hf_kd_lambda.data.files import ROW, Column, Source, check_table, read_file, require_columns

logger = logging.get_logger(__name__)

FILE_SPLITS = ("train", "validation", "test")
SPLITS = ("train", "validation", "validation_mismatched", "test")
LARGEST_LABEL = 1e18  # of a regression: the sum of a batch's squared errors has to be finite in float32
CUT = "__cut__"
"""Column of whether the tokens of an example are truncated, while they are made."""
NAMED_CLASSES = 12  # more classes than these are not named in a message


@dataclass(frozen=True)
class TaskData:
    """Labelled examples of one task.

    Args:
        splits: train, validation, perhaps test, for MNLI also validation_mismatched; with the columns text, perhaps
            text_pair, and label (a class, or a float for a regression).
        label_names: names of the classes in the order of the labels; None for a regression.
        task: GLUE task; None for own data.
    """

    splits: DatasetDict
    label_names: list[str] | None
    task: str | None

    @property
    def is_regression(self) -> bool:
        """Whether the label is a number to be predicted."""
        return self.label_names is None

    @property
    def num_labels(self) -> int:
        """Number of classes; 1 for a regression."""
        return 1 if self.label_names is None else len(self.label_names)

    @property
    def has_pairs(self) -> bool:
        """Whether an example is a pair of texts."""
        return "text_pair" in self.splits["train"].column_names

    @property
    def report_split(self) -> str:
        """Split whose score is reported: test where its labels are known, else validation."""
        return "test" if "test" in self.splits else "validation"


# --- splits


def load_splits(
    args: DataArguments,
    columns: Sequence[Column],
    formats: Sequence[str],
    bundled: Mapping[str, Callable[[], Mapping[str, Dataset]]],
) -> dict[str, Source]:
    """The named columns of all splits, with their uniform names; a file replaces the split of a dataset.

    A test split whose labels are kept secret is left out.

    Args:
        args: name the dataset and the files.
        columns: that the task reads.
        formats: of files that it reads, by suffix.
        bundled: data of packages by what `dataset` calls them.

    Returns:
        In the order of SPLITS: train, and those of the others that there are.

    Raises:
        ValueError: the dataset or a file cannot be loaded, a column is missing, or a split is missing or empty.
    """
    _check_apart(columns)
    sources, stored = {}, _stored_splits(args, bundled)
    if "train" not in stored and args.train_file is None:
        raise ValueError(f"dataset={args.dataset!r} has no train split, only {', '.join(stored)}: set train_file.")
    for name in [name for name in SPLITS if name in stored]:
        rows = stored[name]
        if name != "test" or _has_labels(rows, columns):
            require_columns(f"the {name} split", columns, rows.column_names)
            sources[name] = Source(rows, f"{name} split")
    for name in FILE_SPLITS:
        if (path := getattr(args, f"{name}_file")) is not None:
            sources[name] = read_file(f"{name}_file", path, formats, columns, args.delimiter)
    for name, source in sources.items():
        if len(source.rows) == 0:
            raise ValueError(f"the {name} split is empty.")
    return {name: _uniform(sources[name], columns) for name in SPLITS if name in sources}


def _check_apart(columns: Sequence[Column]) -> None:
    settings: dict[str, str] = {}
    for column in columns:
        other = settings.setdefault(column.name, column.setting)
        if other != column.setting:
            raise ValueError(f"{other} and {column.setting} are both {column.name!r}: name two columns.")


def _stored_splits(
    args: DataArguments, bundled: Mapping[str, Callable[[], Mapping[str, Dataset]]]
) -> dict[str, Dataset]:
    if args.dataset is None:
        return {}
    if args.dataset in bundled:
        return dict(bundled[args.dataset]())
    folder = Path(args.dataset).expanduser().resolve()
    if folder.is_dir() and glob.has_magic(str(folder)):
        raise ValueError(f"dataset={args.dataset!r}: *, ? and [ in the folder's path are read as patterns: rename it.")
    config = args.dataset_config or args.task
    if folder.is_dir():
        with _named(args.dataset):
            files = load_dataset_builder(args.dataset, config).config.data_files or {}
        for path in {path for paths in files.values() for path in paths}:
            check_table(f"dataset={args.dataset!r}", path)
    with _named(args.dataset):
        splits = dict(load_dataset(args.dataset, config))
    if "validation_matched" in splits:  # of MNLI
        splits["validation"] = splits.pop("validation_matched")
    return splits


@contextlib.contextmanager
def _named(dataset: str) -> Iterator[None]:
    """Whatever `datasets` raises, as one error that names the setting."""
    try:
        yield
    except (DatasetsError, OSError, RuntimeError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"dataset={dataset!r} cannot be loaded: {error.__cause__ or error}") from error


def _has_labels(test: Dataset, columns: Sequence[Column]) -> bool:
    # Benchmarks keep the labels of their test split secret: no column, or -1 everywhere.
    name = next((column.name for column in columns if column.uniform == "label"), None)
    if name is None:
        return True
    if name not in test.column_names:
        return False
    labels = test[name][:]
    return not labels or any(label != -1 for item in labels for label in (item if isinstance(item, list) else [item]))


def _uniform(source: Source, columns: Sequence[Column]) -> Source:
    names = {column.name: column.uniform for column in columns}
    others = [name for name in source.rows.column_names if name not in names and name != ROW]
    return source._replace(rows=source.rows.remove_columns(others).rename_columns(names))


# --- labels


@dataclass(frozen=True)
class Classes:
    """The classes of a task.

    Args:
        names: in the order of the outputs.
        are_integers: whether the train split gives integers, the indices of the names, and not the names themselves.
    """

    names: list[str]
    are_integers: bool

    def index(self, label: object) -> int | None:
        """The output of a label; None where it is none of the classes."""
        if self.are_integers and isinstance(label, int) and not isinstance(label, bool):
            return label if 0 <= label < len(self.names) else None
        if not isinstance(label, str | int):
            return None
        return self._indices.get(str(label))

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    def refuse(self, where: str, label: object) -> ValueError:
        """The error of a label that is none of the classes."""
        names = ", ".join(self.names[:NAMED_CLASSES]) + (", …" if len(self.names) > NAMED_CLASSES else "")
        if isinstance(label, int | float) and not self.are_integers:
            return ValueError(f"{where}: label {label!r} is a number, the train split's are names: {names}.")
        return ValueError(
            f"{where}: label {reprlib.repr(label)} is none of the classes 0 to {len(self.names) - 1} ({names})."
        )


def find_classes(labels: Iterable[Any], feature: Any, known: Sequence[str] | None = None) -> Classes | None:
    """The classes of the train split.

    Their names are those of the dataset, those that are known, or the labels in their order, which is that of the
    numbers where all are numbers.

    Args:
        labels: of the train split, none missing.
        feature: their type.
        known: names of the task.

    Returns:
        None for floats, which are a regression.

    Raises:
        ValueError: there is one class alone, or integers that are not 0 to n-1.
    """
    if isinstance(feature, ClassLabel):
        return Classes(list(feature.names), are_integers=True)
    if known is not None:
        return Classes(list(known), are_integers=True)
    found = set(labels)
    if any(isinstance(label, float) for label in found):
        return None
    if len(found) == 1:
        raise ValueError(
            f"every label of the train split is {next(iter(found))!r}: a classifier needs two classes or more."
        )
    if any(isinstance(label, str | bool) for label in found):
        return Classes(_in_order(map(str, found)), are_integers=False)
    if found != set(range(len(found))):
        listed = ", ".join(map(str, sorted(found)[:NAMED_CLASSES])) + (", …" if len(found) > NAMED_CLASSES else "")
        raise ValueError(
            f"the labels of the train split are {listed}: integer labels must be 0 to n-1, each at least once. Number "
            "them so, or use names."
        )
    return Classes([str(label) for label in sorted(found)], are_integers=True)


def _in_order(names: Iterable[str]) -> list[str]:
    names = sorted(names)
    try:
        numbers = {name: float(name) for name in names}
    except ValueError:
        return names
    return sorted(names, key=numbers.__getitem__) if all(map(math.isfinite, numbers.values())) else names


def labels_of(source: Source, classes: Classes | None) -> list[Any]:
    """Labels of the rows; indices of other names as these names."""
    feature, labels = source.rows.features["label"], source.rows["label"][:]
    inner = feature.feature if isinstance(feature, LargeList | List) else feature
    if not isinstance(inner, ClassLabel) or classes is None or inner.names == classes.names:
        return labels

    def name_of(label: Any) -> Any:
        if isinstance(label, list):
            return [name_of(item) for item in label]
        return inner.names[label] if isinstance(label, int) and 0 <= label < len(inner.names) else label

    return [name_of(label) for label in labels]


def encode_labels(source: Source, classes: Classes | None) -> Dataset:
    """Labels as indices of the classes, or as float32 for a regression.

    Raises:
        ValueError: a label is none of the classes, or no number that can be learned.
    """
    labels = labels_of(source, classes)
    encoded = [number_of(source.where, index, label, classes) for index, label in enumerate(labels)]
    column, feature = np.asarray(encoded, np.float32), Value("float32")
    if classes is not None:
        column, feature = np.asarray(encoded, np.int64), ClassLabel(names=classes.names)
    return source.rows.remove_columns("label").add_column("label", column, feature=feature)


def number_of(where: Callable[[int], str], index: int, label: Any, classes: Classes | None) -> int | float:
    """What a model learns of a label: the index of a class, or for a regression a number."""
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
    return label


# --- which and how many


def select_examples(
    splits: Mapping[str, Dataset], args: DataArguments, seed: int, strata: Sequence[Hashable] | None
) -> DatasetDict:
    """Hold out examples of train where there is no validation split, then take as many as are asked for.

    Args:
        splits: whole ones.
        args: `validation_share`, `max_train_samples`, `max_eval_samples`.
        seed: draws the `max_train_samples`; what is held out is always the same.
        strata: of each row of train, the class of which a like share is held out; None for no classes.

    Raises:
        ValueError: no example can be held out.
    """
    chosen = {name: split.remove_columns({ROW} & set(split.column_names)) for name, split in splits.items()}
    if "validation" not in chosen:
        chosen |= _hold_out(chosen["train"], args, strata)
    for name, split in chosen.items():
        limit = args.max_train_samples if name == "train" else args.max_eval_samples
        if limit is not None:
            chosen[name] = (split.shuffle(seed) if name == "train" else split).take(limit)
    return DatasetDict({name: chosen[name] for name in SPLITS if name in chosen})


def _hold_out(train: Dataset, args: DataArguments, strata: Sequence[Hashable] | None) -> dict[str, Dataset]:
    held_out = held_out_rows([0] * len(train) if strata is None else strata, args.validation_share)
    source = f"dataset={args.dataset!r}" if args.dataset is not None else f"train_file={args.train_file!r}"
    if not held_out:
        raise ValueError(
            f"{source} has no validation split, and none can be held out: validation_share={args.validation_share} "
            f"of {len(train)} examples is none. Set validation_file or a larger validation_share."
        )
    kept = sorted(set(range(len(train))) - set(held_out))
    logger.warning(
        f"{source} has no validation split: {len(held_out)} of {len(train)} training examples are held out "
        f"(validation_share={args.validation_share}{'' if strata is None else ', the same of each class'})."
    )
    return {"train": train.select(kept), "validation": train.select(held_out)}


def held_out_rows(strata: Sequence[Hashable], share: float) -> list[int]:
    """Rows to hold out, always the same: of each stratum this share, to the nearest row, and never all.

    Args:
        strata: of each row.
        share: of the rows.
    """
    rows: dict[Hashable, list[int]] = {}
    for row in np.random.default_rng(SEED).permutation(len(strata)).tolist():
        rows.setdefault(strata[row], []).append(row)
    taken = {stratum: min(int(share * len(own)), len(own) - 1) for stratum, own in rows.items()}
    missing = round(share * len(strata)) - sum(taken.values())
    for stratum in sorted(rows, key=lambda stratum: -(share * len(rows[stratum]) % 1)):
        if missing > 0 and taken[stratum] < len(rows[stratum]) - 1:
            taken[stratum] += 1
            missing -= 1
    return sorted(row for stratum, own in rows.items() for row in own[: taken[stratum]])


# --- what a run reads, in one line


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
        name: of the split.
        split: with its uniform columns.
        label_names: of the classes.
        cut: number of texts that are truncated.
        max_length: to which they are, in tokens.
    """
    parts = [f"{len(split)} examples"]
    if label_names is not None and "label" in split.column_names:
        parts.append(_count_classes(split["label"][:], label_names))
    texts = [column for column in ("text", "text_pair") if column in split.column_names]
    if empty := sum(not text.strip() for column in texts for text in split[column][:]):
        parts.append(f"{empty} empty texts")
    if cut:
        parts.append(f"{cut} truncated to {max_length} tokens")
    return f"{name}: {', '.join(parts)}"


def _count_classes(labels: Sequence[Any], names: Sequence[str]) -> str:
    counts = Counter(label for item in labels for label in (item if isinstance(item, list) else [item]))
    if len(names) > NAMED_CLASSES:
        return f"{len(names)} classes of {min(counts[i] for i in range(len(names)))} to {max(counts.values())}"
    return "; ".join(f"{name} {counts[index]}" for index, name in enumerate(names))
