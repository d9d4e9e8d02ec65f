"""Readers of files, row by row.

The readers of `datasets` are not used: they take names of files for patterns, guess the type of a text (a date, a
number), and hang, crash or shift columns on some broken files.
"""

import csv
import json
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hf_kd_lambda.data.sources import other_delimiter
from hf_kd_lambda.data.squad_json import is_squad, squad_rows

Row = tuple[int, Mapping[str, Any]]

_SWALLOWED = (
    "a quotation mark at the start of a field joins rows up to the next quotation mark: the field has tabs and line "
    "breaks. Remove it, or double it and put quotes around the whole field; if the text has both, save the file as "
    "jsonl."
)


class RowError(ValueError):
    """What is wrong in a row of a file."""

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(problem)
        self.row = row


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
                    raise RowError(number, f"the byte 0x{byte:02x} is no UTF-8: save the file in UTF-8.") from None


def duplicate(names: Iterable[str]) -> str | None:
    """A name that is there twice; empty ones may be."""
    return next((name for name, count in Counter(names).items() if name and count > 1), None)


def _table_rows(path: str, separator: str) -> Iterator[Row]:
    """Rows of a csv or tsv, counted as a spreadsheet does; those that hold only separators without a cell."""
    csv.field_size_limit(2**31 - 1)  # the default refuses texts of more than 131,072 characters
    header: list[str] | None = None
    number = 0
    try:
        for number, cells in enumerate(csv.reader(_lines(path, ""), delimiter=separator, strict=True), 1):
            if not any(cell.strip() for cell in cells):  # spreadsheets write separators for blank rows
                if header is not None and len(cells) > 1:
                    yield number, {}
                continue
            if separator == "\t" and any(separator in cell and {*cell} & {*"\r\n"} for cell in cells):
                raise RowError(number, _SWALLOWED)
            if header is None:
                header = cells
                if twice := duplicate(header):
                    raise RowError(number, f"the header names {twice!r} twice: rename one.")
            elif len(cells) != len(header):
                other = other_delimiter(header)
                has = f"there are {len(cells)} fields, in the header {len(header)}"
                fix = f"put quotes around a text with a {separator!r} in it"
                if len(cells) < len(header):
                    fix = "a cell is missing, or put quotes around a text with a line break in it"
                raise RowError(
                    number, f"{has}: {fix}{f', or set delimiter to {other!r}, which the header has' if other else ''}."
                )
            else:
                yield number, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise RowError(number + 1, f"it is no valid csv ({error}): check the quotes.") from None


def _json_rows(path: str, separator: str) -> Iterator[Row]:
    """Objects of a jsonl, by their lines."""
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            yield number, _object(number, _parsed(number, line))


def _json_file_rows(path: str, separator: str) -> Iterator[Row]:
    """Objects of a json: entries of an array, by their place; the questions of SQuAD's json; or as in a jsonl."""
    if next((line for line in _lines(path) if line.strip()), "").lstrip().startswith("["):
        for number, item in enumerate(_parsed(1, "".join(_lines(path))), 1):
            yield number, _object(number, item)
    elif is_squad(file := _single_object(path)):
        yield from _questions(file)
    elif isinstance(file, Mapping) and sum(bool(line.strip()) for line in _lines(path)) > 1:
        fields = ", ".join(map(repr, file))
        raise RowError(1, f"the file is one object of {fields}: write a list of rows, and a file for each split.")
    else:
        yield from _json_rows(path, separator)


def _single_object(path: str) -> Any:
    """What a json file holds; None if it is not one valid value, as a jsonl is not."""
    try:
        return json.loads("".join(_lines(path)), object_pairs_hook=_without_duplicates)
    except (RecursionError, ValueError):
        return None


def _questions(file: Mapping[str, Any]) -> Iterator[Row]:
    """Rows of SQuAD's json, by the number of the question in the file."""
    number = 0
    try:
        for number, row in enumerate(squad_rows(file), 1):
            yield number, row
    except ValueError as error:
        raise RowError(number + 1, str(error)) from None


def _parsed(number: int, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except (RecursionError, ValueError) as error:
        problem = "too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise RowError(number, f"it is no valid JSON ({problem}).") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError(f"{duplicate(name for name, _ in pairs)!r} is there twice")
    return fields


def _object(number: int, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RowError(number, f"{reprlib.repr(value)} is no JSON object: write {{'text': …, 'label': …}}.")
    return value


def _text_rows(path: str, separator: str) -> Iterator[Row]:
    """Lines of a text file, in the column `text`."""
    for number, line in enumerate(_lines(path), 1):
        yield number, {"text": line.rstrip("\n")}


def _parquet_rows(path: str, separator: str) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        yield from enumerate(row for batch in file.iter_batches(1000) for row in batch.to_pylist())


READERS: dict[str, tuple[Callable[[str, str], Iterator[Row]], str]] = {
    ".csv": (_table_rows, "row {} (the header is row 1)"),
    ".tsv": (_table_rows, "row {} (the header is row 1)"),
    ".jsonl": (_json_rows, "line {}"),
    ".json": (_json_file_rows, "line, item or question {}"),
    ".txt": (_text_rows, "line {}"),
    ".parquet": (_parquet_rows, "row {} (counted from 0)"),
}
TABLES = (".csv", ".tsv")
