"""Files of examples, read row by row; what is wrong with one is named by setting, file and row.

The readers of `datasets` are not used: they take names of files for patterns, guess the type of a text (a date, a
number), and hang, crash or shift columns on some broken files.
"""

import csv
import hashlib
import json
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, List, Value
from datasets.exceptions import DatasetGenerationError

ROW = "__row__"
"""Column of the number by which the file's readers know a row: see `Source`."""
_INTEGER = re.compile(r"[+-]?\d{1,18}")
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE)
_MISSING_LABELS = ("", "nan", "NaN")
_PARSED: dict[str, Callable[[str], Any]] = {"string": str, "int64": int, "float64": float}

Row = tuple[int, Mapping[str, Any]]


class Column(NamedTuple):
    """A column that a task reads.

    Attributes:
        name: in the data.
        uniform: once loaded.
        setting: that gives the name.
    """

    name: str
    uniform: str
    setting: str


class Source(NamedTuple):
    """The rows of a split, and how messages name them.

    Attributes:
        rows: from a file, with the column ROW.
        name: of the split or the file.
        counted: how a row is numbered.
    """

    rows: Dataset
    name: str
    counted: str = "row {} (counted from 0)"

    def where(self, index: int) -> str:
        """The place of a row, for messages."""
        number = self.rows[ROW][index] if ROW in self.rows.column_names else index
        return f"{self.name}, {self.counted.format(number)}"


def require_columns(source: str, columns: Iterable[Column], found: Sequence[str]) -> None:
    """Refuse columns that are not there.

    Args:
        source: of the rows, for the message.
        columns: that are needed.
        found: that there are.

    Raises:
        ValueError: one is missing; names the setting.
    """
    for column in columns:
        if column.name not in found:
            one = len(found) == 1 and any(mark in found[0] for mark in ",;|\t")
            hint = " Or set delimiter: the header is one field." if one else ""
            raise ValueError(
                f"{source} has no column {column.name!r}, only {', '.join(map(str, found))}: "
                f"set {column.setting}.{hint}"
            )


class _RowError(ValueError):
    """What is wrong in a row of a file."""

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(problem)
        self.row = row


