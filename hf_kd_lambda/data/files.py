"""Files of examples; what is wrong with one is named by setting, file and row."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Value
from datasets.exceptions import DatasetGenerationError

from hf_kd_lambda.data.file_types import check_shape, column_type, kind_of, kind_of_cell, label_of_cell
from hf_kd_lambda.data.readers import READERS, TABLES, RowError, duplicate
from hf_kd_lambda.data.sources import POSITION, ROW, Column, Source, label_names, require_columns
from hf_kd_lambda.utils.fingerprint import file_digest

_SPREADSHEETS = (".xls", ".xlsx", ".ods")


def read_file(
    setting: str, path: str, formats: Iterable[str], columns: Sequence[Column], delimiter: str | None = None
) -> Source:
    """The named columns of a file, stored by `datasets` under the fingerprint of what the file holds.

    Cells of a csv or tsv are texts; those of the label are numbers where all are.

    Args:
        setting: name of the setting with the path.
        path: csv, tsv, json (an array of objects, or as jsonl), jsonl, parquet or txt, in UTF-8.
        formats: suffixes that the task reads.
        columns: columns to read, with their names in the file.
        delimiter: what separates columns in a csv or tsv. Default: comma or tab.

    Raises:
        ValueError: the file is missing, empty, broken or lacks a column; names setting, file and, if known, row.
    """
    name, suffix = f"{setting}={path!r}", Path(path).suffix.lower()
    if suffix not in formats:
        fix = " Save it as csv, or pandas.read_excel(...).to_csv(...)." if suffix in _SPREADSHEETS else ""
        raise ValueError(f"{name} is not one of {', '.join(formats)}.{fix}")
    if not Path(path).is_file():
        raise ValueError(f"{name} does not exist, or is no file.")
    counted = READERS[suffix][1]
    separator = delimiter or ("\t" if suffix == ".tsv" else ",")
    try:
        features = _features(name, path, suffix, separator, columns)
        labels = tuple(label_names(columns))  # a list is taken for shards
        arguments = {"path": path, "suffix": suffix, "separator": separator, "labels": labels}
        arguments |= {"features": features, "digest": f"{file_digest(path)} {version('hf-kd-lambda')}"}
        rows = Dataset.from_generator(_examples, features=features, gen_kwargs=arguments)
    except RowError as error:
        raise ValueError(f"{name}, {counted.format(error.row)}: {error}") from error
    except (DatasetGenerationError, OSError, pa.ArrowException) as error:
        raise ValueError(f"{name} cannot be read: {error.__cause__ or error}") from error
    return Source(rows, name, counted)


def columns_of_file(path: str, delimiter: str | None = None) -> Collection[str]:
    """The columns of a file's first row; none of a file that `read_file` refuses."""
    suffix = Path(path).suffix.lower()
    if suffix not in READERS:
        return ()
    try:
        rows = READERS[suffix][0](path, delimiter or ("\t" if suffix == ".tsv" else ","))
        return next((row.keys() for _, row in rows if row), ())
    except (OSError, RowError, pa.ArrowException):
        return ()


def check_table(source: str, path: str) -> None:
    """Refuse a csv or tsv whose rows do not fit its header, and whose columns pandas would shift or rename.

    Args:
        source: the dataset with the file, for the message.
        path: other files are not looked at.

    Raises:
        ValueError: names the file and the row.
    """
    suffix = Path(path).suffix.lower()
    if suffix in TABLES:
        read, counted = READERS[suffix]
        try:
            for _ in read(path, "\t" if suffix == ".tsv" else ","):
                pass
        except RowError as error:
            raise ValueError(f"{source}: {path}, {counted.format(error.row)}: {error}") from error


def _features(name: str, path: str, suffix: str, separator: str, columns: Sequence[Column]) -> Features:
    """The types of the columns that are kept, from all rows."""
    if suffix == ".parquet":
        schema = pq.read_schema(path)
        found, is_empty = schema.names, pq.read_metadata(path).num_rows == 0
        if twice := duplicate(found):
            raise ValueError(f"{name} has two columns {twice!r}: rename one.")
        read = [schema.field(column.name) for column in columns if column.name in found]
        try:
            stored = Features.from_arrow_schema(pa.schema(read, schema.metadata))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        types = {column.name: stored.get(column.name) for column in columns}
    else:
        is_table = suffix in TABLES
        kind_by_column = {column.name: _kinds(column, is_table) for column in columns}
        kinds: dict[str, dict[str, int]] = {column.name: {} for column in columns}
        seen: dict[str, None] = {}
        for number, row in READERS[suffix][0](path, separator):
            seen.update(dict.fromkeys(row))
            for column, of_value in kind_by_column.items():
                try:
                    kinds[column].setdefault(of_value(row.get(column)), number)
                except ValueError as error:
                    raise RowError(number, f"column {column!r} holds {error}.") from None
        found, is_empty = list(seen), not seen
        types = {
            column.name: column.feature or column_type(column.name, kinds[column.name], is_table) for column in columns
        }
    if is_empty:
        raise ValueError(f"{name} is empty: it has no rows.")
    require_columns(name, columns, found)
    return Features({ROW: Value("int64"), POSITION: Value("int64"), **types})


def _kinds(column: Column, is_table: bool) -> Callable[[Any], str]:
    """Decides the kind of a column's values, and refuses those that it cannot contain."""
    if column.feature is None:
        return kind_of_cell if is_table and column.is_label else kind_of

    def nested(value: Any) -> str:
        if value is not None:
            check_shape(value, column.feature)
        return "nested"

    return nested


def _examples(
    path: str, suffix: str, separator: str, labels: Sequence[str], features: Features, digest: str
) -> Iterator[dict[str, Any]]:
    """The rows; the digest is of what the path holds and of the version that reads it, under which they are stored."""
    is_table = suffix in TABLES
    for position, (number, row) in enumerate(READERS[suffix][0](path, separator)):
        if is_table and not row:
            continue
        values = {column: row.get(column) for column in features if column not in (ROW, POSITION)}
        for label in labels if is_table else ():
            values[label] = label_of_cell(str(values[label]), features[label].dtype)
        yield {ROW: number, POSITION: position, **values}
