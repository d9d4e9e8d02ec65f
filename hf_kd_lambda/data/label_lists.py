"""Labels that are lists: several labels for a text, or the share of each class, from one column or from several."""

import ast
import contextlib
import re
import reprlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from datasets import Dataset, List, Value

from hf_kd_lambda.data.arguments import SOFT_LABELS, DataArguments
from hf_kd_lambda.data.classes import NO_LABEL, Classes, find_classes, is_missing, labels_of
from hf_kd_lambda.data.soft_labels import SHARES_TOLERANCE
from hf_kd_lambda.data.sources import Column, Source
from hf_kd_lambda.losses.functional import IGNORED

_SEPARATORS = ",;|"
_BRACKETS = ("[", "(", "{")
_WITHOUT_COMMA = re.compile(r"""['"]\s+['"]""")
_TRUTH_VALUES = {"true": 1, "false": 0}  # pandas writes True, spreadsheets TRUE
_BY_NAME = Classes([])
"""Has no name in common with a dataset, so that `labels_of` gives the names of its labels in place of indices."""


class LabelLists(NamedTuple):
    """Encoded labels of all splits."""

    splits: dict[str, Dataset]
    """With the column `label`: a list of 1, 0 or -100 for each label, or of the share of each class; or None."""
    names: list[str]
    """Names of the labels or classes."""


def columns_of_labels(args: DataArguments) -> list[Column]:
    """The columns that labels are read from."""
    if args.label_columns is None:
        return [Column(args.label_column, "label", "label_column")]
    return [Column(name, f"label.{index}", "label_columns") for index, name in enumerate(args.label_columns)]


def encode_label_lists(sources: Mapping[str, Source], args: DataArguments) -> LabelLists:
    """The rows with their labels as lists; rows without labels, as of a transfer set, stay as they are.

    Args:
        sources: where the splits come from; train may have rows without a label.
        args: `problem_type`, `label_columns`, `label_separator`, `known_classes`, `teacher_classes`.

    Raises:
        ValueError: a label is none; names file and row.
    """
    encode: Callable[[list[Any]], list[Any]]
    label_columns = columns_of_labels(args)
    labelled = {name: source for name, source in sources.items() if label_columns[0].uniform in source.rows.features}
    raw = {name: _lists(source, label_columns, args) for name, source in labelled.items()}
    if args.problem_type == SOFT_LABELS:
        names = args.label_columns or _numbered(labelled, raw)
        encode, kind = partial(_shares, classes=len(names)), Value("float32")
    elif args.label_columns is not None:
        names, encode, kind = args.label_columns, _present_or_absent, Value("int64")
    else:
        classes = _classes(labelled, raw, args)
        names, encode, kind = classes.names, partial(_members, classes=classes), Value("int64")
    splits = {name: source.rows for name, source in sources.items()}
    for name, source in labelled.items():
        lists = [None if row is None else _named(source, index, encode, row) for index, row in enumerate(raw[name])]
        rows = source.rows.remove_columns([column.uniform for column in label_columns])
        splits[name] = rows.add_column("label", lists, feature=List(kind))
    return LabelLists(splits, list(names))


def _named(source: Source, index: int, encode: Callable[[Any], list[Any]], row: Any) -> list[Any]:
    try:
        return encode(row)
    except ValueError as error:
        raise ValueError(f"{source.where(index)}: labels {reprlib.repr(row)}: {error}") from None


def _lists(source: Source, columns: list[Column], args: DataArguments) -> list[list[Any] | None]:
    """The labels of each row as a list; None where there is none.

    Raises:
        ValueError: a value is no list of labels.
    """
    if len(columns) > 1:
        values = zip(*(source.rows[column.uniform][:] for column in columns), strict=True)
        return [None if all(map(is_missing, row)) else list(row) for row in values]
    parse = partial(_parsed, separator=args.label_separator, are_shares=args.problem_type == SOFT_LABELS)
    return [
        None if is_missing(value) else _named(source, index, parse, value)
        for index, value in enumerate(labels_of(source, _BY_NAME))
    ]


def _parsed(value: Any, separator: str, are_shares: bool) -> list[Any]:
    labels = _split(value, separator) if isinstance(value, str) else value if isinstance(value, list) else [value]
    if not are_shares:
        _check_members(labels)
    return labels


