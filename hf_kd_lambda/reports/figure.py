"""The figure of a run: λ, its limits and the quantities it was computed from, over the optimizer steps."""

import math
import re
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

from hf_kd_lambda.reports.summary import what_has_a_lambda
from hf_kd_lambda.utils.log_keys import LIMITS, teacher_keys

SMOOTH_ABOVE = 50  # logged points; fewer are drawn without smoothing
LEGEND_SPACING = {"frameon": False, "borderpad": 0.2, "borderaxespad": 0.3, "columnspacing": 1.5, "handlelength": 1.6}
MOST_ROW_NAMES = 28  # in the heat map; with more layers only every second or third is labelled


class Line(NamedTuple):
    """A line of the figure, or an area of a stack: its log key and its style."""

    key: str
    label: str
    color: str = "black"
    style: str = "-"


Entries = list[dict[str, float]]

# The colour-blind-safe palette of Okabe and Ito (2008): the task is blue and distillation vermilion in every panel.
TASK_COLOR, KD_COLOR, LAMBDA_COLOR, COSINE_COLOR = "#0072B2", "#D55E00", "#009E73", "#8F4E7D"
LIMIT_COLORS = {
    "clipped": "#CC79A7",
    "slowed": "#56B4E9",
    "floor": "#0072B2",
    "ceiling": "#E69F00",
    "held": "#F0E442",
    "skipped": "#000000",
    "free": "#E8E8E8",
}
"""From the bottom to the top of the stack."""
LIMITED_BY, BY_LAYER, RELIABILITY = "what limited λ", "λ by layer", "reliability"
TEACHER_STYLES = ("--", ":", "-.")
PANELS = {
    "λ": [Line("lambda", "λ", LAMBDA_COLOR)],
    LIMITED_BY: [Line(LIMITS[name].key, LIMITS[name].words, color) for name, color in LIMIT_COLORS.items()],
    BY_LAYER: [],  # filled with the logged layers or KD losses
    "loss": [Line("task_loss", "task loss", TASK_COLOR), Line("kd_loss", "KD loss", KD_COLOR)],
    "gradient norm": [
        Line("grad_norm_task", "task gradient", TASK_COLOR),
        Line("grad_norm_kd", "KD gradient", KD_COLOR),
    ],
    "cosine": [Line("grad_cosine", "cosine of the two gradients", COSINE_COLOR)],
    "signal / noise": [
        Line("snr_task", "of the task gradient", TASK_COLOR),
        Line("snr_kd", "of the KD gradient", KD_COLOR),
    ],
    "smoothness": [
        Line("smoothness_task", "s of the task loss", TASK_COLOR),
        Line("smoothness_kd", "s of the KD loss", KD_COLOR),
    ],
    "odds": [Line("odds", "teacher against label: above 1 the student agrees with the teacher", LAMBDA_COLOR)],
    RELIABILITY: [  # and each of several teachers
        Line("label_reliability", "α of the labels", TASK_COLOR),
        Line("teacher_reliability", "β of the teacher", KD_COLOR),
    ],
}
CONFLICT = Line("lambda_conflict", "losses in conflict")
LOG_SCALED = ("λ", BY_LAYER, "gradient norm", "signal / noise", "smoothness", "odds")


def plot_lambda(log_history: Entries, path: Path, title: str = "How λ balanced both losses") -> Path:
    """Draw λ, its limits and the quantities it was computed from over the optimizer steps of a run.

    Panels without logged values are omitted, for example gradients with the rule `fixed`. If λ itself cannot be drawn,
    the title states why.

    Args:
        log_history: the entries of `trainer_state.json`; evaluations are skipped.
        path: the image file to write; its suffix sets the format.
        title: title of the figure.

    Returns:
        `path`.
    """
    entries = [entry for entry in log_history if entry.keys() & {"lambda", "kd_weight", "task_loss"}]
    known = PANELS | {BY_LAYER: _layers(entries), RELIABILITY: [*PANELS[RELIABILITY], *_teachers(entries)]}
    logged = {name: [line for line in lines if _is_seen(entries, line, name)] for name, lines in known.items()}
    panels = {name: lines for name, lines in logged.items() if lines}
    heights = [_height(name, lines) for name, lines in panels.items()]
    missing = _why_without_lambda(entries)
    figure = Figure(figsize=(8, 0.6 + 0.2 * bool(missing) + max(sum(heights), 1.85)), dpi=150, layout="constrained")
    figure.suptitle(f"{title}\n{missing}" if missing else title, fontsize=13, fontweight="bold")
    if panels:
        rows = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (name, lines) in zip(rows, panels.items(), strict=True):
            _draw_panel(axes, name, lines, entries)
        smoothed = "\nfaint: logged values, strong: moving average" if len(entries) > SMOOTH_ABOVE else ""
        axes.set_xlabel("optimizer step" + smoothed)
        figure.align_ylabels([axes for axes in rows if axes.get_ylabel()])
    figure.savefig(path)
    return path


