import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import result_tables  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_readme_is_one_page():
    assert len(README.encode()) <= 9 * 1024


def test_files_that_readme_links_exist():
    local = [link.split("#")[0] for link in LINK.findall(README) if not link.startswith("http")]
    assert len(local) > 10
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_tables_of_results_are_up_to_date():
    files = result_tables.marked_files()
    assert ROOT / "README.md" in files
    assert len(files) > 1
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert result_tables.with_tables(text) == text, f"{file.name}: run: python scripts/result_tables.py"


def test_a_stale_table_is_found():
    row = next(line for line in README.splitlines() if line.startswith("| fixed 0.5"))
    stale = README.replace(row, row.replace("8", "9"))
    assert stale != README
    assert result_tables.with_tables(stale) == README
