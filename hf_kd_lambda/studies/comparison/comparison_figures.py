"""Figures of a comparison, each written as PNG and as SVG, the same bytes for the same runs."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hf_kd_lambda.reports.figure import (
    COSINE_COLOR,
    KD_COLOR,
    LAMBDA_COLOR,
    SMOOTH_ABOVE,
    moving_average,
    set_log_ticks,
)
from hf_kd_lambda.studies.comparison import merit
from hf_kd_lambda.studies.comparison.run_results import Run, finished

# Fixed weights are blue, darker for a higher λ; the other rules have the other colours of Okabe and Ito, and markers.
SWEEP, SWEEP_STYLES = matplotlib.colormaps["Blues"], ("-", (0, (5, 1.5)), (0, (1, 1)))
OURS = (KD_COLOR, LAMBDA_COLOR, "#E69F00", "#000000", COSINE_COLOR, "#56B4E9")
RULE_MARKERS = ("o", "s", "^", "D", "v", "P")
# Without the brightest end: in dark mode the picture is inverted, and such cells would look empty.
LAMBDAS = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0, 0.88, 256)))
COLUMNS = 3  # of panels
MEAN: dict[str, Any] = {"label": "mean", "color": "black", "marker": "|", "linestyle": "", "zorder": 1}
MEAN |= {"markersize": 19, "markeredgewidth": 2.5}
MEASURED = ("grad_cosine", "lambda_conflict", "grad_norm_task")  # keys that only measuring rules log


def plot_regret(runs: Sequence[Run], path: Path) -> None:
    """Draws the regret of each rule in each group as dots, with its mean, the rule with the least regret on top.

    Rules that were run in fewer groups than others say in how many, as their means cannot be compared. Those that were
    run in fewer than half of them come last.

    Args:
        runs: with at least one complete sweep.
        path: the pictures to write, without suffix.
    """
    regrets = {rule: merit.regrets(runs, rule) for rule in merit.rules(runs)}
    means = {rule: np.mean([regret.points for regret in found.values()]) for rule, found in regrets.items() if found}
    groups = {rule: len(regrets[rule]) for rule in means}
    most = max(groups.values())
    order = sorted(means, key=lambda rule: (2 * groups[rule] < most, means[rule]))
    shown = {group.task for found in regrets.values() for group in found}
    tasks = [task for task in _tasks(runs) if task in shown]
    dots: dict[str, dict[str, Any]] = {
        task: {"label": task, "color": color, "marker": marker, "markersize": 4, "linestyle": "", "alpha": 0.75}
        for task, color, marker in zip(tasks, cycle(OURS), cycle(RULE_MARKERS), strict=False)
    }
    figure = Figure(figsize=(9, 1.5 + 0.36 * len(order)), dpi=130, layout="constrained")
    axes = figure.subplots()
    for row, rule in enumerate(order):
        for place, (task, look) in enumerate(dots.items()):
            values = [regret.points for group, regret in regrets[rule].items() if group.task == task]
            height = row + 0.5 * ((place + 0.5) / len(dots) - 0.5)  # so that tasks do not hide each other
            axes.plot(values, [height] * len(values), **look)
        axes.plot([means[rule]], [row], **MEAN)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xscale("symlog", linthresh=1, linscale=1)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="regret, in points: left of 0 is better than every fixed weight")
    _set_ticks(axes)
    names = [rule if groups[rule] == most else f"{rule} ({groups[rule]} of {most})" for rule in order]
    axes.set_yticks(range(len(order)), names)
    axes.set_ylim(len(order) - 0.4, -0.75)  # with room for the bar of the first row
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    handles = [Line2D([], [], **look) for look in (MEAN, *dots.values())]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(5, len(handles)), frameon=False)
    _save(figure, path)


def _set_ticks(axes: Axes) -> None:
    low, high = axes.get_xlim()
    steps = [sign * step * 10.0**power for power in range(4) for step in (1, 2, 5) for sign in (-1, 1)]
    axes.set_xticks([step for step in (-0.5, 0, 0.5, *steps) if low <= step <= high])


def plot_scores(runs: Sequence[Run], task: str, path: Path) -> None:
    """Draws the score over the optimizer steps, a panel for each regime and in it a line for each rule.

    Args:
        runs: runs, at least one of the task finished; those of other tasks are ignored.
        task: the one to draw.
        path: the pictures to write, without suffix.
    """
    _plot_curves(runs, task, path, _mean_score, "score in points")


def plot_lambda_by_rule(runs: Sequence[Run], task: str, path: Path) -> None:
    """Draws λ over the optimizer steps, in the panels and colours of the scores; a λ of 0 is left out.

    Args:
        runs: runs, at least one of the task finished; those of other tasks are ignored.
        task: the one to draw.
        path: the pictures to write, without suffix.
    """
    _plot_curves(runs, task, path, _mean_log_lambda, "λ", yscale="log")


CurveOf = tuple[list[float], np.ndarray]


def _plot_curves(
    runs: Sequence[Run], task: str, path: Path, curve: Callable[[Iterable[Run]], CurveOf], title: str, **scale: str
) -> None:
    regimes = [group for group in merit.groups(finished(runs)) if group.task == task]
    columns = min(COLUMNS, len(regimes))
    rows = math.ceil(len(regimes) / columns)
    figure = Figure(figsize=(1 + 3.8 * columns, 1 + 2.9 * rows), dpi=130, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    figure.suptitle(f"{task}: {title}, mean over seeds", fontsize=13, fontweight="bold")
    looks = _looks(runs)
    for axes, group in zip(panels, regimes, strict=False):
        for rule, look in looks.items():
            steps, values = curve(merit.of_rule(runs, group, rule).values())
            if len(steps):
                axes.plot(steps, values, **look, markevery=max(1, len(steps) // 8))
        axes.set(xlabel="optimizer step", **scale)
        axes.set_title(group.regime, fontsize=10)
        axes.locator_params(axis="x", integer=True, nbins=6)
        if scale:
            set_log_ticks(axes.yaxis, *axes.get_ylim())
        axes.margins(x=0.02)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(regimes) :]:
        axes.set_axis_off()
    for axes in panels[::columns]:
        axes.set_ylabel(title)
    handles = [Line2D([], [], label=rule, **look) for rule, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, 2 * columns), frameon=False, fontsize=9)
    _save(figure, path)


def _looks(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """How the line of a rule looks, the same in all figures."""
    fixed = merit.fixed_rules(runs)
    shades = SWEEP(np.linspace(0.45, 1, len(fixed)))
    looks: dict[str, dict[str, Any]] = {
        rule: {"color": shade, "linewidth": 1.4, "linestyle": style}
        for rule, shade, style in zip(fixed, shades, cycle(SWEEP_STYLES), strict=False)
    }
    for place, rule in enumerate(rule for rule in merit.rules(runs) if rule not in fixed):
        looks[rule] = {
            "color": OURS[place % len(OURS)],
            "marker": RULE_MARKERS[place % len(RULE_MARKERS)],
            "markersize": 4,
        }
        looks[rule] |= {"linewidth": 2, "linestyle": ("-", "--", ":")[place // len(OURS) % 3]}
    return looks


def _mean_score(runs: Iterable[Run]) -> CurveOf:
    return _mean([{entry["step"]: 100 * entry["score"] for entry in run.evaluations} for run in runs])


def _mean_log_lambda(runs: Iterable[Run]) -> CurveOf:
    """The geometric mean over seeds, smoothed where it is long."""
    logs = [{entry["step"]: math.log(entry["lambda"]) for entry in run.log if _has_lambda(entry)} for run in runs]
    steps, values = _mean(logs)
    return steps, np.exp(moving_average(values) if len(values) > SMOOTH_ABOVE else values)


def _mean(curves: Sequence[dict[float, float]]) -> CurveOf:
    """The mean at the steps that all curves have."""
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    return steps, np.array([np.mean([curve[step] for curve in curves]) for step in steps])


def _has_lambda(entry: dict[str, float]) -> bool:
    return 0 < entry.get("lambda", 0) < math.inf


def measuring(runs: Iterable[Run]) -> list[Run]:
    """The finished ones that measured gradients and have a λ to show."""
    logs = [(run, [entry for entry in run.log if _has_lambda(entry)]) for run in finished(runs)]
    return [run for run, log in logs if any(key in entry for entry in log for key in MEASURED)]


def plot_heat_map(runs: Sequence[Run], path: Path) -> None:
    """Colours λ over the optimizer steps: a row for each run that measures, a panel for each task.

    Args:
        runs: with at least one that is `measuring`.
        path: the pictures to write, without suffix.
    """
    shown = measuring(runs)
    rules = merit.rules(shown)
    seeds = sorted({run.seed for run in shown})
    bands = [(regime, rule) for regime in dict.fromkeys(run.regime for run in shown) for rule in rules]
    tasks = _tasks(shown)
    lambdas = [entry["lambda"] for run in shown for entry in run.log if _has_lambda(entry)]
    low, high = min(lambdas) / 1.01, max(lambdas) * 1.01  # not empty, even if λ is constant
    norm = LogNorm(low, high)
    band_height = max(0.2, 0.09 * len(seeds))
    figure = Figure(figsize=(3 + 2.4 * len(tasks), 1.4 + band_height * len(bands)), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=True):
        for run in shown:
            if run.task == task:
                _draw_row(axes, run, bands.index((run.regime, run.rule)) * len(seeds) + seeds.index(run.seed), norm)
        for place in range(1, len(bands)):
            axes.axhline(place * len(seeds), color="white", linewidth=0.7 if place % len(rules) else 2.5)
        axes.set_title(task, fontsize=10)
        axes.locator_params(axis="x", integer=True, nbins=4)
    middles = [len(seeds) * (place + 0.5) for place in range(len(bands))]
    panels[0].set_yticks(middles, [f"{regime}: {rule}" for regime, rule in bands], fontsize=8)
    panels[0].set_ylim(len(seeds) * len(bands), 0)
    figure.supxlabel("optimizer step", fontsize=10)
    bar = figure.colorbar(ScalarMappable(norm, LAMBDAS), ax=panels, label="λ", aspect=40, pad=0.01)
    set_log_ticks(bar.ax.yaxis, low, high)
    _save(figure, path)


def _draw_row(axes: Axes, run: Run, row: int, norm: LogNorm) -> None:
    logged = [entry for entry in run.log if _has_lambda(entry)]
    edges, values = [0, *(entry["step"] for entry in logged)], [[entry["lambda"] for entry in logged]]
    # Rasterized in SVG too: thousands of cells would be megabytes of paths.
    axes.pcolormesh(edges, [row, row + 1], values, norm=norm, cmap=LAMBDAS, rasterized=True)


def _tasks(runs: Iterable[Run]) -> list[str]:
    return list(dict.fromkeys(group.task for group in merit.groups(runs)))


def _save(figure: Figure, path: Path) -> None:
    """Writes a PNG and an SVG, without dates or random ids in the latter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_name(f"{path.name}.png"))
    with matplotlib.rc_context({"svg.hashsalt": "hf-kd-lambda"}):
        figure.savefig(path.with_name(f"{path.name}.svg"), metadata={"Date": None})