def _why_without_lambda(entries: Entries) -> str:
    """Why λ is not in the figure; empty if it is."""
    if not entries:
        return "No step was logged: lower logging_steps."
    values = [entry["lambda"] for entry in entries if math.isfinite(entry.get("lambda", math.nan))]
    if not values:
        return "λ is not shown: no finite λ was logged."
    return "" if any(value > 0 for value in values) else "λ is not shown: it was 0 at every logged step."


def _layers(entries: Entries) -> list[Line]:
    """What was logged as `lambda/<name>`: layers from the embeddings to the head, or KD losses."""

    def depth(line: Line) -> tuple[int, list[int], str]:
        numbers = [int(digits) for digits in re.findall(r"\d+", line.label)]
        return (0 if "embed" in line.label else 1 if numbers else 2), numbers, line.label

    keys = {key for entry in entries for key in entry if key.startswith("lambda/")}
    return sorted((Line(key, key.removeprefix("lambda/")) for key in keys), key=depth)


def _teachers(entries: Entries) -> list[Line]:
    """Each of several teachers, in their order, in a style of its own."""
    keys = teacher_keys(entries)
    return [
        Line(key, f"β of teacher {index}", KD_COLOR, style)
        for index, (key, style) in enumerate(zip(keys, cycle(TEACHER_STYLES), strict=False), 1)
    ]


def _height(name: str, lines: list[Line]) -> float:
    """Height of a panel in inches."""
    if name == BY_LAYER:
        return 0.65 + 0.14 * np.clip(len(lines), 4, MOST_ROW_NAMES)
    return 1.1 + 0.17 * np.ceil((len(lines) + 1) / 3) if name == LIMITED_BY else 1.85


def _is_seen(entries: Entries, line: Line, panel: str) -> bool:
    _, values = _points(entries, line, panel)
    return bool(values.size and (panel != LIMITED_BY or np.nanmax(values) > 0))


