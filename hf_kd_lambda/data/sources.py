"""Rows of examples: the columns that a task reads, and how messages name a row."""

import reprlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from datasets import Dataset

ROW = "__row__"
"""Column of a row's number as a file's readers count: see `Source`."""
POSITION = "__position__"
"""Column of a row's number in its file or split, counted from 0 without a header, as pandas does: rows that hold only
separators count, empty lines of a csv do not."""
NAMED_ROWS = 5  # more rows than these are not named in a message


class Column(NamedTuple):
    """A column that a task reads.

    Attributes:
        name: in the data.
        uniform: once loaded.
        setting: setting with this name as its value.
        feature: type of nested values, as `datasets` describes it; None for others, whose type comes from the rows.
    """

    name: str
    uniform: str
    setting: str

    feature: Any = None

    @property
    def is_label(self) -> bool:
        """Whether it has labels, or one of several."""
        return self.uniform.partition(".")[0] == "label"


class Source(NamedTuple):
    """The rows of a split, and how messages name them.

    Attributes:
        rows: from a file, with the columns ROW and POSITION.
        name: name of the split or file.
        counted: how a row is numbered.
    """

    rows: Dataset
    name: str
    counted: str = "row {} (counted from 0)"

    def where(self, *rows: int) -> str:
        """The place of a row, or of the first of several, for messages."""
        shown = rows[:NAMED_ROWS]
        numbers = self.rows.select(shown)[ROW][:] if ROW in self.rows.column_names else shown
        listed = ", ".join(map(str, numbers)) + (", …" if len(rows) > NAMED_ROWS else "")
        return f"{self.name}, {self.counted.format(listed)}"


def require_columns(source: str, columns: Iterable[Column], found: Sequence[str]) -> None:
    """Refuse columns that are not there, all at once.

    Args:
        source: where the rows come from, for the message.
        columns: needed columns.
        found: existing columns.

    Raises:
        ValueError: one is missing; names the setting.
    """
    missing = [column for column in columns if column.name not in found]
    if missing:
        hint = " Or set delimiter: the header is one field." if other_delimiter(found) else ""
        if all(column.is_label for column in missing):
            without = "unlabelled_file or unlabelled_dataset"
            hint += f" Evaluation needs labels; training examples without any are for {without}."
        names = " and no column ".join(repr(column.name) for column in missing)
        settings = " and ".join(dict.fromkeys(column.setting for column in missing))
        raise ValueError(
            f"{source} has no column {names}, only {', '.join(map(_shown, found))}: set {settings}.{hint}"
        )


def other_delimiter(header: Sequence[str]) -> str | None:
    """The delimiter in a header that was read as one field, with another; None if there is none."""
    return next((mark for mark in ";|\t," if mark in header[0]), None) if len(header) == 1 else None


def _shown(name: object) -> str:
    """A column's name, in quotes where it could not be seen whole."""
    text = str(name)
    return text if text and text == text.strip() else repr(text)


def label_names(columns: Iterable[Column]) -> list[str]:
    """The names that the columns of labels have in the data; none where a task reads none."""
    return [column.name for column in columns if column.is_label]


def check_values(source: Source, column: Column, is_usable: Callable[[Any], bool], kind: str) -> None:
    """Refuse values that a task cannot read.

    Args:
        source: rows with uniform columns.
        column: column to check.
        is_usable: whether a value can be read.
        kind: kind of value, for the message.

    Raises:
        ValueError: names the row, the column and the value.
    """
    for row, value in enumerate(source.rows[column.uniform][:]):
        if not is_usable(value):
            raise ValueError(
                f"{source.where(row)}: column {column.name!r} holds {reprlib.repr(value)}, which is no {kind}."
            )


def is_text(value: object) -> bool:
    """Whether a value is a text."""
    return isinstance(value, str)
