import itertools
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
    links = [part.split(")")[0].split("#")[0] for part in readme.split("](")[1:]]
    local = [link for link in links if not link.startswith("http")]
    assert local
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_regrets_are_quoted_as_the_report_has_them():
    report = (ROOT / "benchmarks/compare/report.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8").split("## Compare rules")[1].split("\n## ")[0]
    told = {row[0].strip("*"): [float(cell.split()[0]) for cell in row[1:3]] for row in rows(report, "mean regret")}
    quoted = {row[0].strip("`"): [float(cell) for cell in row[1:3]] for row in rows(readme, "mean regret")}
    assert len(quoted) == 7
    assert quoted == told


def test_scores_of_kd_losses_are_quoted_as_the_report_has_them():
    report = (ROOT / "benchmarks/compare_variants/report.md").read_text(encoding="utf-8")
    docs = (ROOT / "docs/losses.md").read_text(encoding="utf-8")
    quoted = {row[0]: row[1:] for row in rows(docs, "no KD")}
    assert len(quoted) == 7
    for task, scores in quoted.items():
        section = report.split(f"#### {task}, clean\n")[1]
        assert [row[1].split()[0] for row in rows(section, "score")] == scores


def rows(text: str, column: str) -> list[list[str]]:
    """The cells of the first table that has this column, without its head."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|") and f"| {column} |" in line)
    table = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_each_row_of_what_works_names_its_tests():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("## What works with what\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ") and not line.endswith("| tests |")]
    assert len(lines) > 20
    assert [line for line in lines if "](tests/" not in line] == []
