import itertools
import math
import sys
from pathlib import Path
from statistics import fmean

from hf_kd_lambda.studies.comparison import merit
from hf_kd_lambda.studies.comparison.merit import Group
from hf_kd_lambda.studies.comparison.regimes import REGIMES
from hf_kd_lambda.studies.comparison.run_results import read_runs

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


def test_scores_of_sst2_are_quoted_as_the_report_has_them():
    report = (ROOT / "benchmarks/compare/report.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8").split("## A result")[1]
    quoted = [row[1:] for row in rows(readme, "clean labels")]
    rules = ["no KD", "fixed 0.1", "fixed 0.5", "fixed 0.9", "**evidence**"]
    for column, regime in enumerate(REGIMES):
        section = report.split(f"#### sst2, {regime}\n")[1]
        told = {row[0].removesuffix(" ★"): row[1].split()[0] for row in rows(section, "score")}
        assert [row[column] for row in quoted] == [told[rule] for rule in rules]


def test_what_readme_says_of_all_groups_is_in_the_runs():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    runs = read_runs(ROOT / "benchmarks/compare/results.jsonl")
    groups = merit.groups(runs)
    others = [run for run in runs if run.task != "mrpc"]
    means = [
        fmean(each.points for each in merit.regrets(others, rule).values())
        for rule in ("evidence", "adaptive", "fixed 0.5")
    ]
    assert (
        "without MRPC the mean regrets of `evidence`, `adaptive` and 0.5 are {:.2f}, {:.2f} and {:.2f}".format(*means)
        in readme
    )

    ended = [[run.log[-1]["lambda"] for run in merit.of_rule(runs, group, "evidence").values()] for group in groups]
    at_bound = [all(abs(math.log10(each)) > 0.999 for each in lambdas) for lambdas in ended]
    assert f"in {sum(at_bound)} of the {len(groups)} groups λ ends at its bound" in readme

    steps = []
    for group in groups:
        best = list(merit.best_fixed(runs, group).values())
        ours = list(merit.of_rule(runs, group, "evidence").values())
        taken = [merit.reach(each, merit.mean_points(best)).steps for each in (ours, best)]
        if taken[1] > best[0].evaluations[0]["step"]:
            steps.append(taken)
    assert (len(groups) - len(steps), len(steps)) == (3, 16)
    assert not any(ours <= 0.8 * best for ours, best in steps)

    tuned = merit.difference(merit.against_tuned(runs, "evidence"))
    low, high = (-each for each in reversed(tuned.interval))
    assert f"loses {-tuned.mean:.2f} points on average (95 % interval over groups: {low:.2f} to {high:.2f})" in readme

    odds = {
        regime: [run.log[-1]["odds"] for run in merit.of_rule(runs, Group("stsb", regime), "evidence").values()]
        for regime in ("clean", "spoiled_teacher")
    }
    assert {name: f"{fmean(each):.1f}" for name, each in odds.items()} == {"clean": "1.4", "spoiled_teacher": "0.7"}
    weak = merit.mean_lambda(*merit.of_rule(runs, Group("stsb", "spoiled_teacher"), "evidence").values())
    assert f"(odds 0.7, λ {weak:.1f} on average)" in readme


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
