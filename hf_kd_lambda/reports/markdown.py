"""Texts that others chose, such as names of models, metrics and columns, made safe to put into Markdown."""

import re

# What makes emphasis, code, links, tables, headings, formulas or HTML. Underscores inside a word and brackets that no
# address follows do nothing.
_SPECIAL = re.compile(r"[\\`*|#~$<>&]|\](?=[(\[:])|(?<![^\W_])_+|_+(?![^\W_])")


def on_one_line(text: str) -> str:
    """A text without line breaks, tabs and control characters, which would end a heading or a row."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def escaped(text: str) -> str:
    """A text as one line of Markdown that shows it as it is: no markup, HTML or new table column in it counts."""
    return _SPECIAL.sub(lambda match: "".join(f"\\{char}" for char in match.group()), on_one_line(text))


def code_span(text: str) -> str:
    """A text as inline code, also in a table."""
    line = on_one_line(text)
    if "`" not in line:
        return f"`{line}`".replace("|", "\\|")
    fence = "`" * (_longest_run(line) + 1)
    return f"{fence} {line} {fence}".replace("|", "\\|")


def code_block(text: str, language: str) -> str:
    """A text as a block of code whose fence is longer than any in the text."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
