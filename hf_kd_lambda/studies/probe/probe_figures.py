"""Figures of the probe."""

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_kd_lambda.balancing.rules import feasible_interval
from hf_kd_lambda.reports.figure import KD_COLOR, LAMBDA_COLOR, TASK_COLOR
from hf_kd_lambda.studies.probe.sweep import CURVATURE, R_SQUARED, Sweep
from hf_kd_lambda.studies.probe.updates import gram_of

CHANGES = {"ΔL_task / η": TASK_COLOR, "ΔL_kd / η": KD_COLOR, "Δ(L_task + λ·L_kd) / η": LAMBDA_COLOR}
STAGE_MARKERS = ("o", "x", "+")  # of the first whole decades of the learning rate
STAGE_COLORS = ("#56B4E9", "#0072B2", "#000000", "#E69F00", "#009E73", "#CC79A7")
STYLES = ("-", "-.", "--", ":")  # of the metrics
SMALLEST_DRAWN = 1e-16  # on a logarithmic axis


def plot_parabolas(sweeps: Mapping[str, Sweep], path: Path, title: str, scaled: bool = False) -> Path:
    """Draws measured changes as dots over predicted ones as lines, a row for each stage.

    All are divided by the learning rate, so that to first order the dots of every rate lie on the same line.

    Args:
        sweeps: sweeps of one optimizer, by the stage of the run.
        path: the picture to write, which is also returned.
        title: the line above the panels.
        scaled: whether each prediction gets the factor that fits best at the smallest rate.
    """
    figure = Figure(figsize=(11, 1 + 2.7 * len(sweeps)), dpi=130, layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold")
    rows = figure.subplots(len(sweeps), len(CHANGES), squeeze=False, sharex="row")
    for row, (stage, sweep) in zip(rows, sweeps.items(), strict=True):
        for axes, name in zip(row, CHANGES, strict=True):
            _draw_changes(axes, sweep, name, scaled)
            axes.set_title(f"{stage}: {name}", fontsize=10)
    for axes in rows[-1]:
        axes.set_xlabel("λ")
    figure.legend(*rows[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path)
    return path


def _draw_changes(axes: Axes, sweep: Sweep, name: str, scaled: bool) -> None:
    index = list(CHANGES).index(name)
    low, high = feasible_interval(gram_of(next(iter(sweep.products.values()))))
    high = high.clamp(max=sweep.lambdas[-1].item())
    axes.axvspan(low.item(), high.item(), color="black", alpha=0.07, linewidth=0, label="feasible λ")
    axes.axhline(0, color="black", linewidth=0.6)
    for metric, style in zip(sweep.products, STYLES, strict=False):
        line = sweep.predicted(metric, scaled)[0, index] / sweep.learning_rates[0]
        axes.plot(sweep.lambdas, line, style, color=CHANGES[name], label=f"predicted: {metric}")
    limits = axes.get_ylim()
    for place, marker in zip(_decades(sweep), STAGE_MARKERS, strict=False):
        rate = sweep.learning_rates[place]
        looks: dict[str, Any] = {"color": "black", "markersize": 4, "fillstyle": "none"}
        label = f"measured, η = {rate:.0e}"
        axes.plot(sweep.lambdas, sweep.changes[place, index] / rate, marker, label=label, **looks)
    axes.set_ylim(*limits)  # cuts off dots far from the predictions
    _clean(axes)


def _decades(sweep: Sweep) -> list[int]:
    return [place for place, rate in enumerate(sweep.learning_rates) if f"{rate:.2e}".startswith("1.00")]


def plot_errors(sgd: Mapping[str, Sweep], adamw: Mapping[str, Sweep], path: Path, title: str) -> Path:
    """Draws errors of fit and predictions over the learning rate.

    Args:
        sgd: by the stage of the run.
        adamw: likewise; its predictions get the factors that fit best.
        path: the picture to write, which is also returned.
        title: the line above the panels.
    """
    figure = Figure(figsize=(11, 10), dpi=130, layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold")
    panels = figure.subplots(3, 2, sharex="col", sharey="row")
    _draw_errors(panels[:, 0], sgd, scaled=False)
    _draw_errors(panels[:, 1], adamw, scaled=True)
    for axes, optimizer in zip(panels[0], ("SGD", "AdamW"), strict=True):
        axes.set_title(optimizer)
    for axes, label in zip(
        panels[:, 0], ("1 − R² of the parabola", "error of its λ² term", "error of ΔL"), strict=True
    ):
        axes.set_ylabel(label)
    for axes in panels[-1]:
        axes.set_xlabel("learning rate η")
    figure.savefig(path)
    return path


def _draw_errors(panels: list[Axes], sweeps: Mapping[str, Sweep], scaled: bool) -> None:
    fit, curvature, change = panels
    last = list(sweeps)[-1]
    for (stage, sweep), color in zip(sweeps.items(), cycle(STAGE_COLORS), strict=False):
        rates = sweep.learning_rates
        misfit = (1 - sweep.fit().r_squared[:, 2]).clamp(min=SMALLEST_DRAWN)
        fit.plot(rates, misfit, color=color, marker=".", label=stage)
        for metric, style in zip(sweep.products, STYLES, strict=False):
            looks: dict[str, Any] = {"color": color, "linestyle": style, "marker": "."}
            looks["label"] = metric if stage == last else None
            curvature.plot(rates, sweep.coefficient_errors(metric, scaled)[:, 2], **looks)
            change.plot(rates, sweep.change_errors(metric, scaled), **looks)
    for axes, target in ((fit, 1 - R_SQUARED), (curvature, CURVATURE)):
        axes.axhline(target, color="black", linewidth=0.8, linestyle=(0, (1, 3)))
    for axes in panels:
        axes.set(xscale="log", yscale="log")
        axes.legend(fontsize=8, frameon=False, handlelength=3)
        _clean(axes)


def _clean(axes: Axes) -> None:
    axes.margins(x=0.02)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
