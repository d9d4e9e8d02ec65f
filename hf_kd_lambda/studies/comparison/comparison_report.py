"""What a comparison leaves to read: report.md, report.html, which is one file, and the figures of both."""

import base64
import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from hf_kd_lambda.studies.comparison import comparison_figures as figures
from hf_kd_lambda.studies.comparison import merit
from hf_kd_lambda.studies.comparison.merit import Group
from hf_kd_lambda.studies.comparison.run_results import FILE, Run, finished, is_fixed, read_runs
from hf_kd_lambda.studies.comparison.tables import (
    TUNED,
    Entry,
    Table,
    failed_table,
    group_table,
    mean,
    pooled_table,
    regret_table,
    rules_table,
    settings_table,
)

FIGURES = "figures"
REGRET = (
    "Regret is what a rule loses to a sweep: the best mean score of the fixed rules in a task and regime less its "
    "own, in points, over the seeds that both have. Below 0 it beats every fixed weight; of a fixed rule it is what "
    "whoever guesses that one loses. The best of several noisy means is biased upwards, so that the regret of the "
    "other rules is overstated rather than understated.",
    "In brackets: the 95 % bootstrap interval of the mean over tasks and regimes. Sweep cost: the seconds of all "
    "fixed runs of a seed over those of one run of the rule. In bold: the rules that are not part of the sweep.",
)
POOLED = (
    "The column's score less the row's, in points, at the seeds at which both ran: the mean over tasks and regimes, "
    "with its 95 % bootstrap interval over these, which few leave too narrow, and their number.",
    f"The row “{TUNED}” is what tuning by a sweep is worth to another run: for each seed of a task and regime, the "
    "fixed rule whose mean score is highest at the others. Unlike ★ and regret, it has no luck of that seed.",
)
BY_TASK = (
    "Scores are means ± standard deviations over seeds, in points. ★: the best fixed rule; Δ: the mean paired "
    "difference to it, with its 95 % bootstrap interval, which few seeds leave too narrow, and the number of pairs. "
    "λ: the geometric mean of what is above 0. Conflict: the share of measurements at which the gradients pointed "
    "against each other. To 99 %: the median over seeds until an evaluation reaches 99 % of the mean score of ★, and "
    "beside it the ratio to what ★ itself takes.",
)


class Section(NamedTuple):
    """A part of the page, shown in the order of its fields."""

    title: str
    notes: Sequence[str] = ()
    table: Table | None = None
    pictures: Sequence[tuple[str, str]] = ()
    """File in the folder of figures, without suffix, and what it shows."""
    sections: Sequence["Section"] = ()
    folded: bool = False


def write_comparison_report(folder: Path, command: str) -> str:
    """Write report.md, report.html and figures/ beside the runs of a comparison, whether it is whole or not.

    Args:
        folder: with results.jsonl; what an earlier report wrote there is overwritten.
        command: that made the runs.

    Returns:
        The Markdown page.

    Raises:
        ValueError: a line of results.jsonl is no run.
    """
    runs = read_runs(folder / FILE)
    page = Section("Rules for λ against fixed weights", _head(runs, command), sections=_sections(runs, folder))
    markdown = "\n\n".join(_markdown(page)) + "\n"
    (folder / "report.md").write_text(markdown, encoding="utf-8")
    (folder / "report.html").write_text(_html(page, folder), encoding="utf-8")
    return markdown


