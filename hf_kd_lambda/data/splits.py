"""The splits that a dataset or files have, with the columns that a task reads."""

import contextlib
import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, concatenate_datasets, load_dataset, load_dataset_builder, load_from_disk
from datasets.config import DATASET_STATE_JSON_FILENAME, DATASETDICT_JSON_FILENAME
from datasets.exceptions import DatasetsError
from transformers.utils import logging

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.bundled import BUNDLED
from hf_kd_lambda.data.classes import is_missing
from hf_kd_lambda.data.files import check_table, columns_of_file, read_file
from hf_kd_lambda.data.readers import TABLES
from hf_kd_lambda.data.sources import POSITION, ROW, Column, Source, label_names, require_columns
from hf_kd_lambda.losses.functional.label_sets import MULTI_LABEL

logger = logging.get_logger(__name__)

FILE_SPLITS = ("train", "validation", "test")
SPLITS = ("train", "validation", "validation_mismatched", "test")
TRANSFER_SET = "unlabelled"
"""What the examples of a transfer set are called among the splits."""
_VALIDATION_SPLITS = ("validation_matched", "valid", "val", "dev", "eval")  # the first is MNLI's
_UNLABELLED_SPLITS = (TRANSFER_SET, "unlabeled", "unsupervised", "train")

Bundled = Mapping[str, Callable[[], Mapping[str, Dataset]]]
"""What makes the splits of a package's data, by the name of the data."""


def load_splits(
    args: DataArguments,
    columns: Sequence[Column],
    formats: Sequence[str],
    bundled: Bundled,
    unlabelled_formats: Sequence[str] = (),
    alternatives: Sequence[Sequence[Column]] = (),
) -> dict[str, Source]:
    """The named columns of all splits, with their uniform names; a file replaces the split of a dataset.

    A test split whose labels are kept secret is left out, and so are examples for evaluation without a label.

    Args:
        args: name the dataset and the files.
        columns: columns that the task reads.
        formats: readers of files, by suffix.
        bundled: data of packages by what `dataset` calls them.
        unlabelled_formats: the same for an `unlabelled_file`.
        alternatives: other columns; the first that the training examples all have replace `columns` which they lack.

    Returns:
        In the order of SPLITS, those that there are; then TRANSFER_SET, without labels. Train may be missing where
        all training examples are unlabelled, or none are needed.

    Raises:
        ValueError: the dataset or a file cannot be loaded, a column is missing, or a split is missing or empty, or
            has no labels.
    """
    _check_apart(columns)
    known = [column for layout in (columns, *alternatives) for column in layout]
    known += [_of_run(column, args) for column in known]
    config = args.dataset_config or args.task
    stored = _stored_splits("dataset", args.dataset, config, bundled, known, args.delimiter)
    if stored.keys() == {"train"}:
        stored = {args.lone_split: stored["train"]}
    files = {name: path for name in FILE_SPLITS if (path := getattr(args, f"{name}_file")) is not None}
    _check_there(args, stored, files)
    stored = {name: stored[name] for name in SPLITS if name in stored and name not in files}
    columns = _chosen([columns, *alternatives], args, stored, files)
    if "test" in stored and not _has_labels(stored["test"], columns):
        secret = stored.pop("test")
        if not stored and not files:
            require_columns("the test split", columns, secret.column_names)
            raise ValueError("no example of the test split has a label, which evaluation needs.")
    transfer = _unlabelled(args, columns, unlabelled_formats, bundled)
    sources = {name: _of_dataset(name, rows, columns) for name, rows in stored.items()}
    for name, path in files.items():
        sources[name] = read_file(f"{name}_file", path, formats, columns, args.delimiter)
    uniform = {
        name: _uniform(_without_unlabelled(name, sources[name], columns, args), columns)
        for name in SPLITS
        if name in sources
    }
    return uniform if transfer is None else uniform | {TRANSFER_SET: transfer}


def _check_there(args: DataArguments, stored: Iterable[str], files: Iterable[str]) -> None:
    """Refuse a dataset without a split that is needed."""
    given, found = {*stored, *files}, ", ".join(stored)
    has_unlabelled = args.unlabelled_file is not None or args.unlabelled_dataset is not None
    if args.needs_train and "train" not in given and not has_unlabelled:
        raise ValueError(f"dataset={args.dataset!r} has no train split, only {found}: set train_file.")
    if found and not given & {*SPLITS}:
        raise ValueError(f"dataset={args.dataset!r} has none of the splits {', '.join(SPLITS)}, only {found}.")


def _of_dataset(name: str, rows: Dataset, columns: Sequence[Column]) -> Source:
    require_columns(f"the {name} split", columns, rows.column_names)
    if len(rows) == 0:
        raise ValueError(f"the {name} split is empty.")
    return Source(rows, f"{name} split")