def _points(entries: Entries, line: Line, panel: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of `line`; NaN for values that cannot be drawn, and both empty if none can."""
    logged = [(entry["step"], entry[line.key]) for entry in entries if line.key in entry]
    steps, values = np.array(logged, dtype=float).reshape(-1, 2).T
    values = _drawable(values, panel)
    return (steps, values) if np.isfinite(values).any() else (steps[:0], values[:0])


def _columns(entries: Entries, lines: list[Line], panel: str) -> tuple[np.ndarray, np.ndarray]:
    """Edges `[logs + 1]` of the step intervals that the logs cover, and values `[lines, logs]`."""
    logged = [entry for entry in entries if any(line.key in entry for line in lines)]
    first = max((entry["step"] for entry in entries if entry["step"] < logged[0]["step"]), default=0)
    values = np.array([[entry.get(line.key, np.nan) for entry in logged] for line in lines], dtype=float)
    values = _drawable(values, panel)
    if len(logged) > SMOOTH_ABOVE:
        values = np.array([_smooth(row, panel) for row in values])
    return np.array([first, *(entry["step"] for entry in logged)]), values


def _drawable(values: np.ndarray, panel: str) -> np.ndarray:
    return np.where(np.isfinite(values) & ((values > 0) | (panel not in LOG_SCALED)), values, np.nan)


def _smooth(values: np.ndarray, panel: str) -> np.ndarray:
    return np.exp(moving_average(np.log(values))) if panel in LOG_SCALED else moving_average(values)


def _draw_panel(axes: Axes, name: str, lines: list[Line], entries: Entries) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.015)
    axes.locator_params(axis="x", integer=True)
    if name == BY_LAYER:
        _draw_heat_map(axes, lines, entries)
        return  # has a title and a colour bar instead of label and legend
    if name == LIMITED_BY:
        _draw_shares(axes, lines, entries)
    else:
        _draw_lines(axes, name, lines, entries)
    axes.set_ylabel(name)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=9, **LEGEND_SPACING)


def _draw_lines(axes: Axes, name: str, lines: list[Line], entries: Entries) -> None:
    for line in lines:
        steps, values = _points(entries, line, name)
        if len(steps) > SMOOTH_ABOVE:
            axes.plot(steps, values, color=line.color, linewidth=0.7, alpha=0.3)
            values = _smooth(values, name)
        marker = "" if len(steps) > SMOOTH_ABOVE else "."
        axes.plot(steps, values, line.style, color=line.color, linewidth=1.8, marker=marker, label=line.label)
    if name in LOG_SCALED:
        axes.set_yscale("log")
        set_log_ticks(axes.yaxis, *axes.get_ylim())
    if name == "cosine":
        _mark_conflict(axes)
    if name == "odds":
        axes.axhline(1, color="black", linewidth=0.8)
    axes.grid(alpha=0.25)


def set_log_ticks(axis: Axis, low: float, high: float) -> None:
    """Label a logarithmic axis with plain numbers, some of them whatever its range.

    Args:
        axis: axis with the range.
        low, high: its ends.
    """
    # Only decades if the range has several; a narrower range would have one tick or none.
    subs = (1,) if high / low > 100 else (1, 2, 5) if high / low > 10 else (1, 1.5, 2, 3, 5, 7)
    axis.set_major_locator(LogLocator(subs=subs) if high / low > 3 else MaxNLocator(4))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def _mark_conflict(axes: Axes) -> None:
    axes.axhline(0, color="black", linewidth=0.8)
    low, high = axes.get_ylim()
    low = min(low, -0.3 * high)  # space for the mark even if no step was in conflict
    axes.axhspan(low, 0, color="black", alpha=0.08, linewidth=0, label="conflict: a step along one raises the other")
    axes.set_ylim(low, high)


def _draw_shares(axes: Axes, lines: list[Line], entries: Entries) -> None:
    """Stack the shares of the limits of λ over the step intervals, with a line for the share in conflict."""
    edges, shares = _columns(entries, [*lines, CONFLICT], LIMITED_BY)
    shares = np.column_stack([shares[:, :1], shares])  # the first column starts at the first edge
    labels, colors = [line.label for line in lines], [line.color for line in lines]
    axes.stackplot(edges, np.nan_to_num(shares[:-1]), labels=labels, colors=colors, step="pre", linewidth=0)
    (conflict,) = axes.plot(edges, shares[-1], color=CONFLICT.color, label=CONFLICT.label, drawstyle="steps-pre")
    conflict.set(path_effects=[withStroke(linewidth=3.5, foreground="white")], clip_on=False)
    axes.set(ylim=(0, 1), yticks=(0, 0.5, 1))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _draw_heat_map(axes: Axes, layers: list[Line], entries: Entries) -> None:
    """Draw λ per layer or KD loss as colours, one row for each, over the step intervals."""
    edges, values = _columns(entries, layers, BY_LAYER)
    low, high = np.nanmin(values) / 1.01, np.nanmax(values) * 1.01  # not empty even if λ never changes
    mesh = axes.pcolormesh(edges, np.arange(len(layers) + 1), values, norm=LogNorm(low, high), cmap="viridis")
    stride = -(-len(layers) // MOST_ROW_NAMES)
    names = [layer.label for layer in layers]
    axes.set_yticks(np.arange(0.5, len(layers))[::stride], names[::stride], fontsize=8)
    axes.invert_yaxis()
    axes.set_title(f"λ by {what_has_a_lambda(names)}", loc="left", fontsize=10, y=1)
    # The colour bar lies inside the panel's width, so all panels share the step axis.
    thickness = 0.08 / (_height(BY_LAYER, layers) - 0.65)
    place = axes.inset_axes((0.5, 1 + thickness / 2, 0.5, thickness))
    bar = axes.figure.colorbar(mesh, cax=place, orientation="horizontal")
    bar.ax.xaxis.set_ticks_position("top")
    set_log_ticks(bar.ax.xaxis, low, high)


def moving_average(values: np.ndarray) -> np.ndarray:
    """Centred moving average over a twentieth of the values, without NaN values."""
    kernel = np.ones(2 * (len(values) // 40) + 1)
    finite = np.isfinite(values)
    count = np.convolve(finite, kernel, mode="same")
    total = np.convolve(np.where(finite, values, 0.0), kernel, mode="same")
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0.5)
