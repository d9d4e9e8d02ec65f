"""A page of sections, tables and pictures, as Markdown and as one HTML file that opens offline."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from hf_kd_lambda.reports.markdown import escaped, on_one_line, table_of

NONE = "–"
_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


class Entry(NamedTuple):
    """A cell of a table."""

    text: str = NONE
    value: float | str | None = None
    """What its column is sorted by; None comes last."""
    strong: bool = False


class Table(NamedTuple):
    """Its columns' names, and its rows."""

    head: list[str]
    rows: list[list[Entry]]


class Picture(NamedTuple):
    """A picture file, and what it shows in words."""

    path: Path
    shown: str


class Section(NamedTuple):
    """A part of a page, shown in the order of its fields."""

    title: str
    notes: Sequence[str] = ()
    table: Table | None = None
    pictures: Sequence[Picture] = ()
    sections: Sequence["Section"] = ()
    folded: bool = False


def text_entry(text: str) -> Entry:
    """A cell of text, by which its column is sorted."""
    return Entry(text, text)


def as_html(page: Section) -> str:
    """The page as one HTML file without links to other files; tables are sorted by a click on a column's name."""
    environment = Environment(
        loader=PackageLoader("hf_kd_lambda.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(page=page, embedded=_embedded)


def _embedded(path: Path) -> str:
    return f"data:{_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def as_markdown(page: Section, folder: Path) -> str:
    """The page as Markdown, with links to PNG pictures.

    Args:
        page: its pictures are an SVG and a PNG next to it.
        folder: folder of the Markdown file; links are relative to it.
    """
    return "\n\n".join(_markdown(page, folder)) + "\n"


def _markdown(section: Section, folder: Path, level: int = 1) -> list[str]:
    """Its blocks, those of its sections among them."""
    blocks = [f"{'#' * level} {escaped(section.title)}"]
    if section.folded:  # a line of HTML, in which Markdown's escapes have no effect
        blocks = [f"<details><summary>{html.escape(on_one_line(section.title))}</summary>"]
    blocks += map(escaped, section.notes)
    if section.table and section.table.rows:
        rows = [[_cell(entry) for entry in row] for row in section.table.rows]
        blocks.append(table_of([[escaped(name) for name in section.table.head], *rows]))
    for path, shown in section.pictures:
        blocks.append(f"![{escaped(shown)}]({path.with_suffix('.png').relative_to(folder).as_posix()})")
    for part in section.sections:
        blocks += _markdown(part, folder, level + 1)
    return [*blocks, "</details>"] if section.folded else blocks


def _cell(entry: Entry) -> str:
    return f"**{escaped(entry.text)}**" if entry.strong else escaped(entry.text)
