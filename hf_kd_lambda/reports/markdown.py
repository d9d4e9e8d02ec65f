"""Tables in Markdown, and foreign texts escaped for it, such as names of models, metrics and columns."""

import re
from collections.abc import Container, Sequence

# Characters of emphasis, code, links, tables, headings, formulas and HTML. Underscores inside a word, and brackets
# without a following address, have no effect.
_SPECIAL = re.compile(r"[\\`*|#~$<>&]|\](?=[(\[:])|(?<![^\W_])_+|_+(?![^\W_])")


def on_one_line(text: str) -> str:
    """A text without line breaks, tabs and control characters, which would break headings and table rows."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def escaped(text: str) -> str:
    """A text as one line of Markdown, with all markup, HTML and column separators escaped."""
    return _SPECIAL.sub(lambda match: "".join(f"\\{char}" for char in match.group()), on_one_line(text))


def code_span(text: str) -> str:
    """A text as inline code that also works in a table."""
    line = on_one_line(text)
    if "`" not in line:
        return f"`{line}`".replace("|", "\\|")
    fence = "`" * (_longest_run(line) + 1)
    return f"{fence} {line} {fence}".replace("|", "\\|")


def code_block(text: str, language: str) -> str:
    """A text as a code block; its fence is longer than any fence in the text."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def table_of(rows: Sequence[Sequence[str]], numbers: Container[int] = ()) -> str:
    """A table of cells in Markdown, the head first; the columns whose indices are in `numbers` are right-aligned."""
    head, *others = rows
    rule = ["---:" if column in numbers else "---" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *others))


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
