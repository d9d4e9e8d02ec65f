"""The splits that a dataset or files have, with the columns that a task reads."""

import contextlib
import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetsError

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.files import check_table, read_file
from hf_kd_lambda.data.sources import ROW, Column, Source, label_column, require_columns

FILE_SPLITS = ("train", "validation", "test")
SPLITS = ("train", "validation", "validation_mismatched", "test")


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
    name = label_column(columns)
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
