"""Page and figures of a comparison."""

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers.compared_runs import failed, made_up_run, whole_grid, write_runs
from matplotlib.figure import Figure

from hf_kd_lambda.studies.comparison import comparison_figures
from hf_kd_lambda.studies.comparison.comparison_report import write_comparison_report

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
CHROMIUM = shutil.which("chromium")
OFFLINE = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]


@pytest.fixture
def drawn(monkeypatch):
    """The figures by file name, to look into them; the files stay empty, as a second for each would add up."""
    recorded = {}

    class RecordedFigure(Figure):
        def savefig(self, path, **kwargs):
            recorded[path.stem] = self
            path.touch()

    monkeypatch.setattr(comparison_figures, "Figure", RecordedFigure)
    return recorded


def row(page, title, rule):
    """The cells of a rule in the first table beneath a title."""
    table = page.split(f"# {title}\n", 1)[1]
    line = next(line for line in table.splitlines() if line.startswith(f"| {rule} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def everything_in(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("drawn")
def test_page_holds_what_decides(tmp_path):
    page = write_comparison_report(write_runs(tmp_path, whole_grid()), "make it")
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == page
    assert "Written by: make it" in page
    assert "24 runs, 0 failed. Tasks: t, u. Regimes: r, s." in page
    assert "Hardware: CPU, 2 threads. Precision: unknown. Versions: torch 2.11.0. Commit: abc1234." in page
    regret = row(page, "Regret and sweep cost", "adaptive")
    assert regret == ["adaptive", "+1.00 [+1.00, +1.00]", "+1.00", "t, r", "4", "8", "×2.0", "8"]
    regret = row(page, "Regret and sweep cost", "low")  # 5 points in two of the four groups
    assert regret[0] == "low"
    assert regret[1].startswith("+2.50 [+0.00, ")
    assert regret[2:] == ["+5.00", "t, r", "4", "8", "–", "–"]
    against = row(page, "Against each fixed weight", "low")
    assert against[1].startswith("+1.50 [")
    assert against[1].endswith("] (4)")
    assert "| learning_rate | 0.0001 |" in page
    assert "| seed | " not in page  # which differs
    assert '| low | lambda_rule: "fixed", kd_weight: 0.1 |' in page
    assert "Failed runs" not in page
    assert "Rules have different seeds" not in page


@pytest.mark.usefixtures("drawn")
def test_page_holds_each_group(tmp_path):
    page = write_comparison_report(write_runs(tmp_path, whole_grid()), "make it")
    assert "The teacher scores 90.00." in page
    best = row(page, "t, r", "high ★")
    # 99 % of 75.5 is reached at the last step by seed 1, which scores 76, and by seed 0, which scores 75.
    assert best[1:] == ["75.50 ± 0.71", "2", "–", "80.0%", "1", "–", "1", "10", "×1.00", "1", "×1.00"]
    ours = row(page, "t, r", "adaptive")
    assert ours[1:7] == ["74.50 ± 0.71", "2", "-1.00 [-1.00, -1.00] (2)", "80.0%", "2", "50%"]
    assert ours[8:] == ["– (1 of 2)", "–", "– (1 of 2)", "–"]
    assert row(page, "u, s", "low ★")[1] == "75.50 ± 0.71"


@pytest.mark.usefixtures("drawn")
def test_a_comparison_cut_short_says_what_it_rests_on(tmp_path):
    runs = [run for run in whole_grid() if run.cell not in {("t", "s", "adaptive", 1), ("u", "r", "adaptive", 0)}]
    runs = [run for run in runs if run.cell[:2] != ("u", "s") or run.rule == "low"]
    page = write_comparison_report(write_runs(tmp_path, runs), "make it")
    assert row(page, "Regret and sweep cost", "adaptive")[4:] == ["3", "4", "×2.0", "4"]
    assert "No regret, because no seed has a complete sweep: u, s." in page
    assert "Rules have different seeds in: t, s; u, r; u, s." in page
    assert row(page, "t, s", "adaptive")[2:4] == ["1 of 2", "-1.00 (1)"]
    assert row(page, "u, s", "low")[3] == "–"
    assert "There is no best fixed weight: no seed has a complete sweep" in page


def with_settings(run, **settings):
    return replace(run, settings=run.settings | settings)


@pytest.mark.usefixtures("drawn")
def test_a_report_names_the_precisions_and_teachers_that_it_mixes(tmp_path):
    runs = [with_settings(run, precision="bf16" if run.rule == "low" else "fp32") for run in whole_grid(tasks=("t",))]
    runs = [replace(run, teacher_score=0.88) if run.cell[1:3] == ("r", "low") else run for run in runs]
    page = write_comparison_report(write_runs(tmp_path, runs), "make it")
    assert "Runs differ in precision, as named by task and regime, in: t, r; t, s." in page
    assert page.count("In bf16: low (0, 1) (seeds in brackets). In fp32: all other runs.") == 2
    assert page.count("Runs have different teachers, which score 88.00 to 90.00.") == 1
    assert page.count("The teacher scores 90.00.") == 1


@pytest.mark.parametrize("other", ["low", "high", "adaptive"])
def test_a_report_of_runs_with_other_settings_is_refused(tmp_path, other):
    runs = [with_settings(made_up_run("low"), num_train_epochs=3.0)]
    runs.append(with_settings(made_up_run(other, 1), num_train_epochs=5.0))
    refused = f"t, r, low, 0 with num_train_epochs: 3.0, but t, r, {other}, 1 has num_train_epochs: 5.0: choose"
    with pytest.raises(ValueError, match=refused):
        write_comparison_report(write_runs(tmp_path, runs), "make it")


@pytest.mark.usefixtures("drawn")
def test_runs_of_a_report_may_differ_in_what_their_rules_or_regimes_set(tmp_path):
    runs = [with_settings(made_up_run("low"), num_train_epochs=3.0)]
    runs.append(with_settings(made_up_run("low", regime="s"), num_train_epochs=5.0))
    own = with_settings(made_up_run("longer"), num_train_epochs=9.0)
    runs.append(replace(own, rule_parameters={"lambda_rule": "adaptive", "num_train_epochs": 9.0}))
    assert "3 runs" in write_comparison_report(write_runs(tmp_path, runs), "make it")


@pytest.mark.usefixtures("drawn")
def test_failed_runs_are_listed_and_nothing_else(tmp_path):
    broken = ("t", "r", "adaptive", 1)
    runs = [failed(run, "OSError: <a|b>\nno disk") if run.cell == broken else run for run in whole_grid()]
    page = write_comparison_report(write_runs(tmp_path, runs), "make it")
    assert "| t | r | adaptive | 1 | OSError: \\<a\\|b\\> no disk |" in page
    assert "24 runs, 1 failed." in page
    assert row(page, "t, r", "adaptive")[2] == "1 of 2"
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "OSError: &lt;a|b&gt;" in html


@pytest.mark.parametrize("runs", [[], [failed(run) for run in whole_grid()], [made_up_run("low")]])
def test_there_is_a_page_however_little_was_run(tmp_path, runs):
    page = write_comparison_report(write_runs(tmp_path, runs), "make it")
    assert f"{len(runs)} runs" in page
    assert (tmp_path / "report.html").exists()


def test_writing_again_changes_no_byte(tmp_path):
    write_comparison_report(write_runs(tmp_path, whole_grid(tasks=("t",))), "make it")
    first = everything_in(tmp_path)
    write_comparison_report(tmp_path, "make it")
    assert everything_in(tmp_path) == first
    names = {"regret", "scores_t", "lambda_t", "lambda_heat_map"}
    pictures = {f"figures/{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert {str(path) for path in first} == pictures | {"results.jsonl", "report.md", "report.html"}
    linked = re.findall(r"\]\((\S+)\)", first[next(path for path in first if path.name == "report.md")].decode())
    assert sorted(linked) == sorted(f"figures/{name}.png" for name in names)


def test_tasks_with_similar_names_have_figures_of_their_own(tmp_path, drawn):
    tasks = ("a b", "a/b", "a_b", "heat map", "t")
    runs = [made_up_run(rule, task=task) for task in tasks for rule in ("low", "adaptive")]
    page = write_comparison_report(write_runs(tmp_path, runs), "make it")
    linked = re.findall(r"!\[(.*): score over .*\]\(figures/scores_(.*)\.png\)", page)
    assert linked == [*zip(tasks, ("a_b", "a_b_2", "a_b_3", "heat_map_2", "t"), strict=True)]
    assert drawn.keys() >= {f"{kind}_{slug}" for _, slug in linked for kind in ("scores", "lambda")}
    assert "lambda_heat_map" in drawn


def test_curves_are_means_over_seeds(tmp_path, drawn):
    write_comparison_report(write_runs(tmp_path, whole_grid()), "make it")
    panels = drawn["scores_t"].axes
    assert [panel.get_title() for panel in panels] == ["r", "s"]
    low, high, adaptive = panels[0].lines
    assert list(adaptive.get_xdata()) == [2, 4, 6, 8, 10]
    assert [line.get_ydata()[-1] for line in (low, high, adaptive)] == pytest.approx([70.5, 75.5, 74.5])
    lambdas = [line.get_ydata() for line in drawn["lambda_t"].axes[0].lines]
    assert lambdas[0] == pytest.approx([1 / 9, 1 / 9])
    assert lambdas[2] == pytest.approx([1, 4])


def test_regrets_are_drawn_with_the_best_rule_on_top(tmp_path, drawn):
    runs = [run for run in whole_grid() if run.regime == "r"]
    write_comparison_report(write_runs(tmp_path, runs), "make it")
    (axes,) = drawn["regret"].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["high", "adaptive", "low"]
    means = [line.get_xdata()[0] for line in axes.lines if line.get_label() == "mean"]
    assert means == pytest.approx([0, 1, 5])


def test_a_rule_that_was_run_in_fewer_groups_says_so(tmp_path, drawn):
    runs = [run for run in whole_grid() if run.rule != "adaptive" or run.regime == "r"]
    write_comparison_report(write_runs(tmp_path, runs), "make it")
    names = [label.get_text() for label in drawn["regret"].axes[0].get_yticklabels()]
    assert sorted(names) == ["adaptive (2 of 4)", "high", "low"]


def test_a_task_without_a_complete_sweep_is_not_in_the_figure_of_regrets(tmp_path, drawn):
    runs = [run for run in whole_grid() if run.task == "t" or run.rule == "low"]
    write_comparison_report(write_runs(tmp_path, runs), "make it")
    (legend,) = drawn["regret"].legends
    assert [text.get_text() for text in legend.get_texts()] == ["mean", "t"]


def test_heat_map_has_a_row_for_each_run_that_measures(tmp_path, drawn):
    write_comparison_report(write_runs(tmp_path, whole_grid()), "make it")
    *panels, _ = drawn["lambda_heat_map"].axes
    assert [panel.get_title() for panel in panels] == ["t", "u"]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["r: adaptive", "s: adaptive"]
    rows = [mesh.get_array().ravel().tolist() for mesh in panels[0].collections]
    assert rows == [[1, 4]] * 4  # two regimes of two seeds


REGRET_TABLE = 3  # of the page, after the scores and their noise


class Page(HTMLParser):
    """What a page refers to, and the rows of its table of regrets."""

    def __init__(self, text):
        super().__init__()
        self.references, self.rows, self.sorted_by = [], [], None
        self._tables = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.references += [attributes[name] for name in ("src", "href", "srcset") if name in attributes]
        self._tables += tag == "table"
        if self._tables == REGRET_TABLE and tag == "tr":
            self.rows.append([])
        elif self._tables == REGRET_TABLE and tag == "td":
            self.rows[-1].append("")
        elif self._tables == REGRET_TABLE and attributes.get("aria-sort", "none") != "none":
            self.sorted_by = attributes["aria-sort"]

    def handle_data(self, data):
        if self._tables == REGRET_TABLE and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


def test_html_is_one_file(tmp_path):
    write_comparison_report(write_runs(tmp_path, whole_grid()), "make <it>")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "make &lt;it&gt;" in text
    references = Page(text).references
    assert sum(reference.startswith("data:image/svg+xml;base64,") for reference in references) == 6
    assert all(reference.startswith(("data:", "#")) for reference in references)
    assert not re.search(r"https?:|@import|url\(", text)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.parametrize(
    ("column", "clicks", "expected", "order"),
    [
        (1, 1, ["high", "adaptive", "low"], "ascending"),
        (1, 2, ["low", "adaptive", "high"], "descending"),
        (0, 1, ["adaptive", "high", "low"], "ascending"),
        (6, 2, ["adaptive"], "descending"),  # the others have no sweep cost, and come last
    ],
)
@pytest.mark.usefixtures("drawn")
def test_a_click_on_a_header_sorts(tmp_path, column, clicks, expected, order):
    # As text, +12 comes before +2, and 0 before both.
    runs = [made_up_run(*cell) for cell in (("low", 0, 0.6), ("high", 0, 0.72), ("adaptive", 0, 0.7))]
    write_comparison_report(write_runs(tmp_path, runs), "make it")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    regret = f'document.querySelectorAll("table")[{REGRET_TABLE - 1}]'
    click = f'{regret}.querySelectorAll("th button")[{column}].click();'
    # Out of order, so that each order is the click's own.
    shuffle = f"const body = {regret}.tBodies[0]; body.append(body.rows[0]);"
    clicked = tmp_path / "clicked.html"
    clicked.write_text(page.replace("</body>", f"<script>{shuffle}{click * clicks}</script></body>"), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", *OFFLINE]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom"]
    dumped = subprocess.run([*command, clicked.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    found = Page(dumped.stdout)
    assert [cells[0] for cells in found.rows if cells][: len(expected)] == expected
    assert found.sorted_by == order


LARGE = ("compare", "compare_trust", "compare_variants")  # reports that take longest
COMMITTED = [
    pytest.param(file, id=file.parent.name, marks=[pytest.mark.slow] * (file.parent.name in LARGE))
    for file in sorted(BENCHMARKS.glob("compare*/results.jsonl"))
]


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("committed", COMMITTED)
def test_a_committed_report_is_what_its_runs_say(tmp_path, committed):
    shutil.copy(committed, tmp_path)
    report = committed.with_name("report.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^Written by: (.*)$", report, re.MULTILINE)
    assert write_comparison_report(tmp_path, command) == report
    pages = [(folder / "report.html").read_text(encoding="utf-8") for folder in (tmp_path, committed.parent)]
    assert without_pictures(pages[0]) == without_pictures(pages[1])


def test_there_are_committed_comparisons():
    assert COMMITTED


def without_pictures(page):
    return re.sub(r"data:image/svg\+xml;base64,[^\"]*", "", page)


def test_a_report_of_no_run_at_all_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"output_dir='.*none' has no run yet: start the comparison without --report"):
        write_comparison_report(tmp_path / "none", "make it")
