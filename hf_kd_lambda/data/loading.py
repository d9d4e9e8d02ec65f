"""Splits of a dataset, with files in place of some of them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError

from hf_kd_lambda.arguments import DataArguments

SPLITS = ("train", "validation", "test")


def with_files(
    splits: Mapping[str, Dataset],
    args: DataArguments,
    formats: Mapping[str, str],
    csv_options: Mapping[str, Any],
    names: Iterable[str] = SPLITS,
) -> dict[str, Dataset]:
    """Splits as they are stored, in the order of their names; a file replaces the split of a dataset.

    Args:
        splits: of the dataset; none where there are files alone.
        args: name the files.
        formats: that the files may have, as `load_dataset` calls them, by suffix.
        csv_options: how to read a csv.
        names: of the splits that are kept.

    Raises:
        ValueError: a file cannot be read, or there is no train or validation split.
    """
    found = dict(splits)
    for name in SPLITS:
        if (path := getattr(args, f"{name}_file")) is not None:
            found[name] = _load_file(f"{name}_file", path, formats, csv_options)
    for name, fix in (("train", "give files instead"), ("validation", "set validation_file")):
        if name not in found:
            raise ValueError(f"dataset={args.dataset!r} has no {name} split, only {', '.join(found)}: {fix}.")
    return {name: found[name] for name in names if name in found}


def _load_file(setting: str, path: str, formats: Mapping[str, str], csv_options: Mapping[str, Any]) -> Dataset:
    file_format = formats.get(Path(path).suffix.lower())
    if file_format is None:
        raise ValueError(f"{setting}={path!r} is none of {', '.join(formats)}.")
    if not Path(path).is_file():
        raise ValueError(f"{setting}={path!r} does not exist.")
    options = csv_options if file_format == "csv" else {}
    try:
        return load_dataset(file_format, data_files=path, split="train", **options)
    except (DatasetGenerationError, ValueError) as error:
        raise ValueError(f"{setting}={path!r} is empty or no {file_format}: {error.__cause__ or error}") from error