def _split(cell: str, separator: str) -> list[Any]:
    """Names between separators, or a list, a tuple or a set as Python writes it."""
    cell = cell.strip()
    if cell[:1] in _BRACKETS:
        if _WITHOUT_COMMA.search(cell):  # which Python would join to one name
            raise ValueError("there is no comma between the labels: write ['a', 'b'].")
        # A set is read as a list, since it has neither an order nor anything twice.
        in_brackets = f"[{cell[1:-1]}]" if cell[0] == "{" and cell[-1] == "}" else cell
        with contextlib.suppress(SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
            if isinstance(labels := ast.literal_eval(in_brackets), list | tuple):
                return list(labels)
        if cell[0] != "(":  # which may begin a name
            raise ValueError("it is no list such as ['a', 'b'].")
    return [part.strip() for part in cell.split(separator)]


def _check_members(labels: list[Any]) -> None:
    """Refuse what is no list of names, or of indices."""
    for label in labels:
        if not isinstance(label, str | int) or isinstance(label, bool):
            raise ValueError(f"{reprlib.repr(label)} is neither a name nor an integer.")
        if label == "":
            raise ValueError("one of them is empty: remove the separator before or after it.")
    indices = [label for label in labels if isinstance(label, int)]
    if len(set(indices)) < len(indices):
        raise ValueError(
            "an index is there twice: list the index of each label that applies, or give a column of 1 and 0 for each "
            "label (label_columns)."
        )


def _present_or_absent(row: list[Any]) -> list[int]:
    values = [_TRUTH_VALUES.get(value.lower(), value) if isinstance(value, str) else value for value in row]
    for value in values:
        if not is_missing(value) and value not in (0, 1):
            raise ValueError(f"{value!r} is neither 1 nor 0.")
    return [IGNORED if is_missing(value) else int(value) for value in values]


def _members(row: list[Any], classes: Classes) -> list[int]:
    indices = {classes.index(label) for label in row}
    if None in indices:
        wrong = next(label for label in row if classes.index(label) is None)
        raise ValueError(f"{wrong!r} is not one of {', '.join(classes.names)}.")
    return [int(index in indices) for index in range(len(classes.names))]


def _classes(labelled: Mapping[str, Source], raw: Mapping[str, list[Any]], args: DataArguments) -> Classes:
    """The known classes, or those of the first split that names any: train, unless none of its texts has a label."""
    known = args.known_classes or None
    for name, source in labelled.items():
        if found := [label for row in raw[name] for label in row or ()]:
            feature = source.rows.features["label"]
            if not isinstance(feature, List):
                _check_separator(source, raw[name], args.label_separator)
            inner = feature.feature if isinstance(feature, List) else feature
            classes = find_classes(found, inner, known, args.teacher_classes)
            assert classes is not None, "no label is a float"
            if known is None and all(row is None or len({*row}) == len(classes.names) for row in raw[name]):
                raise ValueError(
                    f"{source.name}: every text has all of the labels {', '.join(classes.names)}: list the names or "
                    "indices of those that apply, or give a column of 1 and 0 for each label (label_columns)."
                )
            return classes
    if known is not None and labelled:
        return Classes(known)
    raise ValueError(NO_LABEL)


def _check_separator(source: Source, rows: list[list[Any] | None], separator: str) -> None:
    """Refuse cells with another separator: none of them has several labels, and one has such a character."""
    if any(row is not None and len(row) > 1 for row in rows):
        return
    for index, row in enumerate(rows):
        if mark := next((mark for mark in _SEPARATORS for label in row or () if mark in str(label)), None):
            raise ValueError(
                f"{source.where(index)}: labels {row[0] if row else None!r}: with label_separator={separator!r}, no "
                f"text has several labels: set label_separator to {mark!r}, or write lists such as ['a', 'b']."
            )


def _numbered(labelled: Mapping[str, Source], raw: Mapping[str, list[Any]]) -> list[str]:
    """Names of as many classes as the first soft label has shares."""
    for name, source in labelled.items():
        for index, row in enumerate(raw[name]):
            if row is not None and len(row) < 2:
                raise ValueError(f"{source.where(index)}: labels {row}: give the shares of two classes or more.")
            if row is not None:
                return [str(number) for number in range(len(row))]
    return []


def _shares(row: list[Any], classes: int) -> list[float]:
    try:
        shares = [float(value) for value in row]
    except (TypeError, ValueError):
        raise ValueError("a share is no number.") from None
    if len(shares) != classes:
        raise ValueError(f"there are {len(shares)} shares of {classes} classes.")
    if negative := next((share for share in shares if share < 0), None):
        raise ValueError(f"the share {negative:.4g} is negative.")
    if not abs(sum(shares) - 1) <= SHARES_TOLERANCE:
        raise ValueError(f"shares must sum to 1, not to {sum(shares):.4g}.")
    return [share / sum(shares) for share in shares]