def _chosen(
    layouts: Sequence[Sequence[Column]],
    args: DataArguments,
    stored: Mapping[str, Dataset],
    files: Mapping[str, str],
) -> Sequence[Column]:
    """The first layout that the training examples have; the first of all where their columns are not known yet.

    If no training examples are needed, the first split that there is decides. Columns of the model's run replace those
    of a layout where the examples have them.

    Raises:
        ValueError: they have none.
    """
    if len(layouts) == 1 and not args.columns_of_run:
        return layouts[0]
    given = (name for name in SPLITS if name in files or name in stored)
    first = "train" if args.needs_train else next(given, "train")
    if first in files:
        source, found = f"{first}_file={files[first]!r}", columns_of_file(files[first], args.delimiter)
    else:
        source, found = f"the {first} split", stored[first].column_names if first in stored else ()
    layouts = [
        [own if (own := _of_run(column, args)).name in found else column for column in columns] for columns in layouts
    ]
    chosen = next((columns for columns in layouts if {column.name for column in columns} <= set(found)), None)
    if chosen is None and found and len(layouts) > 1:
        ways = "; ".join(" and ".join(column.name for column in columns) for columns in layouts)
        raise ValueError(
            f"{source} has the columns {', '.join(found)}, and needs those of one of these layouts: {ways}. Rename "
            "them, or set text_column (and text_pair_column for a completion)."
        )
    return chosen or layouts[0]


def _of_run(column: Column, args: DataArguments) -> Column:
    return column._replace(name=args.columns_of_run.get(column.setting, column.name))


def _unlabelled(
    args: DataArguments, columns: Sequence[Column], formats: Sequence[str], bundled: Bundled
) -> Source | None:
    """The transfer set, with uniform columns."""
    inputs = [column for column in columns if not column.is_label]
    if args.unlabelled_file is not None:
        if Path(args.unlabelled_file).suffix.lower() == ".txt":
            inputs = [column._replace(name="text") if column.uniform == "text" else column for column in inputs]
        return _uniform(read_file("unlabelled_file", args.unlabelled_file, formats, inputs, args.delimiter), inputs)
    if args.unlabelled_dataset is None:
        return None
    stored = _stored_splits("unlabelled_dataset", args.unlabelled_dataset, None, bundled, inputs, args.delimiter)
    name = next((name for name in _UNLABELLED_SPLITS if name in stored), None)
    where = f"unlabelled_dataset={args.unlabelled_dataset!r}"
    if name is None:
        raise ValueError(f"{where} has none of the splits {', '.join(_UNLABELLED_SPLITS)}, only {', '.join(stored)}.")
    require_columns(f"{where}, {name} split,", inputs, stored[name].column_names)
    return _uniform(Source(stored[name], f"{where}, {name} split"), inputs)


def _check_apart(columns: Sequence[Column]) -> None:
    settings: dict[str, str] = {}
    for column in columns:
        other = settings.setdefault(column.name, column.setting)
        if other != column.setting:
            raise ValueError(f"{other} and {column.setting} are both {column.name!r}: name two columns.")


def _stored_splits(
    setting: str,
    dataset: str | None,
    config: str | None,
    bundled: Bundled,
    columns: Iterable[Column],
    delimiter: str | None,
) -> dict[str, Dataset]:
    if dataset is None:
        return {}
    if dataset in bundled:
        return dict(bundled[dataset]())
    where, folder = f"{setting}={dataset!r}", Path(dataset).resolve()
    if folder.is_dir() and glob.has_magic(str(folder)):
        raise ValueError(f"{where}: *, ? and [ in the folder's path are read as patterns: rename it.")
    if folder.is_file():
        files = "train_file" if setting == "dataset" else "unlabelled_file"
        raise ValueError(f"{where} is a file, and a dataset is a folder or an id of the Hub: set {files}.")
    if dataset in BUNDLED and not folder.is_dir():
        raise ValueError(f"{where} has no data for this problem: give another dataset, or files.")
    if (folder / DATASET_STATE_JSON_FILENAME).is_file():  # written by `Dataset.save_to_disk`
        with _named(where):
            return {"train": _saved(folder)}
    if (folder / DATASETDICT_JSON_FILENAME).is_file():  # by `DatasetDict.save_to_disk`
        with _named(where):
            splits = dict(_saved(folder))
    else:
        splits = _table_splits(where, dataset, config, columns, delimiter) if folder.is_dir() else {}
    if not splits:
        with _named(where):
            splits = dict(load_dataset(dataset, config))
    for name in _VALIDATION_SPLITS:
        if name in splits and "validation" not in splits:
            splits["validation"] = splits.pop(name)
    return splits