def _head(runs: Sequence[Run], command: str) -> list[str]:
    groups = merit.groups(runs)
    names = {
        "tasks": _listed(group.task for group in groups),
        "regimes": _listed(group.regime for group in groups),
        "rules": _listed(merit.rules(runs)),
        "seeds": _listed(str(seed) for seed in sorted({run.seed for run in runs})),
    }
    failed = len(runs) - len(finished(runs))
    versions = _listed(sorted({f"{name} {version}" for run in runs for name, version in run.versions.items()}))
    return [
        f"Written by: {command}",
        f"{len(runs)} runs, of which {failed} failed. "
        + " ".join(f"{kind.capitalize()}: {listed}." for kind, listed in names.items()),
        f"Hardware: {_listed(run.hardware for run in runs)}. Versions: {versions}. "
        f"Commit: {_listed(run.commit or 'none' for run in runs)}.",
    ]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _sections(runs: Sequence[Run], folder: Path) -> list[Section]:
    drawn = folder / FIGURES
    tasks = dict.fromkeys(group.task for group in merit.groups(runs))
    sections = [_regret(runs, drawn)]
    if not all(map(is_fixed, runs)):
        sections.append(Section("Against each fixed weight", POOLED, pooled_table(runs)))
    sections.append(Section("By task and regime", BY_TASK, sections=[_task(runs, task, drawn) for task in tasks]))
    if figures.measuring(runs):
        figures.plot_heat_map(runs, drawn / "lambda_heat_map")
        shown = "λ over the optimizer steps, a row for each run of a rule that measures gradients"
        sections.append(Section("λ of all runs that measure", pictures=[("lambda_heat_map", shown)]))
    if len(finished(runs)) < len(runs):
        sections.append(Section("Failed runs", ["They count nowhere."], failed_table(runs)))
    sections.append(Section("Settings of the rules", table=rules_table(runs), folded=True))
    sections.append(Section("Settings common to all runs", table=settings_table(runs), folded=True))
    return sections


def _regret(runs: Sequence[Run], drawn: Path) -> Section:
    groups = merit.groups(runs)
    unswept = [str(group) for group in groups if not merit.fixed_sweep(runs, group)]
    uneven = [str(group) for group in groups if merit.is_uneven(runs, group)]
    notes = [*REGRET]
    notes += [f"Without a whole sweep at any seed, and so without a regret: {'; '.join(unswept)}."] if unswept else []
    notes += [f"Seeds differ between the rules in: {'; '.join(uneven)}."] if uneven else []
    pictures = []
    if len(unswept) < len(groups):
        figures.plot_regret(runs, drawn / "regret")
        pictures = [("regret", "The regret of each rule in each task and regime, and its mean")]
    return Section("Regret and sweep cost", notes, regret_table(runs), pictures)


def _task(runs: Sequence[Run], task: str, drawn: Path) -> Section:
    slug = re.sub(r"[^\w-]+", "_", task)
    pictures = []
    if any(run.task == task for run in finished(runs)):
        figures.plot_scores(runs, task, drawn / f"scores_{slug}")
        figures.plot_lambda_by_rule(runs, task, drawn / f"lambda_{slug}")
        pictures = [
            (f"scores_{slug}", f"{task}: score over the optimizer steps, the mean over seeds"),
            (f"lambda_{slug}", f"{task}: λ over the optimizer steps, the geometric mean over seeds"),
        ]
    groups = [group for group in merit.groups(runs) if group.task == task]
    return Section(task, pictures=pictures, sections=[_group(runs, group) for group in groups])


def _group(runs: Sequence[Run], group: Group) -> Section:
    teacher = mean(run.teacher_score for run in runs if merit.group_of(run) == group)
    notes = [] if teacher is None else [f"The teacher scores {100 * teacher:.2f}."]
    if not merit.fixed_sweep(runs, group):
        notes.append("There is no best fixed rule: the whole sweep has not finished at any seed.")
    if merit.is_uneven(runs, group):
        notes.append("Seeds differ between the rules.")
    return Section(str(group), notes, group_table(runs, group))


def _html(page: Section, folder: Path) -> str:
    def embedded(picture: str) -> str:
        svg = (folder / FIGURES / f"{picture}.svg").read_bytes()
        return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"

    environment = Environment(
        loader=PackageLoader("hf_kd_lambda.studies.comparison", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(page=page, embedded=embedded)


def _markdown(section: Section, level: int = 1) -> list[str]:
    """Its blocks, those of its sections among them."""
    title = _escaped(section.title)
    blocks = [f"<details><summary>{title}</summary>" if section.folded else f"{'#' * level} {title}"]
    blocks += map(_escaped, section.notes)
    if section.table and section.table.rows:
        rows = [[_escaped(name) for name in section.table.head], ["---"] * len(section.table.head)]
        rows += [[_cell(entry) for entry in row] for row in section.table.rows]
        blocks.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    blocks += [f"![{_escaped(shown)}]({FIGURES}/{picture}.png)" for picture, shown in section.pictures]
    for part in section.sections:
        blocks += _markdown(part, level + 1)
    return [*blocks, "</details>"] if section.folded else blocks


def _cell(entry: Entry) -> str:
    return f"**{_escaped(entry.text)}**" if entry.strong else _escaped(entry.text)


def _escaped(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")
