"""Write the tables of README.md and docs/, from the code and from benchmarks/: `python scripts/fill_tables.py`.

They stand between `<!-- table: NAME -->` and `<!-- end -->`. `tests/docs` checks that they are up to date.
"""

import re
from pathlib import Path

import cost_tables
import docs_tables
import result_tables

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
TABLES = cost_tables.TABLES | docs_tables.TABLES | result_tables.TABLES


def marked_files() -> list[Path]:
    """Files with places for tables."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [file for file in files if MARKED.search(file.read_text(encoding="utf-8"))]


def with_tables(text: str) -> str:
    """The text with up-to-date tables."""
    return MARKED.sub(lambda place: place[1] + TABLES[place[2]]() + place[3], text)


if __name__ == "__main__":
    for file in marked_files():
        file.write_text(with_tables(file.read_text(encoding="utf-8")), encoding="utf-8")