def _saved(folder: Path) -> Any:
    """What `save_to_disk` wrote, with values as Python has them, whatever `set_format` had set.

    A folder that cannot be written is read into memory, because `datasets` would write there what is made of it.
    """
    return load_from_disk(folder, keep_in_memory=not os.access(folder, os.W_OK)).with_format(None)


def _table_splits(
    where: str, folder: str, config: str | None, columns: Iterable[Column], delimiter: str | None
) -> dict[str, Dataset]:
    """The splits of a folder of csv or tsv, read as a `train_file` is; none if the folder has other files.

    `datasets` reads a folder whose README gives the types or names of the columns.
    """
    with _named(where):
        builder = load_dataset_builder(folder, config)
    files = builder.config.data_files or {}
    paths = [path for paths in files.values() for path in paths]
    is_table = bool(paths) and all(Path(path).suffix.lower() in TABLES for path in paths)
    if not is_table or builder.info.features or builder.config.names:
        for path in sorted(set(paths)):
            check_table(where, path)
        return {}
    separator = delimiter or builder.config.sep
    return {str(name): _joined_tables(where, files[name], columns, separator) for name in files}


def _joined_tables(where: str, paths: Sequence[str], columns: Iterable[Column], separator: str) -> Dataset:
    """The rows of several csv or tsv, with all columns that have a name: texts, but for those of labels."""
    known = {column.name: column for column in columns if column.is_label}
    parts: list[Dataset] = []
    for path in paths:
        names = [name for name in columns_of_file(path, separator) if name]
        found = [known.get(name, Column(name, "", "")) for name in names]
        part = read_file(f"{where}: file", path, TABLES, found, separator).rows.remove_columns([ROW, POSITION])
        if parts and part.features != parts[0].features:
            raise ValueError(f"{where}: the columns of {path} differ in name or type from those of {paths[0]}.")
        parts.append(part)
    return concatenate_datasets(parts)


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    """Whatever `datasets` raises, as one error that names the setting."""
    try:
        yield
    except (DatasetsError, OSError, RuntimeError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{where} cannot be loaded: {error.__cause__ or error}") from error


def _has_labels(test: Dataset, columns: Sequence[Column]) -> bool:
    """Whether a test split has labels that benchmarks do not keep secret: by no column, or by nothing or -1 in it."""
    names = label_names(columns)
    if not set(names) <= set(test.column_names):
        return False
    items = [item for name in names for item in test[name][:]]
    return not items or any(map(_is_given, items))


def _is_given(label: Any) -> bool:
    if isinstance(label, Mapping):  # answers to a question, as lists
        return any(label.values())
    if isinstance(label, list):
        return any(map(_is_given, label))
    return label != -1 and not is_missing(label)


def _without_unlabelled(name: str, source: Source, columns: Sequence[Column], args: DataArguments) -> Source:
    """Without the examples that have no label, which evaluation needs; of train they stay, and a warning counts them.

    Raises:
        ValueError: no example for evaluation has a label.
    """
    names = label_names(columns)
    source = _without_minus_one(source, names)
    labels = zip(*(source.rows[column][:] for column in names), strict=True)
    missing = [row for row, values in enumerate(labels) if all(map(is_missing, values))]
    if not missing:
        return source
    rows, where = source.rows, source.where(*missing)
    hint = " A text to which no label applies has the list []." if args.problem_type == MULTI_LABEL else ""
    if name == "train":
        if args.needs_train and args.unlabelled_file is None and args.unlabelled_dataset is None:
            logger.warning(
                f"{where}: {len(missing)} of {len(rows)} training examples have no label, so that the KD loss alone "
                f"learns from them. If that is not intended, add their labels or delete the rows.{hint}"
            )
        return source
    if len(missing) == len(rows):
        raise ValueError(f"{source.name}: no example has a label, which evaluation needs.{hint}")
    logger.warning(f"{where}: {len(missing)} of {len(rows)} examples have no label, and are left out.{hint}")
    numbered = rows if ROW in rows.column_names else rows.add_column(ROW, np.arange(len(rows)))
    return source._replace(rows=numbered.select(sorted({*range(len(rows))} - {*missing})))


def _without_minus_one(source: Source, names: Sequence[str]) -> Source:
    """With None for the class -1, which on the Hub stands for no label."""
    rows = source.rows
    for label in names:
        feature = rows.features.get(label)
        if isinstance(feature, ClassLabel) and -1 in (labels := rows[label][:]):
            given = [None if value == -1 else value for value in labels]
            rows = rows.remove_columns(label).add_column(label, given, feature=feature)
    return source._replace(rows=rows)


def _uniform(source: Source, columns: Sequence[Column]) -> Source:
    names = {column.name: column.uniform for column in columns}
    others = [name for name in source.rows.column_names if name not in {*names, ROW, POSITION}]
    return source._replace(rows=source.rows.remove_columns(others).rename_columns(names))