def read_file(
    setting: str, path: str, formats: Iterable[str], columns: Sequence[Column], delimiter: str | None = None
) -> Source:
    """The named columns of a file, stored by `datasets` under the fingerprint of what the file holds.

    Cells of a csv or tsv are texts; those of the label are numbers where all are.

    Args:
        setting: that gives the path.
        path: csv, tsv, json (an array of objects, or as jsonl), jsonl, parquet or txt, in UTF-8.
        formats: suffixes that the task reads.
        columns: that are kept, with their names in the file.
        delimiter: of a csv or tsv. Default: comma or tab.

    Raises:
        ValueError: the file is missing, empty, broken or lacks a column; names setting, file and, if known, row.
    """
    name, suffix = f"{setting}={path!r}", Path(path).suffix.lower()
    if suffix not in formats:
        raise ValueError(f"{name} is none of {', '.join(formats)}.")
    if not Path(path).is_file():
        raise ValueError(f"{name} does not exist, or is no file.")
    counted = _READERS[suffix][1]
    separator = delimiter or ("\t" if suffix == ".tsv" else ",")
    try:
        with Path(path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        features = _features(name, path, suffix, separator, columns)
        label = next((column.name for column in columns if column.uniform == "label"), None)
        arguments = {"path": path, "suffix": suffix, "separator": separator, "label": label}
        arguments |= {"features": features, "digest": digest}
        rows = Dataset.from_generator(_examples, features=features, gen_kwargs=arguments)
    except _RowError as error:
        raise ValueError(f"{name}, {counted.format(error.row)}: {error}") from error
    except (DatasetGenerationError, OSError, pa.ArrowException) as error:
        raise ValueError(f"{name} cannot be read: {error.__cause__ or error}") from error
    return Source(rows, name, counted)


def check_table(source: str, path: str) -> None:
    """Refuse a csv or tsv whose rows do not fit its header, and whose columns pandas would shift or rename.

    Args:
        source: that has the file, for the message.
        path: other files are not looked at.

    Raises:
        ValueError: names the file and the row.
    """
    suffix = Path(path).suffix.lower()
    if suffix in _TABLES:
        read, counted = _READERS[suffix]
        try:
            for _ in read(path, "\t" if suffix == ".tsv" else ","):
                pass
        except _RowError as error:
            raise ValueError(f"{source}: {path}, {counted.format(error.row)}: {error}") from error


def _features(name: str, path: str, suffix: str, separator: str, columns: Sequence[Column]) -> Features:
    """The types of the columns that are kept, from all rows."""
    if suffix == ".parquet":
        schema = pq.read_schema(path)
        stored = Features.from_arrow_schema(schema)
        found, is_empty = schema.names, pq.read_metadata(path).num_rows == 0
        types = {column.name: stored.get(column.name) for column in columns}
        if twice := _duplicate(found):
            raise ValueError(f"{name} has two columns {twice!r}: rename one.")
    else:
        is_table = suffix in _TABLES
        kind_of = {
            column.name: _kind_of_cell if is_table and column.uniform == "label" else _kind for column in columns
        }
        kinds: dict[str, dict[str, int]] = {column.name: {} for column in columns}
        seen: dict[str, None] = {}
        for number, row in _READERS[suffix][0](path, separator):
            seen.update(dict.fromkeys(row))
            for column, of_value in kind_of.items():
                try:
                    kinds[column].setdefault(of_value(row.get(column)), number)
                except ValueError as error:
                    raise _RowError(number, f"column {column!r} holds {error}.") from None
        found, is_empty = list(seen), not seen
        types = {column.name: _type(column.name, kinds[column.name], is_table) for column in columns}
    if is_empty:
        raise ValueError(f"{name} is empty: it has no rows.")
    require_columns(name, columns, found)
    return Features({ROW: Value("int64"), **types})


def _examples(
    path: str, suffix: str, separator: str, label: str | None, features: Features, digest: str
) -> Iterator[dict[str, Any]]:
    """The rows; the digest is of what the path holds, under which the result is stored."""
    for number, row in _READERS[suffix][0](path, separator):
        values = {column: row.get(column) for column in features if column != ROW}
        if suffix in _TABLES and label is not None:
            cell = str(values[label])
            values[label] = None if cell in _MISSING_LABELS else _PARSED[features[label].dtype](cell)
        yield {ROW: number, **values}


# --- types


def _kind(value: object) -> str:
    """How the type of a value is called, `null` of what is missing."""
    if value is None:
        return "null"
    if isinstance(value, list):
        kinds = {_kind(item) for item in value} - {"null"}
        if len(kinds) > 1 and kinds != {"int64", "float64"}:
            raise ValueError(f"{reprlib.repr(value)}, values of several types")
        return f"list of {'float64' if len(kinds) > 1 else kinds.pop() if kinds else 'null'}"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{reprlib.repr(value)}, a number of more than 64 bits")
    if isinstance(value, str):
        value.encode()  # fails for half of a character, as \ud800 is
    kind = _KINDS.get(type(value))
    if kind is None:
        raise ValueError(f"{reprlib.repr(value)}, which is no text, number or list of them")
    return kind


_KINDS: dict[type, str] = {bool: "bool", int: "int64", float: "float64", str: "string"}


def _kind_of_cell(value: str | None) -> str:
    """Likewise of the text in a cell of labels."""
    if value is None or value in _MISSING_LABELS:
        return "null"
    return "int64" if _INTEGER.fullmatch(value.strip()) else "float64" if _FLOAT.fullmatch(value.strip()) else "string"


def _type(column: str, kinds: Mapping[str, int], is_table: bool) -> Value | List:
    """The type of a column, from the first row of each kind that it holds."""
    kinds = {kind: row for kind, row in kinds.items() if kind != "null"}
    if len(kinds) > 1:
        kinds = {kind: row for kind, row in kinds.items() if kind != "list of null"}
    if len(kinds) > 1 and is_table and "string" in kinds:
        return Value("string")
    if kinds.keys() == {"int64", "float64"} or kinds.keys() == {"list of int64", "list of float64"}:
        kinds = {kind: row for kind, row in kinds.items() if "float64" in kind}
    if len(kinds) > 1:
        (kind, _), (other, row), *_ = sorted(kinds.items(), key=lambda item: item[1])
        raise _RowError(row, f"column {column!r} has type {other}, above {kind}: give all rows one type.")
    kind = next(iter(kinds), "string")
    *lists, dtype = kind.split("list of ")
    feature: Value | List = Value("string" if dtype == "null" else dtype)
    for _ in lists:
        feature = List(feature)
    return feature


# --- formats


def _lines(path: str, newline: str | None = None) -> Iterator[str]:
    """Lines of a file, with their ends."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline=newline) as file:
            yield from file
    except UnicodeDecodeError:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    byte = line[error.start]
                    raise _RowError(number, f"the byte 0x{byte:02x} is no UTF-8: save the file in UTF-8.") from None


def _duplicate(names: Iterable[str]) -> str | None:
    """A name that is there twice; empty ones may be."""
    return next((name for name, count in Counter(names).items() if name and count > 1), None)


def _table_rows(path: str, separator: str) -> Iterator[Row]:
    """Rows of a csv or tsv, counted as a spreadsheet does."""
    csv.field_size_limit(2**31 - 1)  # the default refuses texts of more than 131,072 characters
    header: list[str] | None = None
    number = 0
    try:
        for number, cells in enumerate(csv.reader(_lines(path, ""), delimiter=separator, strict=True), 1):
            if not cells:
                continue
            if header is None:
                header = cells
                if twice := _duplicate(header):
                    raise _RowError(number, f"the header names {twice!r} twice: rename one.")
            elif len(cells) != len(header):
                raise _RowError(
                    number,
                    f"there are {len(cells)} fields, in the header {len(header)}: put quotes around a text with a "
                    f"{separator!r} in it.",
                )
            else:
                yield number, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise _RowError(number + 1, f"it is no valid csv ({error}): check the quotes.") from None


def _json_rows(path: str, separator: str) -> Iterator[Row]:
    """Objects of a jsonl, by their lines."""
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            yield number, _object(number, _parsed(number, line))


def _json_file_rows(path: str, separator: str) -> Iterator[Row]:
    """Objects of a json: of an array, by their place in it, or as those of a jsonl."""
    if not next((line for line in _lines(path) if line.strip()), "").lstrip().startswith("["):
        yield from _json_rows(path, separator)
        return
    array = _parsed(1, "".join(_lines(path)))
    for number, item in enumerate(array, 1):
        yield number, _object(number, item)


def _parsed(number: int, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except (RecursionError, ValueError) as error:
        problem = "too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise _RowError(number, f"it is no valid JSON ({problem}).") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError(f"{_duplicate(name for name, _ in pairs)!r} is there twice")
    return fields


def _object(number: int, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _RowError(number, f"{reprlib.repr(value)} is no JSON object: write {{'text': …, 'label': …}}.")
    return value


def _text_rows(path: str, separator: str) -> Iterator[Row]:
    """Lines of a text file, in the column `text`."""
    for number, line in enumerate(_lines(path), 1):
        yield number, {"text": line.rstrip("\n")}


def _parquet_rows(path: str, separator: str) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        yield from enumerate(row for batch in file.iter_batches(1000) for row in batch.to_pylist())


_READERS: dict[str, tuple[Callable[[str, str], Iterator[Row]], str]] = {
    ".csv": (_table_rows, "row {} (the header is row 1)"),
    ".tsv": (_table_rows, "row {} (the header is row 1)"),
    ".jsonl": (_json_rows, "line {}"),
    ".json": (_json_file_rows, "line or item {}"),
    ".txt": (_text_rows, "line {}"),
    ".parquet": (_parquet_rows, "row {} (counted from 0)"),
}
_TABLES = (".csv", ".tsv")
