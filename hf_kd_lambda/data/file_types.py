"""The types of columns, from the values that a file holds."""

import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from datasets import List, Value

from hf_kd_lambda.data.readers import RowError

MISSING_LABELS = ("", "nan", "NaN")
_MISSING_WORDS = ("na", "n/a", "#n/a", "null", "none", "nil", r"\n", "?", "-")
"""Words that other programs write for a missing number, in lower case. Among names they are names."""
_MISSING_WORD = "word for a missing number"
_INTEGER = re.compile(r"[+-]?\d{1,18}")
_CODE = re.compile(r"[+-]?0\d+")
"""A name, such as that of an area: its zeros would be lost."""
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE)
_PARSED: dict[str, Callable[[str], Any]] = {"string": str, "int64": int, "float64": float}


def kind_of(value: object) -> str:
    """How the type of a value is called, `null` of what is missing."""
    if value is None:
        return "null"
    if isinstance(value, list):
        kinds = {kind_of(item) for item in value} - {"null"}
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


def kind_of_cell(value: str | None) -> str:
    """Likewise of the text in a cell of labels."""
    if value is None or value.strip() in MISSING_LABELS:
        return "null"
    cell = value.strip()
    if _CODE.fullmatch(cell):
        return "string"
    if _INTEGER.fullmatch(cell):
        return "int64"
    if _FLOAT.fullmatch(cell):
        return "float64"
    return _MISSING_WORD if cell.lower() in _MISSING_WORDS else "string"


def column_type(column: str, kinds: Mapping[str, int], is_table: bool) -> Value | List:
    """The type of a column, from the first row of each kind that it holds."""
    kinds = {kind: row for kind, row in kinds.items() if kind != "null"}
    if is_table and ("string" in kinds or kinds.keys() == {_MISSING_WORD}):
        return Value("string")  # any cell can be a text
    if _MISSING_WORD in kinds:
        raise RowError(
            kinds[_MISSING_WORD],
            f"column {column!r} holds a word such as NA among numbers: leave the cell empty where a label is missing.",
        )
    if len(kinds) > 1:
        kinds.pop("list of null", None)  # an empty list can be of any type
    for integers, floats in (("int64", "float64"), ("list of int64", "list of float64")):
        if kinds.keys() == {integers, floats}:
            del kinds[integers]
    if len(kinds) > 1:
        (kind, _), (other, row), *_ = sorted(kinds.items(), key=lambda item: item[1])
        raise RowError(row, f"column {column!r} has type {other}, above {kind}: give all rows one type.")
    return _feature(next(iter(kinds), "string"))


def _feature(kind: str) -> Value | List:
    """The type of a kind of values, see `kind_of`."""
    if kind.startswith("list of "):
        return List(_feature(kind.removeprefix("list of ")))
    return Value("string" if kind == "null" else kind)


def check_shape(value: Any, feature: Any) -> None:
    """Refuse a nested value that has another structure than its type; it may have more fields.

    Args:
        value: a value from a file or a dataset.
        feature: its type: a mapping of types by field, a `List` or a `Value`.

    Raises:
        ValueError: names the part that differs.
    """
    if isinstance(feature, Mapping):
        if not isinstance(value, Mapping) or not feature.keys() <= value.keys():
            raise ValueError(f"{reprlib.repr(value)}, which is no object with {' and '.join(feature)}")
        for name, kind in feature.items():
            check_shape(value[name], kind)
    elif isinstance(feature, List):
        if not isinstance(value, list):
            raise ValueError(f"{reprlib.repr(value)}, which is no list")
        for item in value:
            check_shape(item, feature.feature)
    elif kind_of(value) != feature.dtype:
        raise ValueError(f"{reprlib.repr(value)}, which is no {_NAMES[feature.dtype]}")


_NAMES = {"string": "text", "int64": "whole number"}


def label_of_cell(cell: str, dtype: str) -> Any:
    """The label that a cell of a csv or tsv stands for; None where it is blank.

    Args:
        cell: its text.
        dtype: the column's type, see `column_type`.
    """
    return None if cell.strip() in MISSING_LABELS else _PARSED[dtype](cell)
