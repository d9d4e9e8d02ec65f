"""The report of a comparison: report.md, report.html (self-contained), and their figures."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, count
from pathlib import Path

from hf_kd_lambda.reports.page import Picture, Section, as_html, as_markdown
from hf_kd_lambda.studies.comparison import comparison_figures as figures
from hf_kd_lambda.studies.comparison import merit
from hf_kd_lambda.studies.comparison.merit import Group
from hf_kd_lambda.studies.comparison.run_results import FILE, Run, finished, is_fixed, read_runs
from hf_kd_lambda.studies.comparison.same_settings import by_precision, check_comparable
from hf_kd_lambda.studies.comparison.tables import (
    TUNED,
    failed_table,
    group_table,
    named_groups,
    noise_table,
    pooled_table,
    regret_table,
    rules_table,
    scores_table,
    settings_table,
    undecided,
    weak_teachers,
)

FIGURES = "figures"
SCORES = (
    "Mean scores over seeds, in points, with their 95% bootstrap interval over seeds, which is too narrow for few of "
    "them: with two or three it goes from the lowest score to the highest. Bold: the highest of a column.",
)
NOISE = (
    "Other test examples would give other scores, whatever the seeds. Standard error of a score: its standard "
    "deviation over resampled test examples; – where it was not recorded. Within noise: at most two standard errors "
    "(of seeds and examples together, the larger of both rules) below the highest score. More test examples or seeds "
    "make it smaller.",
)
REGRET = (
    "Regret: the best mean score of the fixed weights in a task and regime minus the mean score of the rule, in "
    "points, over the seeds that both have. A negative regret means that the rule beats every fixed weight. The "
    "regret of a fixed weight is the loss from choosing it without a sweep. The best of several noisy means is biased "
    "upwards, so the regret of the other rules is rather too high than too low.",
    "In brackets: the 95% bootstrap interval of the mean over tasks and regimes. Sweep cost: the seconds of all runs "
    "with fixed weights divided by those of one run of the rule, mean over pairs of the same seed, hardware and "
    "precision.",
)
POOLED = (
    "The column's score minus the row's, in points, over the seeds that both have: the mean over tasks and regimes, "
    "its 95% bootstrap interval, which is too narrow for few of them, and their number.",
    f"The row “{TUNED}” shows the benefit of tuning for a new run: for each seed of a task and regime, it is the "
    "fixed weight with the highest mean score at the other seeds. Unlike ★ and regret, it is not chosen on the seed "
    "that is compared.",
)
BY_TASK = (
    "Scores are means ± standard deviations over seeds, in points. ★: the best fixed weight; Δ: the mean paired "
    "difference to it, its 95% bootstrap interval, which is too narrow for few seeds, and the number of pairs. "
    "λ: the geometric mean of all values above 0. Conflict: the share of measurements with a negative inner product "
    "of the gradients. To 99%: the median over seeds until an evaluation reaches 99% of the mean score of ★, and "
    "its ratio to that of ★; – for seconds on different hardware or in different precisions.",
)


def write_comparison_report(folder: Path, command: str) -> str:
    """Write report.md, report.html and figures/ next to the runs of a comparison, complete or not.

    Args:
        folder: with results.jsonl; an earlier report is overwritten.
        command: the command of the runs.

    Returns:
        The Markdown page.

    Raises:
        ValueError: no run was started there, a line of results.jsonl is not a run, or see `check_comparable`.
    """
    if not folder.is_dir():
        raise ValueError(f"output_dir={str(folder)!r} has no run yet: start the comparison without --report.")
    runs = read_runs(folder / FILE)
    check_comparable(folder / FILE, runs)
    page = Section("Rules for λ against fixed weights", _head(runs, command), sections=_sections(runs, folder))
    markdown = as_markdown(page, folder)
    (folder / "report.md").write_text(markdown, encoding="utf-8")
    (folder / "report.html").write_text(as_html(page), encoding="utf-8")
    return markdown


def scores_and_files(folder: Path) -> str:
    """What the terminal shows of a comparison: its scores, and where the report is.

    Args:
        folder: with results.jsonl and the report.
    """
    runs = read_runs(folder / FILE)
    scores = as_markdown(_scores(runs), folder) if finished(runs) else "No run has finished.\n"
    return f"\n{scores}\nreport: {folder / 'report.html'}\nas Markdown: {folder / 'report.md'}"


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
        f"{len(runs)} runs, {failed} failed. "
        + " ".join(f"{kind.capitalize()}: {listed}." for kind, listed in names.items()),
        f"Hardware: {_listed(run.hardware for run in runs)}. "
        f"Precision: {_listed(str(run.settings.get('precision', 'unknown')) for run in runs)}. Versions: {versions}. "
        f"Commit: {_listed(run.commit or 'none' for run in runs)}.",
    ]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _sections(runs: Sequence[Run], folder: Path) -> list[Section]:
    drawn = folder / FIGURES
    slugs = _slugs(group.task for group in merit.groups(runs))
    sections = [_scores(runs)] if finished(runs) else []
    sections.append(_regret(runs, drawn))
    if not all(map(is_fixed, runs)):
        sections.append(Section("Against each fixed weight", POOLED, pooled_table(runs)))
    tasks = [_task(runs, task, slug, drawn) for task, slug in slugs.items()]
    sections.append(Section("By task and regime", BY_TASK, sections=tasks))
    if figures.measuring(runs):
        figures.plot_heat_map(runs, drawn / "lambda_heat_map")
        shown = "λ over the optimizer steps, a row for each run of a rule that measures gradients"
        pictures = [Picture(drawn / "lambda_heat_map.svg", shown)]
        sections.append(Section("λ of all runs that measure", pictures=pictures))
    if len(finished(runs)) < len(runs):
        sections.append(Section("Failed runs", ["They are excluded from all results."], failed_table(runs)))
    sections.append(Section("Settings of the rules", table=rules_table(runs), folded=True))
    sections.append(Section("Settings common to all runs", table=settings_table(runs), folded=True))
    return sections


def _scores(runs: Sequence[Run]) -> Section:
    noise = Section("Noise", NOISE, noise_table(runs))
    mixed = [name for name, group in named_groups(runs).items() if len(by_precision(runs, group)) > 1]
    notes = [*SCORES, *weak_teachers(runs), *undecided(runs)]
    notes += [f"Runs differ in precision, as named by task and regime, in: {'; '.join(mixed)}."] if mixed else []
    return Section("Scores", notes, scores_table(runs), sections=[noise])


def _regret(runs: Sequence[Run], drawn: Path) -> Section:
    groups = merit.groups(runs)
    unswept = [str(group) for group in groups if not merit.fixed_sweep(runs, group)]
    uneven = [str(group) for group in groups if merit.is_uneven(runs, group)]
    notes = [*REGRET]
    notes += [f"No regret, because no seed has a complete sweep: {'; '.join(unswept)}."] if unswept else []
    notes += [f"Rules have different seeds in: {'; '.join(uneven)}."] if uneven else []
    pictures = []
    if len(unswept) < len(groups):
        figures.plot_regret(runs, drawn / "regret")
        pictures = [Picture(drawn / "regret.svg", "The regret of each rule in each task and regime, and its mean")]
    return Section("Regret and sweep cost", notes, regret_table(runs), pictures)


def _slugs(tasks: Iterable[str]) -> dict[str, str]:
    """Each task in the names of its figures: without special characters, and numbered if that is taken."""
    slugs: dict[str, str] = {}
    for task in dict.fromkeys(tasks):
        slug = re.sub(r"[^\w-]+", "_", task)
        taken = {"heat_map", *slugs.values()}  # lambda_heat_map shows all tasks
        names = chain([slug], (f"{slug}_{number}" for number in count(2)))
        slugs[task] = next(name for name in names if name not in taken)
    return slugs


def _task(runs: Sequence[Run], task: str, slug: str, drawn: Path) -> Section:
    pictures = []
    if any(run.task == task for run in finished(runs)):
        figures.plot_scores(runs, task, drawn / f"scores_{slug}")
        figures.plot_lambda_by_rule(runs, task, drawn / f"lambda_{slug}")
        pictures = [
            Picture(drawn / f"scores_{slug}.svg", f"{task}: score over the optimizer steps, the mean over seeds"),
            Picture(drawn / f"lambda_{slug}.svg", f"{task}: λ over the optimizer steps, geometric mean over seeds"),
        ]
    groups = [group for group in merit.groups(runs) if group.task == task]
    return Section(task, pictures=pictures, sections=[_group(runs, group) for group in groups])


def _group(runs: Sequence[Run], group: Group) -> Section:
    ours = [run.teacher_score for run in runs if merit.group_of(run) == group and run.teacher_score is not None]
    teachers = sorted({f"{100 * score:.2f}" for score in ours}, key=float)
    notes = [f"The teacher scores {teachers[0]}."] if len(teachers) == 1 else []
    if len(teachers) > 1:
        notes.append(f"Runs have different teachers, which score {teachers[0]} to {teachers[-1]}.")
    if not merit.fixed_sweep(runs, group):
        notes.append("There is no best fixed weight: no seed has a complete sweep.")
    if merit.is_uneven(runs, group):
        notes.append("Rules have different seeds.")
    if len(found := by_precision(runs, group)) > 1:
        most, *others = found
        listed = ". ".join(f"In {precision}: {_with_seeds(found[precision])}" for precision in others)
        notes.append(f"{listed} (seeds in brackets). In {most}: all other runs.")
    return Section(str(group), notes, group_table(runs, group))


def _with_seeds(rules: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{rule} ({', '.join(map(str, seeds))})" for rule, seeds in rules.items())
