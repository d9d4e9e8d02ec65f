import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from settings_table import with_table  # noqa: E402


def test_the_table_of_settings_is_up_to_date():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_table(readme) == readme, "run: python scripts/settings_table.py"


def test_files_that_the_readme_shows_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [part.split(")")[0] for part in readme.split("](")[1:]]
    local = [link for link in links if not link.startswith("http")]
    assert local
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_each_row_of_what_works_names_its_tests():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("## What works with what\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and not line.endswith("| tests |")]
    assert len(rows) > 20
    assert [row for row in rows if "](tests/" not in row] == []
